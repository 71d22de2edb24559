"""The objective: its weights make uniformly drawn masks a bound on the likelihood."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import random_episode
from wmtoolkit import Trajectory
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.training.batches import draw_batch
from wmtoolkit.training.config import LossConfig, load_config
from wmtoolkit.training.loop import make_sampler
from wmtoolkit.training.objective import MaskedReconstruction, weigh
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.expectation import NEVER_SEEN
from wmtoolkit.world.likelihood import target_log_probs
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import ACTION, BLOCK, FRONT_SLOT, OWN_SLOT, WorldTokenizer

LIKELIHOOD = LossConfig(action=1, outcome=1, direction=1, outcome_alone=1, other_behaviour=1, likelihood=True)
CAUSAL = ["masking.strategy=cell", "masking.full_share=0", "world.recent=1"]


@pytest.fixture
def network(tiny: dict) -> WorldNetwork:
    torch.manual_seed(0)
    world = WorldConfig()
    return WorldNetwork(WorldNetwork.fitted(LLaDA2MoeConfig(**tiny), world), world).eval()


@pytest.fixture
def frames(episodes: list[Trajectory]) -> windows.Frames:
    return windows.Frames.from_trajectories(episodes)


def test_the_bound_is_the_exact_any_order_average(network: WorldNetwork, frames: windows.Frames) -> None:
    """Three unknown tokens, all else given: every subset and every order can be computed."""
    window = windows.cut(frames, np.array([0]), np.array([0]), 2, network.world)
    unknown = (1, 2, 20)

    def log_probs(hidden: tuple[int, ...]) -> np.ndarray:
        drawn = masks.only("inverse", (1, 1))
        drawn.slots[:], drawn.cells[:] = True, True
        for token in hidden:
            if token < 3:
                drawn.slots[0, 0, token] = False
            else:
                drawn.cells[0, 0, token - 3] = False
        return target_log_probs(network, window, drawn)[0].astype(np.float64)

    subsets = [subset for size in (1, 2, 3) for subset in itertools.combinations(unknown, size)]
    known = {subset: log_probs(subset) for subset in subsets}
    orders = list(itertools.permutations(unknown))
    chains = [sum(known[tuple(sorted(order[place:]))][order[place]] for place in range(3)) for order in orders]
    bound = np.mean(
        [
            np.mean([3 / size * known[subset].sum() for subset in itertools.combinations(unknown, size)])
            for size in (1, 2, 3)
        ]
    )
    assert bound == pytest.approx(np.mean(chains), rel=1e-6)


def test_drawn_masks_and_weights_have_the_bound_as_expectation(frames: windows.Frames) -> None:
    """A world in which a token costs f(k) nats when k tokens of its block are visible: any order costs the sum of f."""
    config = load_config("tiny", CAUSAL)
    sampler = replace(make_sampler(config), batch_size=64)
    cost = np.arange(BLOCK) ** 1.5
    sums = []
    for step in range(300):
        batch = draw_batch(frames, sampler, config.world, 0, step)
        hidden = batch.masks.targets.sum(-1)
        counted = weigh(batch, LIKELIHOOD).blocks.sum(-1) * cost[BLOCK - hidden]
        sums.append(counted[batch.valid])
    values = np.concatenate(sums)
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - cost.sum()) < 4 * error
    assert error < 0.02 * cost.sum()


def test_the_loss_is_the_weighted_sum_of_its_parts(network: WorldNetwork, frames: windows.Frames) -> None:
    config = load_config("tiny")
    sampler = replace(make_sampler(load_config("tiny", CAUSAL)), mixture={"forward": 1.0})
    batch = draw_batch(frames, sampler, replace(config.world, recent=1), 0, 0)
    weights = weigh(batch, LossConfig(action=0, outcome=3, direction=5, cell=7, outcome_alone=1))
    with torch.no_grad():
        total, parts = MaskedReconstruction(network)(batch, weights)
    assert set(parts) == {"outcome", "direction", "cell"}
    expected = sum(float(parts[name][0]) * weight for name, weight in (("outcome", 3), ("direction", 5), ("cell", 7)))
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_what_an_action_changed_or_could_have_weighs_more() -> None:
    frames = windows.Frames.from_trajectories([random_episode("BabyAI-PutNextLocal-v0", seed, 60) for seed in range(6)])
    config = load_config("tiny", ["world.expectation=true", "masking.strategy=forward", "masking.full_share=0"])
    batch = draw_batch(frames, replace(make_sampler(config), batch_size=64), config.world, 0, 0)
    plain, weighed = (weigh(batch, LossConfig(changed=factor)).blocks for factor in (1, 7))
    more = weighed > plain
    assert more.any()
    np.testing.assert_allclose(weighed[more], 7 * plain[more])
    expected = batch.tokens.expected[:, batch.first :][:, : batch.given[0].size].reshape(batch.given.shape)
    tokens, action = WorldTokenizer(), batch.target[..., ACTION]
    tried = np.isin(action - tokens.actions.start, (grid.PICKUP, grid.DROP, grid.TOGGLE)) & batch.valid
    both = more[..., [FRONT_SLOT, OWN_SLOT]]
    assert (both[tried] == (expected[..., [FRONT_SLOT, OWN_SLOT]] > 0)[tried]).all()
    rest = np.delete(more, [FRONT_SLOT, OWN_SLOT], axis=-1)
    assert not rest[~tried].any()
    # most cells are as expected, and a cell never seen is expected to be nothing in particular
    assert more.sum() < 0.1 * (plain > 0).sum()
    more[..., [FRONT_SLOT, OWN_SLOT]] = False
    assert (expected[more] - 1 + tokens.cells.start != batch.target[more]).all()
    assert (expected[more] != NEVER_SEEN).all()
