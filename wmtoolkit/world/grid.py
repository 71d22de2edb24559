"""Facts about MiniGrid's symbolic view, taken from MiniGrid itself and kept in this one place.

A view is ``image[column, row]``: the first axis runs left to right, the second from far to near. The agent stands
at column 3, row 6 and looks towards row 0; the cell in front of it is column 3, row 5.
"""

from __future__ import annotations

import numpy as np
from minigrid.core.actions import Actions
from minigrid.core.constants import COLOR_TO_IDX, DIR_TO_VEC, OBJECT_TO_IDX, STATE_TO_IDX

VIEW = 7
"""Width and height of the egocentric view, in cells."""
CELLS = VIEW * VIEW
AGENT_CELL = (VIEW // 2, VIEW - 1)
FRONT_CELL = (VIEW // 2, VIEW - 2)

OBJECTS: tuple[str, ...] = tuple(sorted(OBJECT_TO_IDX, key=OBJECT_TO_IDX.__getitem__))
COLORS: tuple[str, ...] = tuple(sorted(COLOR_TO_IDX, key=COLOR_TO_IDX.__getitem__))
STATES: tuple[str, ...] = (*sorted(STATE_TO_IDX, key=STATE_TO_IDX.__getitem__), "heading 3")
"""State channel: open, closed, locked for a door, 0 elsewhere; full views put the agent's heading 0-3 there."""
ACTIONS: tuple[str, ...] = tuple(action.name for action in Actions)
DIRECTIONS: tuple[str, ...] = ("right", "down", "left", "up")

UNSEEN = OBJECT_TO_IDX["unseen"]
EMPTY = OBJECT_TO_IDX["empty"]
WALL = OBJECT_TO_IDX["wall"]
DOOR = OBJECT_TO_IDX["door"]
OPEN = STATE_TO_IDX["open"]
PORTABLE = tuple(OBJECT_TO_IDX[name] for name in ("key", "ball", "box"))
"""Objects an agent can carry."""
ENTERABLE = tuple(OBJECT_TO_IDX[name] for name in ("empty", "floor", "goal", "lava"))
"""Objects an agent walks onto; a door too, when its state is open."""

LEFT, RIGHT, FORWARD = int(Actions.left), int(Actions.right), int(Actions.forward)
PICKUP, DROP, TOGGLE, DONE = int(Actions.pickup), int(Actions.drop), int(Actions.toggle), int(Actions.done)

WORDS: tuple[str, ...] = tuple(
    [
        ",",
        "a",
        "after",
        "and",
        "at",
        "avoid",
        "ball",
        "behind",
        "blue",
        "box",
        "door",
        "end",
        "fetch",
        "find",
        "from",
        "front",
        "get",
        "go",
        "goal",
        "green",
        "grey",
        "hallway",
        "in",
        "key",
        "lava",
        "left",
        "matching",
        "maze",
        "must",
        "near",
        "next",
        "object",
        "of",
        "on",
        "open",
        "opening",
        "pick",
        "purple",
        "put",
        "reach",
        "red",
        "right",
        "room",
        "rooms",
        "square",
        "the",
        "then",
        "to",
        "traverse",
        "unlock",
        "up",
        "use",
        "yellow",
        "you",
        "your",
    ]
)
"""Every word of the missions of BabyAI's grammar and of MiniGrid's own levels; the comma is a word of its own."""

_VECTORS = np.array(DIR_TO_VEC, dtype=np.int64)


def world_offsets(direction: int | np.ndarray) -> np.ndarray:
    """World displacement of each view cell from the agent's cell.

    Args:
        direction: heading 0-3, a number or an int array of any shape S.

    Returns:
        int64 (S, 7, 7, 2): (x, y) offset of view cell [column, row]; x grows to the right, y downwards.
    """
    forward = _VECTORS[np.asarray(direction)]
    right = np.stack([-forward[..., 1], forward[..., 0]], axis=-1)
    column, row = np.meshgrid(np.arange(VIEW), np.arange(VIEW), indexing="ij")
    ahead, aside = AGENT_CELL[1] - row, column - AGENT_CELL[0]
    return ahead[..., None] * forward[..., None, None, :] + aside[..., None] * right[..., None, None, :]


def forward_vector(direction: int | np.ndarray) -> np.ndarray:
    """World displacement (x, y) of one step ahead; int64 of shape (S, 2) for directions of shape S."""
    return _VECTORS[np.asarray(direction)]


def enterable(cells: np.ndarray) -> np.ndarray:
    """Whether the agent may walk onto each cell; cells (..., 3) integer triples -> bool (...)."""
    objects, states = cells[..., 0], cells[..., 2]
    return np.isin(objects, ENTERABLE) | ((objects == DOOR) & (states == OPEN))
