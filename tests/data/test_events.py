"""Events and revealed cells are what the simulator says they are."""

import numpy as np
import pytest

from wmtoolkit.data import collect, open_store
from wmtoolkit.data.behaviours import random as random_behaviour
from wmtoolkit.data.events import EVENTS, revealed_cells, step_events
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.missions import named_objects


def true_event(env, action):
    """Step the level and tell from its own state what happened."""
    x, y = (int(v) for v in env.front_pos)
    front, carrying = env.grid.get(x, y), env.carrying
    door = front if front is not None and front.type == "door" else None
    state = (door.is_open, door.is_locked) if door else None
    before = tuple(int(v) for v in env.agent_pos)
    observation, *_ = env.step(action)
    moved = tuple(int(v) for v in env.agent_pos) != before
    name = grid.ACTIONS[action]
    if name in ("left", "right"):
        event = "turned"
    elif name == "forward":
        event = "moved" if moved else "bumped"
    elif name == "pickup":
        event = "picked up nothing"
        if carrying is None and env.carrying is not None:
            words = env.mission.split()
            named = env.carrying.color in words and env.carrying.type in words
            event = "picked up the mission's object" if named else "picked up another object"
    elif name == "drop":
        event = "dropped" if carrying is not None and env.carrying is None else "dropped nothing"
    elif name == "toggle":
        event = "toggled nothing"
        if door:
            after = (door.is_open, door.is_locked)
            if state[1]:
                event = "door stayed locked" if after[1] else "door unlocked"
            else:
                event = "door opened" if after[0] else "door closed"
        elif front is not None and front.type == "box":
            event = "box destroyed"
    else:
        event = "done"
    return observation["image"], event


@pytest.mark.parametrize("level", ["BabyAI-UnlockPickup-v0", "BabyAI-PickupLoc-v0", "BabyAI-OpenRedDoor-v0"])
def test_every_step_is_named_as_the_simulator_says(level):
    env = make_level(level)
    rng = np.random.default_rng(0)
    found = set()
    for seed in range(12):
        image = reset_level(env, seed)["image"]
        meant = named_objects(env.mission)[None]
        for _ in range(60):
            # mostly forward and handling, so that rare events happen
            action = int(rng.choice(7, p=[0.12, 0.12, 0.34, 0.15, 0.1, 0.15, 0.02]))
            after, expected = true_event(env, action)
            event = EVENTS[step_events(image[None], after[None], np.array([action]), meant)[0]]
            assert event == expected
            found.add(event)
            image = after
    assert len(found) >= 8


def test_every_step_is_exactly_one_event():
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 3, (2, 500, 7, 7, 3))
    meant = np.zeros((500, len(grid.OBJECTS), len(grid.COLORS)), bool)
    events = step_events(before, after, rng.integers(0, 7, 500), meant)
    assert events.shape == (500,)
    assert set(events.tolist()) <= set(range(len(EVENTS)))


def test_named_objects_follow_the_words():
    red_ball = named_objects("go to the red ball")
    assert red_ball.sum() == 1
    assert red_ball[grid.OBJECTS.index("ball"), grid.COLORS.index("red")]
    assert named_objects("pick up a key").sum() == len(grid.COLORS)
    assert named_objects("go to the blue object").sum() == 4


def test_revealed_cells_agree_with_the_true_positions(tmp_path):
    level = "BabyAI-GoToObjMazeS4R2-v0"
    path = collect(level, 8, policy="tour", out=tmp_path / "d")
    store = open_store([path])
    env = make_level(level)
    for episode in range(len(store)):
        trajectory = store.trajectory(episode)
        reset_level(env, trajectory.seed)
        seen, revealed, visible = set(), 0, 0
        for step, image in enumerate(trajectory.images):
            if step:
                env.step(int(trajectory.actions[step - 1]))
            cells = np.asarray(env.agent_pos) + grid.world_offsets(int(env.agent_dir))
            for column in range(7):
                for row in range(7):
                    if image[column, row, 0] == grid.UNSEEN or (column, row) == grid.AGENT_CELL:
                        continue
                    cell = tuple(cells[column, row].tolist())
                    visible += step > 0
                    revealed += step > 0 and cell not in seen
                    seen.add(cell)
        assert revealed_cells(store, range(episode, episode + 1)) == (revealed, visible)


def test_random_actions_are_uniform():
    env = make_level("BabyAI-GoToLocal-v0")
    reset_level(env, 0)
    act = random_behaviour(env, np.random.default_rng(0))
    counts = np.bincount([act({}, None) for _ in range(7000)], minlength=7)
    assert counts.min() > 900
    assert counts.max() < 1100
