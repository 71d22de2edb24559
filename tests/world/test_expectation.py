"""What memory expects of a view: MiniGrid's rule of sight, last sightings, and nothing that is hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Door, Wall

from tests.conftest import random_episode
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.batching import block_causal_batch, full_attention_batch
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.expectation import CELL_IDS, CODES, in_sight
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import ACTION, FIRST_CELL, WorldTokenizer

WORLD = WorldConfig(expectation=True, mission_features=True, start_heading=True)
LEVELS = ("BabyAI-GoToObjMazeS4R2-v0", "BabyAI-UnlockPickup-v0", "BabyAI-PutNextLocal-v0")
_TOKENIZER = WorldTokenizer()


@pytest.fixture(scope="module")
def frames() -> windows.Frames:
    return windows.Frames.from_trajectories([random_episode(level, seed, 60) for seed, level in enumerate(LEVELS * 3)])


def test_the_rule_of_sight_is_minigrids_own() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        view = Grid(grid.VIEW, grid.VIEW)
        clear = np.ones((grid.VIEW, grid.VIEW), bool)
        for column, row in np.ndindex(clear.shape):
            kind = rng.choice(5, p=[0.6, 0.15, 0.08, 0.09, 0.08]) if (column, row) != grid.AGENT_CELL else 0
            view.set(column, row, [None, Wall(), Door("red"), Door("red", is_open=True), Ball()][kind])
            clear[column, row] = kind not in (1, 2)
        np.testing.assert_array_equal(in_sight(clear[None])[0], view.process_vis(grid.AGENT_CELL))


def _forward(frames: windows.Frames) -> tuple[windows.Window, np.ndarray]:
    """All steps of the episodes as two-frame windows, and what is expected (N, 49) of each frame."""
    episode = np.repeat(np.arange(len(frames.lengths)), frames.lengths - 1)
    step = np.concatenate([np.arange(length - 1) for length in frames.lengths])
    window = windows.cut(frames, episode, step, 2, WORLD)
    batch = block_causal_batch(window, masks.only("forward", (len(step), 1)), np.zeros((len(step), 2), bool), WORLD)
    return window, batch.tokens.expected[:, batch.first + FIRST_CELL : batch.first + len(window.ids[0, 0])]


def test_what_is_expected_for_sure_is_seen_unless_the_action_changed_it(frames: windows.Frames) -> None:
    window, code = _forward(frames)
    assert code.min() > 0
    assert code.max() < CODES
    expected, sure = (code - 1) % CELL_IDS + _TOKENIZER.cells.start, code <= CELL_IDS
    true, known = window.ids[:, 1, FIRST_CELL:], expected != _TOKENIZER.masked_cell
    assert (known & sure).mean() > 0.3
    handles = window.ids[:, 1, ACTION] - _TOKENIZER.actions.start >= grid.PICKUP
    wrong = known & sure & (expected != true)
    assert not wrong[~handles].any()
    # what an action changes: the cell in front and the agent's own
    places = [column * grid.VIEW + row for column, row in (grid.FRONT_CELL, grid.AGENT_CELL)]
    assert not np.delete(wrong, places, axis=1).any()


def test_without_a_certain_pose_nothing_is_expected(frames: windows.Frames) -> None:
    window = windows.cut(frames, np.arange(3), np.zeros(3, int), 2, WORLD)
    batch = block_causal_batch(window, masks.only("policy", (3, 1)), np.zeros((3, 2), bool), WORLD)
    assert not batch.tokens.expected.any()
    orphan = windows.cut(frames, np.arange(3), np.full(3, -1), 2, WORLD)
    batch = block_causal_batch(orphan, masks.only("forward", (3, 1)), np.zeros((3, 2), bool), WORLD)
    assert not batch.tokens.expected.any()


@pytest.mark.parametrize("full", [False, True])
def test_what_is_hidden_does_not_leak(frames: windows.Frames, full: bool) -> None:
    rng = np.random.default_rng(1)
    episode, start = np.arange(9) % len(frames.lengths), np.arange(9) * 3
    window = windows.cut(frames, episode, start, 4, WORLD)
    shape = window.valid.shape if full else (9, 3)
    drawn = masks.draw({"cell": 1.0, "attribute": 1.0}, shape, rng)
    build = full_attention_batch if full else block_causal_batch
    before = build(window, drawn, np.zeros((9, 4), bool), WORLD)
    # Other cells where cells are hidden; in a block-causal window only the last frame is not shown again.
    last = slice(0 if full else -1, None)
    other = windows.cut(frames, episode, start, 4, WORLD)
    cells, visible = other.ids[:, last, FIRST_CELL:], drawn.cells[:, last]
    hidden = ~visible.all(-1)
    random = _TOKENIZER.cell_ids(np.where(visible, _TOKENIZER.cell_attributes(cells), 1))
    cells[hidden] = random[hidden]
    assert (other.ids != window.ids).any()
    after = build(other, drawn, np.zeros((9, 4), bool), WORLD)
    np.testing.assert_array_equal(before.tokens.expected, after.tokens.expected)
    np.testing.assert_array_equal(before.tokens.ids, after.tokens.ids)
    assert before.tokens.expected.any()


def test_rollouts_and_windows_expect_the_same(frames: windows.Frames) -> None:
    network = AnyOrderWorldModel.create(
        LLaDA2MoeConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, first_k_dense_replace=1, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
            n_group=1, topk_group=1, initializer_range=0.3,
        ),
        WORLD,
    )  # fmt: skip
    episodes = [random_episode(level, seed, 12) for seed, level in enumerate(LEVELS)]
    histories, actions = [item.prefix(11) for item in episodes], [int(item.actions[11]) for item in episodes]
    state = network.rollout_state(histories).step(actions)
    window = windows.cut(windows.Frames.from_trajectories(episodes), np.arange(3), np.full(3, 11), 2, WORLD)
    window.mission.ids[:, 0] = _TOKENIZER.behaviours.start
    batch = block_causal_batch(window, masks.only("forward", (3, 1)), np.zeros((3, 2), bool), WORLD)
    with torch.inference_mode():
        hidden = network.network(batch.tokens.tensors("cpu"), batch.attention("cpu"))
    first = batch.first + FIRST_CELL
    asked = torch.full((3 * grid.CELLS,), _TOKENIZER.masked_cell)
    logits = network.network.cell_logits(hidden[:, first : first + grid.CELLS].flatten(0, 1), asked)
    best = network.network.completions[logits.argmax(-1)].reshape(3, grid.CELLS).numpy()
    np.testing.assert_array_equal(_TOKENIZER.cell_ids(state.images).reshape(3, grid.CELLS), best)
