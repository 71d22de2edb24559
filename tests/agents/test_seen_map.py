"""The agent's own map agrees with the level, wherever it went."""

import numpy as np
import pytest

from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid


def walk(level, seed, steps=150):
    """Yield the level, the map and the displacement from the start after each step of a random walk."""
    env = make_level(level, max_steps=1000)
    observation = reset_level(env, seed)
    start = np.array(env.agent_pos)
    seen = SeenMap(observation)
    yield env, seen, start
    for action in np.random.default_rng(seed).choice([0, 1, 2, 2, 2, 2, 3, 4, 5], steps):
        observation, _, terminated, _, _ = env.step(int(action))
        seen.update(int(action), observation)
        yield env, seen, start
        if terminated:
            break


@pytest.mark.parametrize("level", ["BabyAI-GoTo-v0", "BabyAI-UnlockPickup-v0", "BabyAI-GoToObjMazeS4R2-v0"])
def test_dead_reckoning_and_the_map_follow_the_level(level):
    for seed in range(4):
        for env, seen, start in walk(level, seed):
            expected = (np.array(env.agent_pos) - start + SIZE // 2) % SIZE
            np.testing.assert_array_equal(seen.position, expected)
            assert seen.direction == env.agent_dir
        truth = env.grid.encode()
        for x in range(env.width):
            for y in range(env.height):
                cell = seen.cells[(x - start[0] + SIZE // 2) % SIZE, (y - start[1] + SIZE // 2) % SIZE]
                if cell[0] not in (grid.UNSEEN, grid.DOOR) and (x, y) != tuple(env.agent_pos):
                    np.testing.assert_array_equal(cell, truth[x, y])


def test_a_hidden_front_cell_is_told_by_what_is_seen_next():
    env = make_level("BabyAI-GoToObj-v0")
    for seed in range(12):
        observation = reset_level(env, seed)
        start = np.array(env.agent_pos)
        hidden = {**observation, "image": observation["image"].copy()}
        hidden["image"][grid.FRONT_CELL] = 0
        seen = SeenMap(hidden)
        observation, *_ = env.step(grid.FORWARD)
        seen.update(grid.FORWARD, observation)
        np.testing.assert_array_equal(np.array(seen.position) - SIZE // 2, np.array(env.agent_pos) - start)


def test_broken_promises_are_counted_where_nothing_showed():
    env = make_level("BabyAI-GoToObj-v0")
    seen = SeenMap(reset_level(env, 0))
    observation, *_ = env.step(grid.LEFT)
    expected = observation["image"].copy()
    dark = observation["image"][..., 0] == grid.UNSEEN
    assert dark.any()
    expected[dark] = (grid.EMPTY, 0, 0)
    seen.update(grid.LEFT, observation, expected)
    index = seen.index(np.array([seen.position]), np.array([seen.direction]))[0]
    np.testing.assert_array_equal(seen.broken_promises.reshape(-1)[index] == 1, dark)
    assert seen.broken_promises.sum() == dark.sum()
