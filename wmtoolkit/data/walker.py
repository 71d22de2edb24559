"""Finding a way through the simulator's grid: what the tour and the goal bot walk by.

They read the whole level, as BabyAI's bot does. Doors on the way are opened, locked ones if the key is carried.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.world import grid

_STEPS = tuple(tuple(int(value) for value in grid.forward_vector(direction)) for direction in range(4))

Cell = tuple[int, int]


def position(env: MiniGridEnv) -> Cell:
    """The agent's cell (x, y) as plain ints."""
    x, y = env.agent_pos
    return int(x), int(y)


def front(env: MiniGridEnv) -> Cell:
    """The cell (x, y) ahead of the agent."""
    x, y = position(env)
    dx, dy = _STEPS[env.agent_dir]
    return x + dx, y + dy


def beside(cell: Cell) -> list[Cell]:
    """The four cells around a cell."""
    return [(cell[0] + dx, cell[1] + dy) for dx, dy in _STEPS]


def objects(env: MiniGridEnv, kinds: tuple[str, ...]) -> list[tuple[Cell, Any]]:
    """Cells that hold an object of one of these kinds, in reading order, with the object."""
    return [
        ((index % env.width, index // env.width), cell)
        for index, cell in enumerate(env.grid.grid)
        if cell is not None and cell.type in kinds
    ]


def opens(env: MiniGridEnv, door: Any) -> bool:
    """Whether toggling this door opens it: it is shut, and unlocked or the matching key is carried."""
    if door.is_open:
        return False
    carried = env.carrying
    return not door.is_locked or (carried is not None and carried.type == "key" and carried.color == door.color)


def _passable(env: MiniGridEnv, cell: Any) -> bool:
    if cell is None or cell.type == "floor":
        return True
    return cell.type == "door" and (cell.is_open or opens(env, cell))


def path_to(env: MiniGridEnv, arrived: Callable[[Cell], bool]) -> list[Cell] | None:
    """Shortest way, in cells, to a cell next to one that is ``arrived``; that cell comes last.

    Goals and lava are not walked over on the way.

    Returns:
        The cells after the agent's own, at least one; None where there is no way.
    """
    start = position(env)
    came_from: dict[Cell, Cell | None] = {start: None}
    queue = deque([start])
    width, height, cells = env.width, env.height, env.grid.grid
    while queue:
        cell = queue.popleft()
        for dx, dy in _STEPS:
            after = (cell[0] + dx, cell[1] + dy)
            if after in came_from or not (0 <= after[0] < width and 0 <= after[1] < height):
                continue
            if arrived(after):
                path = [after]
                here: Cell | None = cell
                while here is not None and here != start:
                    path.append(here)
                    here = came_from[here]
                return path[::-1]
            if _passable(env, cells[after[1] * width + after[0]]):
                came_from[after] = cell
                queue.append(after)
    return None


def step_towards(env: MiniGridEnv, cell: Cell) -> int | None:
    """The action that turns to a neighbouring cell, opens its door or enters it; None if it is no neighbour.

    The caller stops when it faces the last cell of its path; what stands there is its own affair.
    """
    x, y = position(env)
    offset = (cell[0] - x, cell[1] - y)
    if offset not in _STEPS:
        return None
    turn = (_STEPS.index(offset) - env.agent_dir) % 4
    if turn:
        return grid.LEFT if turn == 3 else grid.RIGHT
    ahead: Any = env.grid.get(*cell)
    if ahead is not None and ahead.type == "door" and not ahead.is_open:
        return grid.TOGGLE
    return grid.FORWARD
