"""In imagination the network is not told how late it is."""

from dataclasses import replace

import numpy as np
import pytest

from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.evaluation.outcomes import success_probabilities
from wmtoolkit.world import grid, windows
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.trajectory import Trajectory

CLOCK = 8
DONE = grid.ACTIONS.index("done")


@pytest.fixture
def with_clock(world_model, monkeypatch):
    """The session's model as one whose clock stops."""
    monkeypatch.setattr(world_model.network, "world", replace(world_model.network.world, clock=CLOCK))
    return world_model


def waited(steps: int) -> Trajectory:
    """A look around, and then so many steps in which nothing happens."""
    env = make_level("BabyAI-PutNextLocal-v0")
    history = Trajectory.start(reset_level(env, 0))
    for action in [grid.LEFT, grid.LEFT, grid.FORWARD] + [DONE] * steps:
        history = history.extended(action, env.step(action)[0])
    return history


def imagined(model: AnyOrderWorldModel, history: Trajectory) -> np.ndarray:
    """P(outcome) of three steps, one after the other, and the policy behind them."""
    state, found = model.rollout_state([history]), []
    for action in (grid.RIGHT, grid.FORWARD, grid.LEFT):
        state = state.step([action])
        found.append(state.outcomes[0])
    return np.concatenate([*found, state.policy()[0]])


def test_waiting_changes_nothing_where_the_clock_stands_still(with_clock):
    np.testing.assert_allclose(imagined(with_clock, waited(12)), imagined(with_clock, waited(40)), atol=1e-5)


def test_without_a_clock_it_does(world_model):
    assert world_model.network.world.clock == 0
    assert np.abs(imagined(world_model, waited(12)) - imagined(world_model, waited(40))).max() > 1e-3


def test_a_young_episode_is_imagined_as_without(world_model, with_clock, monkeypatch):
    young = waited(1)
    stopped = imagined(with_clock, young)
    monkeypatch.undo()
    np.testing.assert_array_equal(stopped, imagined(world_model, young))


def test_lanes_have_clocks_of_their_own(with_clock):
    """A lane does not depend on how late its neighbours are."""
    histories = [waited(0), waited(30)]
    both = with_clock.rollout_state(histories).step([grid.RIGHT, grid.RIGHT])
    for lane, history in enumerate(histories):
        alone = with_clock.rollout_state([history]).step([grid.RIGHT])
        np.testing.assert_allclose(both.outcomes[lane], alone.outcomes[0], atol=1e-5)
        np.testing.assert_array_equal(both.images[lane], alone.images[0])


def test_windows_and_rollouts_go_by_one_clock(with_clock):
    """What training and evaluation ask of a late step is what imagination asks."""
    history = waited(20).extended(grid.LEFT, waited(20).observation())
    asked = success_probabilities(
        with_clock, windows.Frames.from_trajectories([history]), np.array([0]), np.array([len(history) - 1]), 1
    )
    said = with_clock.predict([history.prefix(len(history) - 1)], [grid.LEFT]).outcome_probabilities
    np.testing.assert_allclose(asked, said, atol=1e-5)


def test_a_checkpoint_may_be_used_with_another_clock(checkpoint, tmp_path):
    AnyOrderWorldModel.from_pretrained(checkpoint, clock=CLOCK).save_pretrained(tmp_path / "other")
    assert AnyOrderWorldModel.from_pretrained(checkpoint).network.world.clock == 0
    assert AnyOrderWorldModel.from_pretrained(tmp_path / "other").network.world.clock == CLOCK


def test_a_clock_does_not_run_backwards():
    with pytest.raises(ValueError, match="clock -1 must be at least 0"):
        WorldConfig(clock=-1)
