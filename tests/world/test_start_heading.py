"""Coordinates that begin with the agent's heading at the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import random_episode
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.batching import Batch, block_causal_batch, full_attention_batch
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.trajectory import Trajectory

WORLD = WorldConfig(start_heading=True)
LEVEL = "BabyAI-PickupLoc-v0"


@pytest.fixture(scope="module")
def episode() -> Trajectory:
    return next(walk for walk in (random_episode(LEVEL, seed, 30) for seed in range(20)) if len(walk) == 30)


def _batch(episode: Trajectory, start: int, world: WorldConfig, *, full: bool = False) -> Batch:
    window = windows.cut(windows.Frames.from_trajectories([episode]), np.array([0]), np.array([start]), 4, world)
    drawn, bot = masks.only("forward", (1, 4 if full else 3)), np.zeros((1, 4), bool)
    return (full_attention_batch if full else block_causal_batch)(window, drawn, bot, world)


@pytest.mark.parametrize("full", [False, True], ids=["block-causal", "full"])
@pytest.mark.parametrize("start", [-1, 0, 20])
def test_coordinates_are_the_same_whichever_way_the_level_is_turned(
    episode: Trajectory, start: int, full: bool
) -> None:
    """A level turned by a quarter gives the same views under other headings: left stays left."""
    found = []
    for turn in range(4):
        turned = replace(episode, directions=(episode.directions + turn) % len(grid.DIRECTIONS))
        tokens = _batch(turned, start, WORLD, full=full).tokens
        found.append(np.stack([tokens.x, tokens.y]) * tokens.valid)
    for other in found[1:]:
        order = [np.lexsort(part[:, 0]) for part in (found[0], other)]  # memory may be recalled in another order
        np.testing.assert_array_equal(found[0][:, 0, order[0]], other[:, 0, order[1]])


def test_without_the_option_coordinates_are_those_of_the_level(episode: Trajectory) -> None:
    turned = replace(episode, directions=(episode.directions + 1) % len(grid.DIRECTIONS))
    plain = replace(WORLD, start_heading=False)
    first, second = (_batch(item, 20, plain).tokens for item in (episode, turned))
    assert (first.x != second.x).any()


def test_it_needs_dead_reckoning() -> None:
    with pytest.raises(ValueError, match="start_heading needs egomotion"):
        WorldConfig(start_heading=True, egomotion=False, memory=0)
