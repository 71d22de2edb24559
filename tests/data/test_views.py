"""The fast view is MiniGrid's view."""

import copy
import pickle

import gymnasium
import minigrid  # noqa: F401
import numpy as np
import pytest
from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.data.views import fast_image, seen_cells, speed_up

LEVELS = [
    "BabyAI-GoToLocal-v0",
    "BabyAI-UnlockPickup-v0",
    "BabyAI-MiniBossLevel-v0",
    "BabyAI-PutNextS5N2Carrying-v0",
    "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-LavaCrossingS9N2-v0",
    "MiniGrid-Dynamic-Obstacles-6x6-v0",
    "MiniGrid-ObstructedMaze-2Dlh-v0",
    "MiniGrid-MemoryS7-v0",
]


@pytest.mark.parametrize("level", LEVELS)
def test_fast_view_equals_minigrids_view_in_every_state(level):
    env = gymnasium.make(level, disable_env_checker=True).unwrapped  # also levels without all seven actions
    rng = np.random.default_rng(0)
    for seed in range(6):
        reset_level(env, seed)
        for _ in range(40):
            expected = MiniGridEnv.gen_obs(env)["image"]
            found = fast_image(env)
            assert found.dtype == np.uint8
            assert np.array_equal(found, expected)
            _, _, terminated, truncated, _ = env.step(int(rng.choice(7, p=[0.1, 0.1, 0.4, 0.2, 0.05, 0.1, 0.05])))
            if terminated or truncated:
                break


def test_seen_cells_agree_with_the_visibility_mask():
    env = make_level("BabyAI-GoToObjMaze-v0")
    for seed in range(5):
        reset_level(env, seed)
        _, mask = MiniGridEnv.gen_obs_grid(env)
        assert len(seen_cells(env)) == mask.sum()


def test_episodes_are_the_same_with_and_without_speed_up():
    slow, fast = make_level("BabyAI-PutNextLocal-v0", fast=False), make_level("BabyAI-PutNextLocal-v0")
    assert "gen_obs" in vars(fast)
    assert "gen_obs" not in vars(slow)
    rng = np.random.default_rng(1)
    for seed in range(3):
        first = [reset_level(env, seed) for env in (slow, fast)]
        assert np.array_equal(first[0]["image"], first[1]["image"])
        for action in rng.integers(0, 7, 60).tolist():
            left, right = slow.step(action), fast.step(action)
            assert np.array_equal(left[0]["image"], right[0]["image"])
            assert (left[0]["direction"], left[0]["mission"], *left[1:4]) == (
                right[0]["direction"],
                right[0]["mission"],
                *right[1:4],
            )


def test_levels_with_another_view_are_left_alone():
    env = gymnasium.make("BabyAI-GoToLocal-v0", agent_view_size=5, disable_env_checker=True).unwrapped
    assert not speed_up(env)


def test_a_copied_level_looks_at_itself_not_at_the_original():
    env = make_level("BabyAI-GoToLocal-v0")
    reset_level(env, 3)
    copied = copy.deepcopy(env)
    for action in (0, 2, 2, 1, 2):
        copied.step(action)
    assert np.array_equal(copied.gen_obs()["image"], MiniGridEnv.gen_obs(copied)["image"])
    assert np.array_equal(env.gen_obs()["image"], MiniGridEnv.gen_obs(env)["image"])
    assert not np.array_equal(copied.gen_obs()["image"], env.gen_obs()["image"])


def test_a_level_can_be_pickled():
    env = make_level("BabyAI-GoToLocal-v0")
    reset_level(env, 3)
    again = pickle.loads(pickle.dumps(env))
    again.step(2)
    env.step(2)
    assert np.array_equal(again.gen_obs()["image"], env.gen_obs()["image"])
