"""Partial observability hides what it says, in the measure it says, and leaves the episode below alone."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from wmtoolkit.data.levels import make_level
from wmtoolkit.envs import PartialObservability, VectorPartialObservability, make_real_env
from wmtoolkit.envs.lanes import lane_infos
from wmtoolkit.envs.observability import QUADRANTS
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid

LEVEL = "BabyAI-GoToLocal-v0"


def _episode(env, seed=0, steps=60):
    """Observations and infos of a fixed action sequence; unseeded resets at the ends."""
    rng = np.random.default_rng(seed)
    pairs = [env.reset(seed=seed)]
    for _ in range(steps):
        observation, _, terminated, truncated, info = env.step(int(rng.integers(7)))
        pairs.append((observation, info))
        if terminated or truncated:
            pairs.append(env.reset())
    return pairs


def _images(env, **kwargs):
    return np.stack([observation["image"] for observation, _ in _episode(env, **kwargs)])


def _visible(env, **kwargs):
    return np.stack([info["visible"] for _, info in _episode(env, **kwargs)])


@pytest.mark.parametrize(
    "corruption",
    [
        {},
        {"cell_dropout": 0.3},
        {"attribute_dropout": 0.3, "color_noise": 0.2, "object_noise": 0.2},
        {"frame_dropout": 0.5},
        {"frame_dropout": 0.5, "lost_frame": "blank"},
        {"view_size": 3, "occlusion": "random"},
    ],
)
def test_every_mode_passes_gymnasiums_checker_without_a_warning(corruption):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        check_env(PartialObservability(make_real_env(LEVEL), **corruption), skip_render_check=True)


def test_without_corruption_nothing_changes():
    np.testing.assert_array_equal(_images(PartialObservability(make_real_env(LEVEL))), _images(make_real_env(LEVEL)))


def test_the_episode_below_is_the_same_with_and_without():
    env = PartialObservability(make_real_env(LEVEL), cell_dropout=0.5)
    plain, hidden = _episode(make_real_env(LEVEL), steps=100), _episode(env, steps=100)
    assert [o["mission"] for o, _ in plain] == [o["mission"] for o, _ in hidden]
    for (truth, _), (shown, info) in zip(plain, hidden, strict=True):
        np.testing.assert_array_equal(shown["image"], np.where(info["visible"], truth["image"], 0))


def test_one_seed_gives_one_noise_and_another_seed_another():
    make = lambda: PartialObservability(make_real_env(LEVEL), cell_dropout=0.3, color_noise=0.3)  # noqa: E731
    np.testing.assert_array_equal(_visible(make(), seed=4), _visible(make(), seed=4))
    assert (_visible(make(), seed=4)[0] != _visible(make(), seed=5)[0]).any()


def test_rates_are_those_asked_for():
    cells = _visible(PartialObservability(make_real_env(LEVEL), cell_dropout=0.3), steps=300)
    assert (cells.all(-1) == cells.any(-1)).all()  # whole cells
    assert cells.mean() == pytest.approx(0.7, abs=0.02)
    attributes = _visible(PartialObservability(make_real_env(LEVEL), attribute_dropout=0.3), steps=300)
    assert attributes.mean(axis=(0, 1, 2)) == pytest.approx([0.7] * 3, abs=0.03)
    frames = _visible(PartialObservability(make_real_env(LEVEL), frame_dropout=0.4), steps=400)
    assert frames.reshape(len(frames), -1).any(1).mean() == pytest.approx(0.6, abs=0.08)


def test_more_dropout_hides_more_of_the_same_cells():
    little = _visible(PartialObservability(make_real_env(LEVEL), cell_dropout=0.2), steps=20)
    much = _visible(PartialObservability(make_real_env(LEVEL), cell_dropout=0.6), steps=20)
    assert (much <= little).all()
    assert much.sum() < little.sum()


@pytest.mark.parametrize("channel", [0, 1])
def test_noise_shows_other_things_of_the_same_class(channel):
    rate = {"object_noise" if channel == 0 else "color_noise": 1.0}
    truth = _images(make_real_env("BabyAI-GoToLocal-v0"), steps=40)
    shown = _images(PartialObservability(make_real_env("BabyAI-GoToLocal-v0"), **rate), steps=40)
    things = np.isin(truth[..., 0], [grid.OBJECTS.index(name) for name in ("key", "ball", "box")])
    assert things.any()
    assert (shown[things][:, channel] != truth[things][:, channel]).all()
    np.testing.assert_array_equal(shown[~things], truth[~things])
    other = 1 - channel
    np.testing.assert_array_equal(shown[things][:, other], truth[things][:, other])
    assert len(np.unique(shown[things][:, channel])) == (3 if channel == 0 else 6)


def test_a_lost_frame_is_stale_or_blank():
    truth = _images(make_real_env(LEVEL), steps=8)
    stale = _images(PartialObservability(make_real_env(LEVEL), frame_dropout=1.0), steps=8)
    assert (stale == truth[0]).all()
    blank = _images(PartialObservability(make_real_env(LEVEL), frame_dropout=1.0, lost_frame="blank"), steps=8)
    np.testing.assert_array_equal(blank[0], truth[0])
    assert not blank[1:].any()


def test_a_smaller_view_keeps_the_cells_around_the_agent():
    visible = _visible(PartialObservability(make_real_env(LEVEL), view_size=3), steps=3)[0].all(-1)
    expected = np.zeros((7, 7), bool)
    expected[2:5, 4:7] = True
    np.testing.assert_array_equal(visible, expected)
    assert expected[grid.AGENT_CELL]


@pytest.mark.parametrize("name", QUADRANTS)
def test_an_occlusion_covers_its_quadrant(name):
    visible = _visible(PartialObservability(make_real_env(LEVEL), occlusion=name), steps=5)
    expected = np.ones((7, 7), bool)
    expected[QUADRANTS[name]] = False
    assert (visible.all(-1) == expected).all()


def test_a_random_occlusion_lasts_an_episode():
    env = PartialObservability(make_real_env(LEVEL, max_steps=5), occlusion="random")
    masks = set()
    for seed in range(12):
        _, info = env.reset(seed=seed)
        masks.add(info["visible"].tobytes())
        assert (env.step(6)[4]["visible"] == info["visible"]).all()
    assert len(masks) == len(QUADRANTS)


def test_wrappers_stack_with_noise_of_their_own():
    one = PartialObservability(make_real_env(LEVEL), cell_dropout=0.5)
    two = PartialObservability(PartialObservability(make_real_env(LEVEL), cell_dropout=0.5), cell_dropout=0.5)
    single, both = _visible(one, steps=60), _visible(two, steps=60)
    assert (both <= single).all()
    assert both.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_each_lane_of_the_vector_version_goes_as_it_would_alone(mode):
    settings = [{"cell_dropout": 0.3, "frame_dropout": 0.3}, {"color_noise": 0.5, "occlusion": "random"}]

    def wrapped(env, wrapper):
        for setting in settings:
            env = wrapper(env, **setting)
        return env

    make = lambda: make_real_env(LEVEL, max_steps=7)  # noqa: E731
    alone = [wrapped(make(), PartialObservability) for _ in range(3)]
    together = wrapped(SyncVectorEnv([make] * 3, autoreset_mode=mode), VectorPartialObservability)
    observations, infos = together.reset(seed=11)
    expected = [env.reset(seed=11 + lane) for lane, env in enumerate(alone)]
    rng = np.random.default_rng(0)
    endings = 0
    for _ in range(40):
        for lane, (observation, info) in enumerate(expected):
            np.testing.assert_array_equal(observations["image"][lane], observation["image"])
            np.testing.assert_array_equal(infos["visible"][lane], info["visible"])
            assert infos["partial_observability"][lane] == info["partial_observability"]
        assert together.observation_space.contains(observations)
        actions = rng.integers(7, size=3)
        observations, _, terminations, truncations, infos = together.step(actions)
        for lane, env in enumerate(alone):
            observation, _, terminated, truncated, info = env.step(actions[lane])
            if terminated or truncated:
                endings += 1
                if mode is AutoresetMode.SAME_STEP:
                    np.testing.assert_array_equal(infos["final_obs"][lane]["image"], observation["image"])
                    final = lane_infos(infos["final_info"], 3)[lane]
                    np.testing.assert_array_equal(final["visible"], info["visible"])
                    assert final["partial_observability"] == info["partial_observability"]
                observation, info = env.reset()
            expected[lane] = observation, info
        ended = terminations | truncations
        if mode is AutoresetMode.DISABLED and ended.any():
            before = observations["image"].copy()
            observations, fresh = together.reset(options={"reset_mask": ended})
            np.testing.assert_array_equal(observations["image"][~ended], before[~ended])
            for key in ("visible", "partial_observability"):
                infos[key][ended] = fresh[key][ended]
    assert endings >= 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"cell_dropout": 1.5}, "probability"),
        ({"cell_dropout": float("nan")}, "probability"),
        ({"view_size": 4}, "1, 3, 5 or 7"),
        ({"occlusion": "behind"}, "far-left"),
        ({"cell_dropout": "0.3"}, "probability"),
        ({"view_size": 3.0}, "1, 3, 5 or 7"),
        ({"lost_frame": "torn"}, "stale"),
        ({"dropout": 0.1}, "cell_dropout"),
    ],
)
def test_a_wrong_setting_is_named(bad, message):
    with pytest.raises(UserError, match=message):
        PartialObservability(make_real_env(LEVEL), **bad)


def test_the_info_says_what_each_wrapper_did():
    inner = PartialObservability(make_real_env(LEVEL), frame_dropout=0.5, cell_dropout=0.1)
    lost = set()
    for _, info in _episode(PartialObservability(inner, occlusion="random", color_noise=0.2), steps=20):
        first, second = info["partial_observability"]
        assert (first["cell_dropout"], first["frame_dropout"], first["occluded"]) == (0.1, 0.5, None)
        assert first["frame_lost"] == (not info["visible"].any())
        assert (second["occlusion"], second["color_noise"], second["frame_lost"]) == ("random", 0.2, False)
        assert not info["visible"][QUADRANTS[second["occluded"]]].any()
        lost.add(first["frame_lost"])
    assert lost == {True, False}


def test_a_step_before_the_first_reset_is_refused():
    lanes = SyncVectorEnv([lambda: make_level(LEVEL)], autoreset_mode=AutoresetMode.DISABLED)
    vector = VectorPartialObservability(lanes)
    for env, action in ((make_real_env(LEVEL), 0), (PartialObservability(make_real_env(LEVEL)), 0), (vector, [0])):
        with pytest.raises(ResetNeeded, match="reset"):
            env.step(action)


def test_lanes_that_restart_a_step_late_would_mix_episodes_and_are_refused():
    with pytest.raises(UserError, match=r"SAME_STEP or AutoresetMode\.DISABLED"):
        VectorPartialObservability(SyncVectorEnv([make_real_env]), cell_dropout=0.1)


def test_an_environment_is_made_again_from_its_spec():
    env = PartialObservability(make_real_env(LEVEL), cell_dropout=0.25)
    again = gymnasium.make(env.spec, disable_env_checker=True)
    np.testing.assert_array_equal(_images(again, steps=10), _images(env, steps=10))
