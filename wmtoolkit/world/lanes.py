"""The past of a batch of lanes: their newest frames, where and when these are, and every cell seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from wmtoolkit.world import geometry, grid
from wmtoolkit.world.expectation import note_blocks
from wmtoolkit.world.tokenizer import BLOCK, WorldTokenizer
from wmtoolkit.world.trajectory import Outcome, Trajectory

_TOKENIZER = WorldTokenizer()


@dataclass(frozen=True)
class Lanes:
    """B lanes, each with the n newest frames of its past, the newest last. Never changed: what follows is a new one.

    Attributes:
        mission: (B, 52) int64 mission blocks.
        ids: (B, n, 52) int64 blocks of the frames.
        time: (B, n) int64, 1 for the first frame.
        position, heading: (B, n, 2), (B, n) int64 poses in coordinates that begin at the first frame.
        valid: (B, n) bool, False where the past is shorter.
        start: (B,) int64 heading of the first frame.
        seen: all cells seen so far, if they are remembered.
    """

    mission: np.ndarray
    ids: np.ndarray
    time: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    valid: np.ndarray
    start: np.ndarray
    seen: geometry.LastSeen | None

    def __len__(self) -> int:
        """Number of lanes B."""
        return len(self.ids)

    @classmethod
    def of(cls, histories: Sequence[Trajectory], recent: int, remember: bool) -> Lanes:
        """One lane a history, of which ``recent`` frames are kept; each has at least one observation."""
        lanes = len(histories)
        mission = np.stack([_TOKENIZER.mission_block(history.mission, "bot") for history in histories])
        ids = np.full((lanes, recent, BLOCK), _TOKENIZER.pad)
        time, heading = np.zeros((2, lanes, recent), np.int64)
        position, valid = np.zeros((lanes, recent, 2), np.int64), np.zeros((lanes, recent), bool)
        seen = geometry.LastSeen.empty(lanes) if remember else None
        for lane, history in enumerate(histories):
            blocks = _TOKENIZER.encode(history)[1:]
            count = len(blocks)
            path = geometry.positions(history.images, history.directions, np.append(-1, history.actions), np.array([0]))
            times, kept = np.arange(count) + 1, min(recent, count)
            ids[lane, -kept:], valid[lane, -kept:], time[lane, -kept:] = blocks[-kept:], True, times[-kept:]
            heading[lane, -kept:], position[lane, -kept:] = history.directions[-kept:], path[-kept:]
            if seen is not None:
                note_blocks(seen, np.full(count, lane), blocks, path, history.directions, times)
        first = np.array([history.directions[0] for history in histories], dtype=np.int64)
        return cls(mission, ids, time, position, heading, valid, first, seen)

    @classmethod
    def empty(cls, missions: Sequence[str], recent: int, remember: bool) -> Lanes:
        """One lane a mission, in which nothing has happened or been seen yet."""
        lanes = len(missions)
        nothing = np.zeros((lanes, recent), np.int64)
        blank = np.zeros((lanes, recent, grid.VIEW, grid.VIEW, 3), np.int64)
        return cls(
            np.stack([_TOKENIZER.mission_block(text, "bot") for text in missions]),
            _TOKENIZER.step_blocks(blank, nothing, nothing - 1, nothing + Outcome.START),
            nothing,
            np.zeros((lanes, recent, 2), np.int64),
            nothing,
            np.zeros((lanes, recent), bool),
            np.zeros(lanes, np.int64),
            geometry.LastSeen.empty(lanes) if remember else None,
        )

    def select(self, rows: np.ndarray) -> Lanes:
        """Lanes of which the i-th is a copy of lane ``rows[i]``."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return Lanes(**arrays, seen=None if self.seen is None else self.seen.select(rows))

    @staticmethod
    def cat(parts: Sequence[Lanes]) -> Lanes:
        """All lanes of all parts, in order."""
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
        seen = [part.seen for part in parts if part.seen is not None]
        return Lanes(**arrays, seen=geometry.LastSeen.cat(seen) if seen else None)

    def followed(
        self,
        ids: np.ndarray,
        time: np.ndarray,
        position: np.ndarray,
        heading: np.ndarray,
        start: np.ndarray | None = None,
    ) -> Lanes:
        """The lanes after one more frame each: its block (B, 52), time (B,) and pose (B, 2), (B,).

        ``start`` (B,) is the heading of first frames, where these are just that.
        """

        def shifted(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.concatenate([old[:, 1:], new[:, None]], axis=1)

        seen = self.seen
        if seen is not None:
            seen = seen.copy()
            note_blocks(seen, np.arange(len(self)), ids, position, heading, time)
        return Lanes(
            self.mission,
            shifted(self.ids, ids),
            shifted(self.time, time),
            shifted(self.position, position),
            shifted(self.heading, heading),
            shifted(self.valid, np.ones(len(self), bool)),
            self.start if start is None else start,
            seen,
        )


_ARRAYS = tuple(field.name for field in fields(Lanes) if field.name != "seen")
