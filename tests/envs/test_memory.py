"""The window of memory: how much of the past imagination is shown."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

import wmtoolkit
from wmtoolkit.envs import ImaginationEnv, ImaginationVectorEnv, make_real_env, make_sb3_vec_env
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.world import grid
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.rollout import RolloutState
from wmtoolkit.world.trajectory import Trajectory

LEVEL = "BabyAI-GoToRedBallGrey-v0"
ROUND = (grid.RIGHT,) * 4
"""Turns around to where the agent looked first."""


def _views(env, actions=ROUND, seed=0):
    return [env.reset(seed=seed)[0]["image"], *(env.step(action)[0]["image"] for action in actions)]


def _balls(view):
    return int((view[..., 0] == grid.OBJECTS.index("ball")).sum())


def test_what_lies_behind_is_forgotten_without_memory():
    """The packaged model finds the balls again where they were, or as many of them as it remembers."""
    views = {memory: _views(ImaginationEnv(LEVEL, memory=memory, precision="float32")) for memory in (None, 60, 10, 0)}
    first = views[None][0]
    assert _balls(first) == 3
    np.testing.assert_array_equal(views[None][-1], first)
    for one, other in zip(views[None], views[60], strict=True):
        np.testing.assert_array_equal(one, other)
    assert [_balls(views[memory][-1]) for memory in (None, 10, 0)] == [3, 1, 0]


def test_memory_0_knows_the_newest_frame_alone(world_model):
    """Two pasts with one present: what is asked is answered alike, to the bit."""
    level = make_real_env(LEVEL)
    past = Trajectory.start(level.reset(seed=0)[0])
    for action in ROUND:
        past = past.extended(action, level.step(action)[0])
    blind = replace(past, images=np.concatenate([np.zeros_like(past.images[:-1]), past.images[-1:]]))

    def ahead(history, memory):
        state = world_model.rollout_state([history], memory=memory)
        return np.concatenate([state.policy()[0], state.step([2]).confidence.ravel()])

    np.testing.assert_array_equal(ahead(past, 0), ahead(blind, 0))
    assert np.abs(ahead(past, None) - ahead(blind, None)).max() > 1e-3


@pytest.mark.parametrize("memory", [0, 7, None])
def test_lanes_with_little_memory_are_single_environments(memory):
    lanes = gymnasium.make_vec("AnyOrderWM-BabyAI", num_envs=2, level=LEVEL, memory=memory, precision="float32")
    alone = [gymnasium.make("AnyOrderWM-BabyAI", level=LEVEL, memory=memory, precision="float32") for _ in range(2)]
    together = _views(lanes, [[1, 0], [1, 0], [2, 2], [0, 1]])
    for lane, env in enumerate(alone):
        for one, other in zip(together, _views(env, [[1, 1, 2, 0], [0, 0, 2, 1]][lane], seed=lane), strict=True):
            np.testing.assert_array_equal(one[lane], other)


def test_going_on_from_a_trajectory_is_going_on():
    """What is shown depends on what was seen, not on where the episode was taken up."""
    env = ImaginationEnv(LEVEL, memory=9, precision="float32")
    _views(env, (1, 1, 2, 0, 2))
    start = env.trajectory
    onward = env.step(1)[0]["image"], env.step(2)[0]["image"]
    env.reset(options={"start": start})
    for expected, action in zip(onward, (1, 2), strict=True):
        np.testing.assert_array_equal(env.step(action)[0]["image"], expected)


def test_frames_are_the_memory_of_a_model_without_one(tiny, episodes):
    model = wmtoolkit.AnyOrderWorldModel.create(LLaDA2MoeConfig(**tiny), WorldConfig(egomotion=False, memory=0))
    histories = [episode.prefix(6) for episode in episodes[:2]]
    widths = {
        memory: model.rollout_state(histories, memory=memory)._encode_context()[1].shape[1] for memory in (0, 1, 2)
    }
    assert widths[1] - widths[0] == widths[2] - widths[1] == 52
    assert widths[2] == model.rollout_state(histories)._encode_context()[1].shape[1]
    with pytest.raises(UserError, match=r"frames before the newest in 0\.\.2, .* not 3"):
        model.rollout_state(histories, memory=3)


def test_dreams_have_the_memory_too(world_model):
    env = ImaginationEnv(LEVEL, world_model, "dream", memory=0)
    env.reset(seed=0)
    env.step(2)
    limited, whole = (world_model.dream(["go to the red ball"], memory=memory).step([1]) for memory in (0, None))
    for state in (env._state, limited):
        assert state._encode_context()[1].shape[1] < whole._encode_context()[1].shape[1]


def test_lanes_of_different_memory_do_not_mix(world_model, episodes):
    states = [world_model.rollout_state([episodes[0].prefix(3)], memory=memory) for memory in (None, 3)]
    with pytest.raises(ValueError, match="past"):
        RolloutState.cat(states)


@pytest.mark.parametrize("memory", [-1, 61, 1.5, "all", True])
def test_an_impossible_memory_is_refused_with_what_is_possible(world_model, memory):
    for make in (ImaginationEnv, lambda *a, **k: ImaginationVectorEnv(2, *a, **k)):
        with pytest.raises(UserError, match=r"remembered cells in 0\.\.60"):
            make(LEVEL, world_model, memory=memory)


def test_real_levels_leave_it_aside(world_model):
    for imagined in (True, False):
        env = make_sb3_vec_env("BabyAI-GoToLocal-v0", 2, imagined=imagined, checkpoint=world_model, memory=0, seed=0)
        env.reset()
        env.step([1, 1])
    with pytest.raises(UserError, match="60"):
        make_sb3_vec_env("BabyAI-GoToLocal-v0", 2, checkpoint=world_model, memory=61)
