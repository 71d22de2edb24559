"""What memory expects of a view: last sightings at the places it shows, cut by MiniGrid's rule of sight.

Prior knowledge about MiniGrid, and an option (``world.expectation``): dead reckoning says which places a view shows,
the rule says which of them are hidden behind walls and closed doors. Only visible tokens are looked at. What an action
does to an object, what was never seen, and how things end is left to the network.
"""

from __future__ import annotations

import numpy as np

from wmtoolkit.world import geometry, grid
from wmtoolkit.world.tokenizer import ACTION, FIRST_CELL, OWN_SLOT, WorldTokenizer

_TOKENIZER = WorldTokenizer()
CELL_IDS = len(_TOKENIZER.cells)
CODES = 1 + 2 * CELL_IDS
"""Codes of an expected cell: 0 = none is asked or the pose is unknown; then 1 + place among ``tokenizer.cells`` of what
is expected ("?" = never seen); the same + 420 where that hangs on cells never seen or on a door just toggled."""
NEVER_SEEN = 1 + _TOKENIZER.masked_cell - _TOKENIZER.cells.start
_UNSEEN = int(_TOKENIZER.cell_ids(np.array([grid.UNSEEN, 0, 0])))
_TOGGLE = _TOKENIZER.actions.start + grid.TOGGLE


def in_sight(clear: np.ndarray) -> np.ndarray:
    """MiniGrid's rule of sight (``Grid.process_vis``).

    Args:
        clear: (N, 7, 7) bool, cells of views that can be seen through; the agent's own always can.

    Returns:
        (N, 7, 7) bool, cells that are seen.
    """
    seen = np.zeros_like(clear)
    seen[(slice(None), *grid.AGENT_CELL)] = True
    clear = clear | seen
    for row in range(grid.VIEW - 1, -1, -1):
        for columns, step in ((range(grid.VIEW - 1), 1), (range(grid.VIEW - 1, 0, -1), -1)):
            for column in columns:
                through = seen[:, column, row] & clear[:, column, row]
                seen[:, column + step, row] |= through
                if row:
                    seen[:, column + step, row - 1] |= through
                    seen[:, column, row - 1] |= through
    return seen


def note_blocks(
    seen: geometry.LastSeen,
    lane: np.ndarray,
    blocks: np.ndarray,
    position: np.ndarray,
    heading: np.ndarray,
    time: np.ndarray,
) -> None:
    """Note the visible cells of frames, each lane's in order of time.

    Args:
        lane, heading, time: (F,); blocks: (F, 52), perhaps with masks; position: (F, 2).
    """
    cells = blocks[:, FIRST_CELL:].reshape(-1, grid.VIEW, grid.VIEW)
    images = np.where(_TOKENIZER.is_masked(cells)[..., None], grid.UNSEEN, _TOKENIZER.cell_attributes(cells))
    seen.note(lane, images, cells, geometry.world_cells(position, heading), time)


def expected_view(
    seen: geometry.LastSeen,
    previous: np.ndarray | None,
    ids: np.ndarray,
    position: np.ndarray,
    heading: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """Codes (see ``CODES``) of what memory expects where cells of blocks are hidden.

    Args:
        seen: sightings before these frames, B lanes.
        previous: (B, 52) the blocks before, perhaps with masks; None if there are none. Their agents' own cells show
            what is carried, which memory does not hold.
        ids: (B, 52) blocks with masks; position, heading: (B, 2), (B,) their poses; known: (B,) which are certain.

    Returns:
        (B, 52) int64.
    """
    shape = (len(ids), grid.VIEW, grid.VIEW)
    cells, times = seen.look_up(geometry.world_cells(position, heading))
    cells = np.where(times < 0, _TOKENIZER.masked_cell, cells)
    carried = _TOKENIZER.masked_cell if previous is None else previous[:, OWN_SLOT]
    cells[(slice(None), *grid.AGENT_CELL)] = np.where(carried < _TOKENIZER.cells.start, _TOKENIZER.masked_cell, carried)
    shown = ids[:, FIRST_CELL:].reshape(shape)
    asked = _TOKENIZER.is_masked(shown)
    cells = np.where(asked | (shown == _UNSEEN), cells, shown)
    looks = _TOKENIZER.cell_attributes(cells)
    door = looks[..., 0] == grid.DOOR
    opaque = (looks[..., 0] == grid.WALL) | (door & (looks[..., 2] != grid.OPEN))
    unsure = cells == _TOKENIZER.masked_cell
    front = (slice(None), *grid.FRONT_CELL)
    unsure[front] |= door[front] & (ids[:, ACTION] == _TOGGLE)
    most = in_sight(~opaque | unsure)
    least = in_sight(~opaque & ~unsure)
    code = 1 + np.where(most, cells, _UNSEEN) - _TOKENIZER.cells.start + CELL_IDS * (most & ~least)
    view = np.zeros(ids.shape, np.int64)
    view[:, FIRST_CELL:] = np.where(asked & known[:, None, None], code, 0).reshape(len(ids), -1)
    return view


__all__ = ["CELL_IDS", "CODES", "NEVER_SEEN", "expected_view", "in_sight", "note_blocks"]
