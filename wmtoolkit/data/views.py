"""MiniGrid's symbolic view, computed several times faster; equal to the original cell by cell.

MiniGrid builds, rotates and encodes grid objects cell by cell for each observation, which takes most of a step.
Here the 49 cells are looked up once and visibility is found row by row from a table of bit masks.
"""

from __future__ import annotations

from functools import cache
from types import MethodType
from typing import Any

import numpy as np
from minigrid.core.constants import IDX_TO_COLOR, OBJECT_TO_IDX
from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.world import grid

_COLUMNS = range(grid.VIEW)
_CELLS = [[(column, row) for column in _COLUMNS] for row in reversed(_COLUMNS)]
_OFFSETS = [
    [[tuple(grid.world_offsets(direction)[cell].tolist()) for cell in row] for row in _CELLS] for direction in range(4)
]
"""Displacement of each view cell from the agent: [direction][row, nearest first][column]."""
_ALL = (1 << grid.VIEW) - 1
_EMPTY = (OBJECT_TO_IDX["empty"], 0, 0)
_OUTSIDE = (OBJECT_TO_IDX["wall"], {color: index for index, color in IDX_TO_COLOR.items()}["grey"], 0)


@cache
def _spread(lit: int, clear: int) -> tuple[int, int]:
    """Spread sight along one row, to the right and then to the left.

    Args:
        lit: bit i is set where column i is seen so far.
        clear: bit i is set where column i can be seen through.

    Returns:
        What is seen in this row, and what of it is passed on to the row behind.
    """
    ahead = 0
    for column in range(grid.VIEW - 1):
        if lit & clear & (1 << column):
            lit |= 2 << column
            ahead |= 3 << column
    for column in reversed(range(1, grid.VIEW)):
        if lit & clear & (1 << column):
            lit |= 1 << (column - 1)
            ahead |= 3 << (column - 1)
    return lit, ahead


def _look(env: MiniGridEnv) -> tuple[list[list[Any]], list[int]]:
    """Cells in view, nearest row first (``False`` outside the world), and each row's mask of seen columns."""
    x, y = env.agent_pos
    x, y = int(x), int(y)
    width, height, cells = env.width, env.height, env.grid.grid
    rows, masks = [], []
    lit = 1 << grid.AGENT_CELL[0]
    for offsets in _OFFSETS[env.agent_dir]:
        row: list[Any] = []
        clear = 0
        bit = 1
        for dx, dy in offsets:
            column, line = x + dx, y + dy
            if 0 <= column < width and 0 <= line < height:
                cell = cells[line * width + column]
                if cell is None or cell.see_behind():
                    clear |= bit
            else:
                cell = False
            row.append(cell)
            bit <<= 1
        seen, lit = _spread(lit, clear)
        rows.append(row)
        masks.append(_ALL if env.see_through_walls else seen)
    return rows, masks


def fast_image(env: MiniGridEnv) -> np.ndarray:
    """The (7, 7, 3) uint8 view that ``env.gen_obs()["image"]`` gives."""
    rows, masks = _look(env)
    rows[0][grid.AGENT_CELL[0]] = env.carrying
    image = np.zeros((grid.VIEW, grid.VIEW, 3), np.uint8)
    flat: list[int] = []
    for row, seen in zip(rows, masks, strict=True):
        for cell in row:
            if not seen & 1:
                flat += (0, 0, 0)
            elif cell is None:
                flat += _EMPTY
            elif cell is False:
                flat += _OUTSIDE
            else:
                flat += cell.encode()
            seen >>= 1
    image[:] = np.array(flat, np.uint8).reshape(grid.VIEW, grid.VIEW, 3)[::-1].swapaxes(0, 1)
    return image


def seen_cells(env: MiniGridEnv) -> list[tuple[int, int]]:
    """World coordinates of the cells in sight, also those outside the world."""
    x, y = env.agent_pos
    _, masks = _look(env)
    return [
        (int(x) + dx, int(y) + dy)
        for offsets, seen in zip(_OFFSETS[env.agent_dir], masks, strict=True)
        for column, (dx, dy) in enumerate(offsets)
        if seen >> column & 1
    ]


def speed_up(env: MiniGridEnv) -> bool:
    """Make this level compute its observations the fast way; True if it could be done. Copies of it stay fast.

    Left alone are levels with another view size and those that bring their own observations.
    """
    standard = all(
        getattr(type(env), name) is getattr(MiniGridEnv, name) for name in ("gen_obs", "gen_obs_grid", "get_view_exts")
    )
    if not standard or env.agent_view_size != grid.VIEW:
        return False
    env.gen_obs = MethodType(gen_obs, env)  # type: ignore[method-assign]
    return True


def gen_obs(env: MiniGridEnv) -> dict[str, Any]:
    """MiniGrid's observation dict. It bears the name of the method it stands in for, so that levels can be pickled."""
    return {"image": fast_image(env), "direction": env.agent_dir, "mission": env.mission}
