"""The drift check compares imagination with reality, and reality stays what it is."""

import warnings

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from wmtoolkit.envs import DriftCheck, draw_view, make_real_env
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Outcome, Trajectory

LEVEL = "BabyAI-GoToLocal-v0"
ACTIONS = [0, 2, 1, 1, 2, 0, 2]


def test_imagined_frames_are_the_models_and_real_ones_the_levels(world_model):
    env, real = DriftCheck(make_real_env(LEVEL), world_model, horizon=3), make_real_env(LEVEL)
    observation, _ = env.reset(seed=4)
    truth, _ = real.reset(seed=4)
    np.testing.assert_array_equal(observation["image"], truth["image"])
    history = Trajectory.start(truth)
    state, count, ended = world_model.rollout_state([history]), 0, False
    for action in ACTIONS:
        if count == 3 or ended:
            state, count = world_model.rollout_state([history]), 0
        observation, _, _, _, info = env.step(action)
        truth, reward, terminated, truncated, _ = real.step(action)
        history = history.extended(action, truth, reward, terminated, truncated)
        state, count = state.step([action]), count + 1
        ended = state.sampled_outcomes[0] in (Outcome.SUCCESS, Outcome.FAILURE)
        np.testing.assert_array_equal(observation["image"], truth["image"])
        np.testing.assert_array_equal(info["imagined"], state.images[0])
        same = (state.images[0] == truth["image"]).all(-1)
        drift = info["drift"]
        assert drift["step"] == count
        assert drift["cell_accuracy"] == pytest.approx(same.mean())
        assert drift["frame_exact"] == same.all()
        assert drift["direction_equal"] == (state.directions[0] == truth["direction"])
        assert drift["outcome_equal"] == (state.sampled_outcomes[0] == history.outcomes[-1])
        assert drift["log_prob"] == pytest.approx(state.log_prob[0], rel=1e-4)


def test_the_report_counts_steps_by_their_distance_from_reality(world_model):
    env = DriftCheck(make_real_env(LEVEL), world_model, horizon=2)
    seen = {}
    env.reset(seed=0)
    for action in ACTIONS:
        drift = env.step(action)[4]["drift"]
        seen.setdefault(drift["step"], []).append(drift["cell_accuracy"])
    report = {row["step"]: row for row in env.report()}
    assert sorted(report) == sorted(seen)
    for step, accuracies in seen.items():
        assert report[step]["n"] == len(accuracies)
        assert report[step]["cell_accuracy"] == pytest.approx(np.mean(accuracies))


def test_gymnasiums_checker_finds_nothing(world_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(DriftCheck(make_real_env(LEVEL), world_model), skip_render_check=True)


def test_both_views_are_drawn_side_by_side(world_model):
    env = DriftCheck(make_real_env(LEVEL, render_mode="rgb_array"), world_model)
    env.reset(seed=0)
    observation, *_ = env.step(2)
    page, real = env.render(), draw_view(observation["image"])
    height, width = real.shape[:2]
    np.testing.assert_array_equal(page[-8 - height : -8, 8 : 8 + width], real)
    assert page.shape[1] == 2 * width + 3 * 8


def test_without_a_render_mode_nothing_is_drawn(world_model):
    env = DriftCheck(make_real_env(LEVEL), world_model)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="rgb_array"):
        assert env.render() is None


def test_one_window_shows_both_views(world_model, monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = DriftCheck(make_real_env(LEVEL, render_mode="human"), world_model)
    assert env.render_mode == "human"
    env.reset(seed=0)
    env.step(2)
    assert env.render() is None
    assert pygame.display.get_surface().get_width() > 2 * 224  # not the level's own picture
    env.close()
    assert pygame.display.get_surface() is None


def test_wrong_use_is_refused(world_model):
    env = DriftCheck(make_real_env(LEVEL, max_steps=1), world_model)
    env.reset(seed=0)
    env.step(0)
    with pytest.raises(ResetNeeded, match="ended"):
        env.step(0)
    with pytest.raises(UserError, match="horizon"):
        DriftCheck(make_real_env(LEVEL), world_model, horizon=1.5)
    with pytest.raises(UserError, match="horizon"):
        DriftCheck(make_real_env(LEVEL), world_model, horizon=0)
    with pytest.raises(ResetNeeded):
        DriftCheck(make_real_env(LEVEL), world_model).step(0)
