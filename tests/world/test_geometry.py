"""Dead reckoning against the real position of the agent, and the memory of last sightings."""

import numpy as np
import pytest

from wmtoolkit import Trajectory, WorldTokenizer
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import geometry, grid
from wmtoolkit.world.tokenizer import ACTION, DIRECTION, FIRST_CELL
from wmtoolkit.world.tokens import reckon

TOKENIZER = WorldTokenizer()


@pytest.mark.parametrize("level", ["BabyAI-GoToLocal-v0", "BabyAI-OpenRedDoor-v0", "BabyAI-UnlockPickup-v0"])
def test_reckoned_positions_are_the_true_ones(level: str) -> None:
    env, rng = make_level(level), np.random.default_rng(0)
    for seed in range(3):
        observation = reset_level(env, seed)
        start = np.array(env.unwrapped.agent_pos)
        history, true = Trajectory.start(observation), [start * 0]
        for action in rng.choice(7, 60, p=[0.15, 0.15, 0.4, 0.1, 0.1, 0.1, 0.0]):
            observation, _, terminated, truncated, _ = env.step(int(action))
            history = history.extended(int(action), observation, 0.0, terminated, truncated)
            true.append(np.array(env.unwrapped.agent_pos) - start)
            if terminated or truncated:
                break
        led_here = np.append(-1, history.actions)
        path = geometry.positions(history.images, history.directions, led_here, np.array([0]))
        np.testing.assert_array_equal(path, np.stack(true))


def test_view_cells_lie_where_the_level_has_them(episodes: list[Trajectory]) -> None:
    env = make_level("BabyAI-GoToLocal-v0")
    for seed in range(8):
        observation = reset_level(env, seed)
        world = geometry.world_cells(np.array(env.unwrapped.agent_pos), observation["direction"])
        for column, row in np.ndindex(grid.VIEW, grid.VIEW):
            cell = observation["image"][column, row]
            if cell[0] == grid.UNSEEN or (column, row) == grid.AGENT_CELL:
                continue
            real = env.unwrapped.grid.get(*world[column, row])
            expected = (grid.EMPTY, 0, 0) if real is None else real.encode()
            assert tuple(cell) == tuple(expected)


def test_a_hidden_action_or_front_cell_leaves_the_pose_unknown(episodes: list[Trajectory]) -> None:
    blocks = TOKENIZER.encode(episodes[0])[1:]
    position, heading = np.array([4, -2]), np.array(1)
    hidden = blocks[1].copy()
    hidden[[ACTION, DIRECTION]] = TOKENIZER.mask
    moved, turned, known = reckon(hidden, blocks[0], position, heading)
    assert not known
    assert tuple(moved) == (4, -2)
    assert turned == 1
    forward, blind = blocks[1].copy(), blocks[0].copy()
    forward[ACTION] = TOKENIZER.actions.start + grid.FORWARD
    blind[FIRST_CELL + grid.FRONT_CELL[0] * grid.VIEW + grid.FRONT_CELL[1]] = TOKENIZER.masked_cell
    assert not reckon(forward, blind, position, heading)[2]
    turn = blocks[1].copy()
    turn[ACTION] = TOKENIZER.actions.start + grid.LEFT
    moved, turned, known = reckon(turn, blind, position, heading)
    assert known
    assert turned == 0


@pytest.mark.parametrize(("shown", "known"), [(0, True), (1, False), (2, True), (3, False)])
def test_a_visible_heading_tells_a_turn_whose_action_is_hidden(
    episodes: list[Trajectory], shown: int, known: bool
) -> None:
    blocks = TOKENIZER.encode(episodes[0])[1:]
    position, heading = np.array([4, -2]), np.array(1)
    hidden = blocks[1].copy()
    hidden[ACTION], hidden[DIRECTION] = TOKENIZER.mask, TOKENIZER.directions.start + shown
    moved, turned, found = reckon(hidden, blocks[0], position, heading)
    assert bool(found) is known
    assert tuple(moved) == (4, -2)
    assert turned == (shown if known else 1)


def test_memory_holds_the_latest_sighting_of_each_place(episodes: list[Trajectory]) -> None:
    for trajectory in episodes:
        frames = len(trajectory) + 1
        led_here = np.append(-1, trajectory.actions)
        path = geometry.positions(trajectory.images, trajectory.directions, led_here, np.array([0]))
        world = geometry.world_cells(path, trajectory.directions)
        ids = TOKENIZER.cell_ids(trajectory.images)
        expected: dict[tuple[int, int], tuple[int, int]] = {}
        for frame in range(frames):
            for column, row in np.ndindex(grid.VIEW, grid.VIEW):
                own = (column, row) == grid.AGENT_CELL
                place = tuple(world[frame, column, row])
                if trajectory.images[frame, column, row, 0] != grid.UNSEEN and not own:
                    expected[place] = (int(ids[frame, column, row]), frame + 1)
        together, stepwise = geometry.LastSeen.empty(1), geometry.LastSeen.empty(1)
        together.note(np.zeros(frames, int), trajectory.images, ids, world, np.arange(frames) + 1)
        for frame in range(frames):
            part = slice(frame, frame + 1)
            stepwise.note(np.zeros(1, int), trajectory.images[part], ids[part], world[part], np.array([frame + 1]))
        for place, (cell, time) in expected.items():
            for memory in (together, stepwise):
                found, when = memory.look_up(np.array(place)[None])
                assert (int(found[0]), int(when[0])) == (cell, time)


def test_recall_gives_what_is_nearest_and_nothing_that_is_in_view(episodes: list[Trajectory]) -> None:
    trajectory = max(episodes, key=len)
    frames = len(trajectory) + 1
    path = geometry.positions(
        trajectory.images, trajectory.directions, np.append(-1, trajectory.actions), np.array([0])
    )
    world = geometry.world_cells(path, trajectory.directions)
    memory = geometry.LastSeen.empty(1)
    ids = TOKENIZER.cell_ids(trajectory.images)
    memory.note(np.zeros(frames, int), trajectory.images, ids, world, np.arange(frames) + 1)
    args = (path[-1:], trajectory.directions[-1:], np.array([frames]))
    whole, fitting = memory.recall(*args, 400), memory.recall(*args, 400, multiple=8)
    assert fitting[0].shape[1] < 400
    assert fitting[0].shape[1] % 8 == 0
    for part, all_of_it in zip(fitting, whole, strict=True):
        np.testing.assert_array_equal(part[fitting[1] >= 0], all_of_it[whole[1] >= 0])
    few, times, places = memory.recall(*args, 10)
    _, all_times, all_places = memory.recall(*args, 400)
    assert few.shape == (1, 10)
    assert (all_times < frames).all()
    known = {tuple(place) for place in all_places[0][all_times[0] >= 0]}
    in_view = {tuple(place) for place in world[-1][trajectory.images[-1, ..., 0] != grid.UNSEEN]}
    in_view.discard(tuple(path[-1]))  # under its own feet the agent sees what it carries, so that place is recalled
    assert not known & in_view
    assert len(known) == (all_times >= 0).sum()
    assert {tuple(place) for place in places[0][times[0] >= 0]} <= known
