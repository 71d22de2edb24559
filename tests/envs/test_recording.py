"""The info holds the imagined trajectory so far, and holding it costs nothing."""

import copy
import pickle

import numpy as np
import pytest

from wmtoolkit.envs import ImaginationEnv, ImaginationVectorEnv, PartialObservability
from wmtoolkit.envs.recording import Recorder
from wmtoolkit.world.trajectory import Trajectory

LEVEL, LANES = "BabyAI-GoToLocal-v0", 3
ACTIONS = (0, 2, 5, 1, 2)


def _recorder(observation, steps):
    recorder = Recorder(Trajectory.start(observation))
    for _ in range(steps):
        recorder.add(0, observation, 0.0, False, False)
    return recorder


@pytest.fixture
def observation(episodes):
    return episodes[0].observation(0)


def test_the_info_of_a_step_is_the_trajectory_as_of_it(world_model):
    env = ImaginationEnv(LEVEL, world_model, temperature=1.0)
    _, info = env.reset(seed=2)
    held, expected = [info["trajectory"]], [env.trajectory]
    for action in ACTIONS:
        *_, terminated, truncated, info = env.step(action)
        held.append(info["trajectory"])
        expected.append(env.trajectory)
        if terminated or truncated:
            break
    env.reset(seed=3)
    assert len(held) > 2
    for count, (kept, whole) in enumerate(zip(held, expected, strict=True)):
        assert isinstance(kept, Trajectory)
        assert len(kept) == count
        assert kept.validate() == whole
        assert (kept.level, kept.seed) == (LEVEL, 2)


def test_it_can_be_continued_and_wrappers_hand_it_on(world_model):
    env = PartialObservability(ImaginationEnv(LEVEL, world_model), cell_dropout=0.5)
    env.reset(seed=0)
    *_, info = env.step(1)
    start = info["trajectory"]
    observation, info = env.reset(options={"start": start})
    assert info["trajectory"] == start
    shown = np.where(info["visible"], start.images[-1], 0)
    np.testing.assert_array_equal(observation["image"], shown)


def test_each_lanes_info_is_that_of_a_single_environment(world_model):
    together = ImaginationVectorEnv(LANES, LEVEL, world_model, temperature=1.0, max_steps=3)
    alone = [ImaginationEnv(LEVEL, world_model, temperature=1.0, max_steps=3) for _ in range(LANES)]
    _, infos = together.reset(seed=5)
    for lane, env in enumerate(alone):
        assert infos["trajectory"][lane] == env.reset(seed=5 + lane)[1]["trajectory"]
    endings = 0
    for action in ACTIONS:
        *_, infos = together.step([action] * LANES)
        assert infos["_trajectory"].all()
        for lane, env in enumerate(alone):
            *_, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                assert infos["final_info"]["trajectory"][lane] == info["trajectory"]
                endings += 1
                _, info = env.reset()
            assert infos["trajectory"][lane] == info["trajectory"]
            assert together.trajectories[lane] == env.trajectory
    assert endings >= LANES


def test_a_restored_episode_goes_on_from_what_was_recorded(world_model):
    env = ImaginationVectorEnv(LANES, LEVEL, world_model, max_steps=50)
    env.reset(seed=0)
    env.step([0] * LANES)
    snapshot, before = env.save(), env.trajectories
    env.step([1] * LANES)
    branch = env.trajectories
    env.restore(snapshot)
    assert env.trajectories == before
    env.step([2] * LANES)
    for lane in range(LANES):
        if len(env.trajectories[lane]) and len(branch[lane]):  # those that have not begun anew
            assert env.trajectories[lane].actions.tolist() == [0, 2]
            assert branch[lane].actions.tolist() == [0, 1]


def test_no_step_puts_a_trajectory_together(world_model, monkeypatch):
    single, many = ImaginationEnv(LEVEL, world_model), ImaginationVectorEnv(LANES, LEVEL, world_model, max_steps=2)

    def read(self):
        raise AssertionError("a trajectory was put together")

    monkeypatch.setattr(Recorder, "trajectory", property(read))
    single.reset(seed=0)
    many.reset(seed=0)
    for _ in range(3):
        *_, info = single.step(0)
        *_, infos = many.step([0] * LANES)
        copy.deepcopy(info), copy.copy(infos)
        many.restore(many.save())
    with pytest.raises(AssertionError, match="put together"):
        info["trajectory"].images  # noqa: B018


def test_a_long_episode_can_be_copied_sent_and_dropped(observation):
    kept = _recorder(observation, 20_000).so_far
    assert copy.deepcopy({"trajectory": kept})["trajectory"] is kept
    sent = pickle.loads(pickle.dumps(kept))
    assert type(sent) is Trajectory
    assert sent == kept
    assert len(kept.prefix(7)) == 7
    with pytest.raises(AttributeError, match="nothing"):
        _ = kept.nothing
