"""The natively batched environment: each lane is a single environment of its own."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.vector import AutoresetMode

import wmtoolkit  # noqa: F401 - registers the id
from wmtoolkit.envs import ImaginationEnv, ImaginationVectorEnv, make_real_env
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Trajectory

LEVEL = "BabyAI-GoToLocal-v0"
LANES = 4


def _same(observations, lane, observation):
    np.testing.assert_array_equal(observations["image"][lane], observation["image"])
    assert observations["direction"][lane] == observation["direction"]
    assert observations["mission"][lane] == observation["mission"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_each_lane_goes_as_it_would_alone(world_model, temperature, mode):
    options = {"temperature": temperature, "max_steps": 6}
    together = ImaginationVectorEnv(LANES, LEVEL, world_model, autoreset_mode=mode, **options)
    alone = [ImaginationEnv(LEVEL, world_model, **options) for _ in range(LANES)]
    observations, infos = together.reset(seed=20)
    for lane, env in enumerate(alone):
        _same(observations, lane, env.reset(seed=20 + lane)[0])
    rng = np.random.default_rng(1)
    endings = 0
    for _ in range(20):
        actions = rng.integers(7, size=LANES)
        observations, rewards, terminations, truncations, infos = together.step(actions)
        assert together.observation_space.contains(observations)
        ended = terminations | truncations
        for lane, env in enumerate(alone):
            observation, reward, terminated, truncated, info = env.step(actions[lane])
            assert (rewards[lane], terminations[lane], truncations[lane]) == (reward, terminated, truncated)
            if ended[lane] and mode is AutoresetMode.SAME_STEP:
                endings += 1
                final = {key: value[lane] for key, value in infos["final_info"].items() if not key.startswith("_")}
                assert infos["_final_obs"][lane]
                np.testing.assert_array_equal(infos["final_obs"][lane]["image"], observation["image"])
                assert final["log_prob"] == pytest.approx(info["log_prob"], abs=1e-3)
                np.testing.assert_allclose(final["confidence"], info["confidence"], atol=1e-4)
                observation, info = env.reset()
            _same(observations, lane, observation)
            assert infos["log_prob"][lane] == pytest.approx(info["log_prob"], abs=1e-3)
            np.testing.assert_allclose(infos["confidence"][lane], info["confidence"], atol=1e-4)
        if mode is AutoresetMode.DISABLED and ended.any():
            endings += ended.sum()
            observations, infos = together.reset(options={"reset_mask": ended})
            np.testing.assert_array_equal(infos["_log_prob"], ended)
            for lane in np.flatnonzero(ended):
                _same(observations, lane, alone[lane].reset()[0])
    assert endings >= LANES


def test_make_vec_gives_the_native_version_without_a_warning(world_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make_vec("AnyOrderWM-BabyAI", num_envs=3, checkpoint=world_model, render_mode="rgb_array")
    assert isinstance(env, ImaginationVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    real = make_real_env()
    assert env.single_observation_space == real.observation_space
    assert env.single_action_space == real.action_space
    observations, _ = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert [frame.shape for frame in env.render()] == [(224, 224, 3)] * 3
    env.action_space.seed(0)
    observations, rewards, terminations, truncations, _ = env.step(env.action_space.sample())
    assert (rewards.dtype, terminations.dtype, truncations.dtype) == (np.float64, bool, bool)
    env.close()
    assert env.closed


def test_what_is_returned_is_not_touched_later(world_model):
    env = ImaginationVectorEnv(2, LEVEL, world_model, temperature=1.0)
    first, infos = env.reset(seed=0)
    copies = first["image"].copy(), infos["confidence"].copy()
    for _ in range(3):
        env.step([2, 1])
    np.testing.assert_array_equal(first["image"], copies[0])
    np.testing.assert_array_equal(infos["confidence"], copies[1])


def test_a_saved_state_can_be_restored_any_number_of_times(world_model):
    env = ImaginationVectorEnv(LANES, LEVEL, world_model, temperature=1.0, max_steps=5)
    env.reset(seed=1)
    env.step([0, 1, 2, 3])
    snapshot = env.save()

    def onward():
        seen = []
        for _ in range(8):  # beyond the limit: lanes start anew meanwhile
            observations, rewards, *_ = env.step([2, 0, 1, 5])
            seen.append((observations["image"].tobytes(), observations["mission"], rewards.tolist()))
        return seen

    first = onward()
    env.restore(snapshot)
    assert onward() == first
    observations = env.restore(snapshot)
    assert observations["image"].shape == (LANES, 7, 7, 3)
    assert onward() == first
    with pytest.raises(ValueError, match="4 lanes"):
        ImaginationVectorEnv(1, LEVEL, world_model).restore(snapshot)


def test_lanes_can_continue_from_trajectories(world_model):
    starts = [Trajectory.start(make_real_env(LEVEL).reset(seed=seed)[0]) for seed in range(3)]
    env = ImaginationVectorEnv(3, LEVEL, world_model)
    observations, _ = env.reset(options={"start": starts})
    for lane, start in enumerate(starts):
        _same(observations, lane, start.observation())
    observations, _ = env.reset(options={"start": starts[1]})
    for lane in range(3):
        _same(observations, lane, starts[1].observation())


def test_an_episode_limit_counts_imagined_steps(world_model):
    start = Trajectory.start(make_real_env(LEVEL).reset(seed=0)[0])
    start = start.extended(6, start.observation())
    env = ImaginationVectorEnv(8, LEVEL, world_model, start, max_episode_steps=2, temperature=1.0)
    env.reset(seed=0)
    elapsed, endings = np.zeros(8, int), 0
    for _ in range(6):
        _, _, terminations, truncations, _ = env.step([0] * 8)
        elapsed += 1
        np.testing.assert_array_equal(truncations, elapsed == 2)
        endings += truncations.sum()
        elapsed[terminations | truncations] = 0
    assert endings > 4


def test_dreams_of_several_lanes(world_model):
    env = ImaginationVectorEnv(3, LEVEL, world_model, "dream", autoreset_mode="Disabled", max_steps=1)
    observations, infos = env.reset(seed=3)
    for lane in range(3):
        single = ImaginationEnv(LEVEL, world_model, "dream", max_steps=1)
        observation, info = single.reset(seed=3 + lane)
        _same(observations, lane, observation)
        assert infos["log_prob"][lane] == pytest.approx(info["log_prob"], abs=1e-2)
    start = Trajectory.start(make_real_env(LEVEL).reset(seed=0)[0])
    observations, infos = env.reset(options={"start": [None, start, None]})
    _same(observations, 1, start.observation())
    assert (infos["log_prob"] < 0).tolist() == [True, False, True]


def test_calls_out_of_turn_are_refused(world_model):
    env = ImaginationVectorEnv(2, LEVEL, world_model, max_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    for call in (
        lambda: env.step([0, 0]),
        env.save,
        lambda: env.reset(options={"reset_mask": np.array([True, False])}),
    ):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="0 left"):
        env.step([0, 7])
    with pytest.raises(ValueError, match="2 lanes"):
        env.step([0])
    env.step([0, 1])
    with pytest.raises(ResetNeeded, match="lanes 0, 1 have ended"):
        env.step([0, 1])
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([False, False])})
    with pytest.raises(ValueError, match="2 lanes"):
        env.reset(seed=[1, 2, 3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"num_envs": 1.5}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"autoreset_mode": "NextStep"}, "SameStep or Disabled"),
        ({"autoreset_mode": "foo"}, "'foo' is not one of SameStep, Disabled"),
        ({"render_mode": "human"}, "rgb_array"),
        ({"temperature": -1}, "temperature"),
        ({"level": "BabyAI-Nowhere-v0"}, "unknown level"),
    ],
)
def test_a_wrong_option_is_named(world_model, options, message):
    with pytest.raises(UserError, match=message):
        ImaginationVectorEnv(**{"num_envs": 2, "checkpoint": world_model, **options})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bad_start_leaves_the_running_episodes_alone(world_model, temperature):
    one, two = (ImaginationVectorEnv(2, LEVEL, world_model, temperature=temperature) for _ in range(2))
    good = Trajectory.start(make_real_env(LEVEL).reset(seed=0)[0])
    bad = replace(good, mission="go to the elephant")
    one.reset(seed=0)
    two.reset(seed=0)
    for start, message in ((bad, "elephant"), ([good, bad], "elephant"), ("dream", "'dream'"), ([good], "2 lanes")):
        with pytest.raises(UserError, match=message):
            one.reset(seed=5, options={"start": start})
    for _ in range(3):
        np.testing.assert_array_equal(one.step([0, 1])[0]["image"], two.step([0, 1])[0]["image"])


def test_greedy_lanes_of_the_packaged_model_are_single_environments_bit_for_bit():
    lanes = 3
    together = ImaginationVectorEnv(lanes, LEVEL, precision="float32")
    alone = [ImaginationEnv(LEVEL, precision="float32") for _ in range(lanes)]
    assert together.world_model is alone[0].world_model
    together.reset(seed=0)
    for lane, env in enumerate(alone):
        env.reset(seed=lane)
    for actions in ([0, 1, 2], [2, 2, 1], [1, 0, 3], [2, 2, 2]):
        observations, rewards, terminations, _, infos = together.step(actions)
        for lane, env in enumerate(alone):
            observation, reward, terminated, *_ = env.step(actions[lane])
            shown = (
                infos["final_obs"][lane] if terminated else {key: value[lane] for key, value in observations.items()}
            )
            assert shown["image"].tobytes() == observation["image"].tobytes()
            assert (shown["direction"], shown["mission"]) == (observation["direction"], observation["mission"])
            assert (rewards[lane], terminations[lane]) == (reward, terminated)
            if terminated:
                env.reset()


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_long_episodes_take_no_more_context_or_memory(world_model):
    lanes, every = 12, 50
    env = ImaginationVectorEnv(lanes, LEVEL, world_model, max_steps=10**6)  # greedy, it hardly ever ends
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    resident, widths, longest = [], [], 0
    for step in range(1, 1601):
        env.step(rng.integers(7, size=lanes))
        widths.append(env.save().state._encode_context()[1].shape[1])
        if step % every == 0:
            longest = max(longest, *map(len, env.trajectories))
            resident.append(_resident())
            env.reset(options={"reset_mask": np.arange(lanes) == step // every % lanes})
    assert longest >= lanes * every - every
    assert max(widths[800:]) <= max(widths[:800])
    assert max(resident[16:]) - resident[15] < 16, resident


@pytest.mark.slow
def test_memory_stays_flat_over_100000_steps(world_model):
    lanes = 100
    env = ImaginationVectorEnv(lanes, LEVEL, world_model, temperature=1.0)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    resident = []
    for step in range(1000):
        env.step(rng.integers(7, size=lanes))
        if step % 100 == 99:
            resident.append(_resident())
    assert max(resident[2:]) - resident[1] < 32, resident


def test_dropping_lanes_leaves_the_others_as_they_were(world_model):
    actions = np.random.default_rng(0).integers(0, 3, (6, 4))
    kept = np.array([False, True, False, True])
    whole, part = (ImaginationVectorEnv(4, LEVEL, world_model, temperature=1.0, max_steps=4) for _ in range(2))
    for env in (whole, part):
        env.reset(seed=3)
        env.step(actions[0])
    observation = part.keep(kept)
    assert part.num_envs == 2
    assert part.observation_space.contains(observation)
    for row in actions[1:]:  # past an episode's end
        all_lanes, two_lanes = whole.step(row), part.step(row[kept])
        for key in ("image", "direction"):
            np.testing.assert_array_equal(two_lanes[0][key], all_lanes[0][key][kept])
        np.testing.assert_array_equal(two_lanes[3], all_lanes[3][kept])
        np.testing.assert_allclose(part.cell_probabilities(), whole.cell_probabilities()[kept], atol=1e-5)
    assert [len(path) for path in part.trajectories] == [len(whole.trajectories[lane]) for lane in (1, 3)]
    with pytest.raises(ValueError, match="at least one"):
        part.keep(np.zeros(2, dtype=bool))
