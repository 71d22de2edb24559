"""Behaviours: the bot decides as BabyAI's, the noisy one plans from what was done, the tour gives near-misses."""

import numpy as np
import pytest
from minigrid.utils.baby_ai_bot import BabyAIBot

from wmtoolkit.data import behaviours, walker
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.data.recording import record_episode
from wmtoolkit.world import grid


@pytest.mark.parametrize("level", ["BabyAI-GoToLocal-v0", "BabyAI-PutNextLocal-v0", "BabyAI-MiniBossLevel-v0"])
def test_the_faster_bot_decides_as_the_original(level):
    env = make_level(level)
    rng = np.random.default_rng(0)
    for seed in range(6):
        reset_level(env, seed)
        original, ours = BabyAIBot(env), behaviours.bot(env, rng)
        previous = None
        for _ in range(80):
            try:
                expected = int(original.replan(previous))
            except Exception:
                with pytest.raises(behaviours.BehaviourError):
                    ours({}, previous)
                break
            if not original.stack:
                with pytest.raises(behaviours.BehaviourError, match="gave up"):
                    ours({}, previous)
                break
            assert ours({}, previous) == expected
            # a fifth of the actions are not the planned ones: both must plan on from them
            previous = expected if rng.random() < 0.8 else int(rng.integers(0, 3))
            if any(env.step(previous)[2:4]):
                break


def test_the_noisy_bot_still_reaches_its_goal_and_is_as_noisy_as_said():
    env = make_level("BabyAI-GoToLocal-v0")
    other, steps, successes = 0, 0, 0
    for seed in range(60):
        reset_level(env, seed)
        rng = np.random.default_rng(seed)
        noisy, original = behaviours.noisy(env, rng), BabyAIBot(env)
        previous = None
        for _ in range(env.max_steps):
            planned = int(original.replan(previous))
            previous = noisy({}, previous)
            other, steps = other + (previous != planned), steps + 1
            _, reward, terminated, truncated, _ = env.step(previous)
            if terminated or truncated:
                successes += reward > 0
                break
    assert successes >= 58
    expected = behaviours.NOISE * 6 / 7
    assert abs(other / steps - expected) < 4 * (expected * (1 - expected) / steps) ** 0.5


def test_the_tour_visits_objects_that_the_mission_does_not_mean():
    env = make_level("BabyAI-PickupLoc-v0")
    right = wrong = handled = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        trajectory = record_episode(env, seed, "tour", rng).trajectory
        words = trajectory.mission.split()
        front = trajectory.images[:, *grid.FRONT_CELL]
        for kind, color, _ in front.tolist():
            if grid.OBJECTS[kind] in ("key", "ball", "box"):
                meant = grid.OBJECTS[kind] in words and grid.COLORS[color] in words
                right, wrong = right + meant, wrong + (not meant)
        handled += int(np.isin(trajectory.actions, [grid.PICKUP, grid.DROP, grid.TOGGLE]).sum())
    assert wrong > 2 * right > 0
    assert handled > 100


@pytest.mark.parametrize(
    "level",
    ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-LavaCrossingS9N2-v0", "MiniGrid-FourRooms-v0", "MiniGrid-MultiRoom-N4-S5-v0"],
)
def test_the_goal_bot_solves_levels_without_an_instruction(level):
    env = make_level(level)
    for seed in range(8):
        recording = record_episode(env, seed, "bot", np.random.default_rng(seed))
        assert recording.error is None
        assert recording.trajectory.success
        assert recording.trajectory.behaviour == "bot"


def test_ways_are_shortest_and_do_not_cross_lava_or_goals():
    env = make_level("MiniGrid-LavaCrossingS9N2-v0")
    for seed in range(5):
        reset_level(env, seed)
        goal = walker.objects(env, ("goal",))[0][0]
        way = walker.path_to(env, lambda cell, goal=goal: cell == goal)
        assert way[-1] == goal
        for x, y in way[:-1]:
            assert env.grid.get(x, y) is None
        hops = [walker.position(env), *way]
        assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in zip(hops, way, strict=False))
    assert walker.path_to(env, lambda cell: False) is None


def test_a_bot_in_circles_is_stopped_after_the_same_number_of_looks():
    env = make_level("BabyAI-UnlockToUnlock-v0")
    lengths = set()
    for _ in range(2):
        recording = record_episode(env, 4, "bot", np.random.default_rng(0), max_steps=120)
        assert recording.error == "runs in circles"
        assert recording.trajectory.behaviour == "noisy"
        lengths.add(tuple(recording.trajectory.actions.tolist()))
    assert len(lengths) == 1
