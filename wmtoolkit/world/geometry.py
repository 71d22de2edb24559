"""Dead reckoning: where the agent stood at each frame, and what it last saw where.

Nothing here looks at anything but actions, headings and views the agent had, so all of it is legitimate knowledge;
it is prior knowledge about MiniGrid all the same, and a model may be trained without it (``egomotion: false``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from wmtoolkit.world import grid

SPAN = 64
"""Side of the map, which wraps around: more than twice the largest BabyAI level."""


def displacement(direction: np.ndarray, action: np.ndarray, front: np.ndarray) -> np.ndarray:
    """Displacement (x, y) of one step.

    Args:
        direction: (...) heading before the step.
        action: (...) action taken; values other than FORWARD do not move.
        front: (..., 3) cell in front before the step.

    Returns:
        (..., 2) int64.
    """
    moves = (np.asarray(action) == grid.FORWARD) & grid.enterable(front)
    return grid.forward_vector(direction) * moves[..., None]


def turned(direction: ArrayLike, action: ArrayLike) -> np.ndarray:
    """Heading (...) after the action."""
    action = np.asarray(action)
    return (np.asarray(direction) + (action == grid.RIGHT) - (action == grid.LEFT)) % len(grid.DIRECTIONS)


def front_cells(images: np.ndarray) -> np.ndarray:
    """(..., 7, 7, 3) views -> (..., 3) the cell in front of the agent."""
    return images[(..., *grid.FRONT_CELL, slice(None))]


def positions(images: np.ndarray, directions: np.ndarray, actions: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Positions of all frames, each episode's first at (0, 0).

    Args:
        images: (N, 7, 7, 3) frames of episodes laid end to end.
        directions: (N,).
        actions: (N,) action that led to each frame.
        starts: (E,) index of each episode's first frame.

    Returns:
        (N, 2) int64 (x, y).
    """
    moves = np.zeros((len(images), 2), dtype=np.int64)
    moves[1:] = displacement(directions[:-1], actions[1:], front_cells(images[:-1]))
    moves[starts] = 0
    path = np.cumsum(moves, axis=0)
    lengths = np.diff(np.append(starts, len(images)))
    return path - np.repeat(path[starts], lengths, axis=0)


def world_cells(position: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """World coordinates of every view cell: position (..., 2), direction (...) -> (..., 7, 7, 2) int64."""
    return np.asarray(position)[..., None, None, :] + grid.world_offsets(direction)


class LastSeen:
    """What each of B lanes last saw at each world cell, and when.

    Attributes:
        cells: (B, 64, 64) int16 cell token ids.
        times: (B, 64, 64) int32 time of the sighting, -1 where nothing was seen.
    """

    def __init__(self, cells: np.ndarray, times: np.ndarray) -> None:
        self.cells, self.times = cells, times

    @classmethod
    def empty(cls, lanes: int) -> LastSeen:
        shape = (lanes, SPAN, SPAN)
        return cls(np.zeros(shape, np.int16), np.full(shape, -1, np.int32))

    def note(
        self, lane: np.ndarray, images: np.ndarray, cells: np.ndarray, world: np.ndarray, time: np.ndarray
    ) -> None:
        """Note frames, each lane's in order of time.

        The agent's own cell shows what it carries, not what lies there: it counts as a sighting only where there is
        no other.

        Args:
            lane, time: (F,) int.
            images: (F, 7, 7, 3); cells: (F, 7, 7) token ids of the same views.
            world: (F, 7, 7, 2) world coordinates.
        """
        time = np.asarray(time)
        seen = images[..., 0] != grid.UNSEEN
        own = seen[(slice(None), *grid.AGENT_CELL)].copy()
        seen[(slice(None), *grid.AGENT_CELL)] = False
        frame, column, row = np.nonzero(seen)
        x, y = (world[frame, column, row] % SPAN).T
        # Where frames of a lane overlap, numpy keeps the last one assigned, which is the latest.
        self.cells[lane[frame], x, y] = cells[frame, column, row]
        self.times[lane[frame], x, y] = time[frame]
        frame = np.flatnonzero(own)[::-1]  # the earliest is assigned last: it stays, as if noted one by one
        x, y = (world[(frame, *grid.AGENT_CELL)] % SPAN).T
        new = self.times[lane[frame], x, y] < 0
        self.cells[lane[frame][new], x[new], y[new]] = cells[(frame[new], *grid.AGENT_CELL)]
        self.times[lane[frame][new], x[new], y[new]] = time[frame][new]

    def look_up(self, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell ids and times (-1 = never seen) at world coordinates (B, ..., 2), each (B, ...)."""
        x, y = np.moveaxis(world % SPAN, -1, 0)
        lane = np.arange(len(world)).reshape(-1, *[1] * (x.ndim - 1))
        return self.cells[lane, x, y], self.times[lane, x, y]

    def recall(
        self, position: np.ndarray, direction: np.ndarray, before: np.ndarray, count: int, multiple: int = 0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sightings that matter most around each lane's agent.

        First what the next frame may show again, then the nearest.

        Args:
            position: (B, 2); direction: (B,).
            before: (B,) only sightings made before this time.
            count: number of cells wanted.
            multiple: above 0, return no more than all lanes need, rounded up to such a multiple.

        Returns:
            ids (B, count) int64, times (B, count) int64 with -1 for "nothing more", world (B, count, 2) int64.
        """
        priority = np.stack(
            [
                np.roll(_priority(int(heading)), (int(x) - SPAN // 2, int(y) - SPAN // 2), axis=(0, 1))
                for heading, (x, y) in zip(direction, position, strict=True)
            ]
        )
        known = (self.times >= 0) & (self.times < np.asarray(before)[:, None, None])
        if multiple:
            needed = int(known.sum(axis=(1, 2)).max(initial=1))
            count = min(count, -(-needed // multiple) * multiple)
        priority = np.where(known, priority, -1).reshape(len(priority), -1)
        best = np.argpartition(-priority, count - 1, axis=1)[:, :count]
        best = np.sort(best, axis=1)
        lane = np.arange(len(best))[:, None]
        times = np.where(priority[lane, best] < 0, -1, self.times.reshape(len(best), -1)[lane, best]).astype(np.int64)
        wrapped = np.stack(np.divmod(best, SPAN), axis=-1)
        near = (wrapped - position[:, None] + SPAN // 2) % SPAN - SPAN // 2
        ids = self.cells.reshape(len(best), -1)[lane, best].astype(np.int64)
        return ids, times, position[:, None] + near

    def limited(self, position: np.ndarray, direction: np.ndarray, before: np.ndarray, count: int) -> LastSeen:
        """Only the sightings made at ``before`` or later, and ``count`` of those before; arguments as ``recall``'s."""
        _, times, world = self.recall(position, direction, before, count)
        kept = np.where(self.times < np.asarray(before)[:, None, None], -1, self.times)
        lane, place = np.nonzero(times >= 0)
        x, y = (world[lane, place] % SPAN).T
        kept[lane, x, y] = times[lane, place]
        return LastSeen(self.cells, kept)

    def copy(self) -> LastSeen:
        """A copy of all lanes."""
        return LastSeen(self.cells.copy(), self.times.copy())

    def select(self, rows: np.ndarray) -> LastSeen:
        """Copies of the given lanes."""
        return LastSeen(self.cells[rows], self.times[rows])

    @staticmethod
    def cat(parts: Sequence[LastSeen]) -> LastSeen:
        """All lanes of all parts, in order."""
        return LastSeen(np.concatenate([part.cells for part in parts]), np.concatenate([part.times for part in parts]))


@cache
def _priority(direction: int) -> np.ndarray:
    """(64, 64) int64 rank of each cell around an agent at the centre: higher is recalled first; all different."""
    centre = np.array([SPAN // 2, SPAN // 2])
    rank = np.zeros((SPAN, SPAN), dtype=np.int64)
    for action in (grid.LEFT, grid.RIGHT, grid.FORWARD):
        ahead = grid.forward_vector(direction) * (action == grid.FORWARD)
        x, y = world_cells(centre + ahead, turned(np.int64(direction), action)).reshape(-1, 2).T
        rank[x, y] = 1
    offset = np.abs(np.stack(np.meshgrid(np.arange(SPAN), np.arange(SPAN), indexing="ij"), -1) - centre)
    nearness = SPAN - offset.max(-1)
    unique = np.arange(SPAN * SPAN).reshape(SPAN, SPAN)
    return ((rank * 2 * SPAN + nearness) * SPAN * SPAN + unique).astype(np.int64)
