"""Plans by infilling: the same as completing a trajectory that ends in success, for many at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.errors import UserError
from wmtoolkit.world.tokenizer import Visibility


def test_a_plan_is_the_completion_of_a_trajectory_that_ends_in_success(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    """Where the present is the first frame, the window is the one that ``complete`` would fill."""
    history, horizon = episodes[0].prefix(0), 4
    ((plan,),) = world_model.infill_plan([history], [horizon], steps=3)
    wish = replace(episodes[0].prefix(horizon), behaviour="bot")
    wish = replace(wish, rewards=np.eye(horizon)[-1], terminations=np.eye(horizon, dtype=bool)[-1])
    seen = Visibility.full(horizon)
    seen.images[1:], seen.directions[1:], seen.outcomes[1:-1], seen.actions[:] = False, False, False, False
    (done,) = world_model.complete([wish], [seen], steps=3)
    np.testing.assert_array_equal(plan.actions, done.trajectory.actions)
    np.testing.assert_array_equal(plan.images, done.trajectory.images[1:])
    assert plan.log_prob == pytest.approx(done.log_prob, rel=1e-5)
    assert done.trajectory.success


@pytest.mark.parametrize("views", [True, False])
def test_histories_and_horizons_share_each_pass_and_do_not_disturb_each_other(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory], views: bool
) -> None:
    histories = [episodes[0].prefix(0), episodes[1].prefix(7), episodes[2].prefix(3)]
    horizons, steps, passes = [1, 3, 6], 3, []
    hook = world_model.network.register_forward_hook(lambda *_: passes.append(1))
    plans = world_model.infill_plan(histories, horizons, steps=steps, views=views)
    hook.remove()
    assert len(passes) == steps
    for row, history in enumerate(histories):
        for plan, horizon in zip(plans[row], horizons, strict=True):
            ((alone,),) = world_model.infill_plan([history], [horizon], steps=steps, views=views)
            assert plan.actions.shape == (horizon,)
            assert (plan.images is not None) == views
            assert plan.images is None or plan.images.shape == (horizon, 7, 7, 3)
            np.testing.assert_array_equal(plan.actions, alone.actions)
            assert plan.action_log_prob == pytest.approx(alone.action_log_prob, abs=1e-3)
            assert plan.log_prob <= plan.action_log_prob <= 0


@pytest.mark.parametrize("views", [True, False])
def test_the_past_and_the_mission_matter(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory], views: bool
) -> None:
    history = episodes[1].prefix(7)
    other = replace(history, mission="pick up the green key")
    forgetful = Trajectory.start(history.observation())
    plans = world_model.infill_plan([history, other, forgetful], [3], views=views)
    assert len({plan.log_prob for (plan,) in plans}) == 3


@pytest.mark.parametrize("views", [True, False])
def test_plans_are_drawn_from_their_own_generator(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory], views: bool
) -> None:
    def drawn(seeds: list[int]) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {"views": views, "temperature": 1.0, "generator": generators}
        (plans,) = world_model.infill_plan([episodes[0].prefix(2)], [5] * 3, **options)
        return [plan.actions.tolist() for plan in plans]

    first, again = drawn([1, 2, 3]), drawn([1, 7, 3])
    assert first[0] == again[0]
    assert first[2] == again[2]
    assert first[0] != first[2]


@pytest.mark.parametrize("horizons", [[], [0], [12]])
def test_a_horizon_never_trained_on_is_refused(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory], horizons: list[int]
) -> None:
    with pytest.raises(UserError, match=r"horizons must be in 1\.\.11"):
        world_model.infill_plan([episodes[0]], horizons)
