"""What an agent has really seen, laid out in world coordinates by dead reckoning."""

from __future__ import annotations

from collections import Counter

import numpy as np

from wmtoolkit.agents.protocol import Observation
from wmtoolkit.world import grid

SIZE = 128
"""The map is a torus of this many cells a side, larger than any level seen from its start."""


class SeenMap:
    """Cells seen so far, relative to where the agent stood first.

    Uses how MiniGrid moves: turns always succeed, and a step ahead does if the front cell can be entered; where that
    cell is unknown, the reading that agrees better with the next observation wins.

    Attributes:
        cells: (SIZE, SIZE, 3) uint8, [x, y] of (object, colour, state) as last seen; object ``unseen`` if never.
        position: (x, y) of the agent.
        direction: heading 0-3.
        time: number of steps taken.
        last_seen: (SIZE, SIZE) int64, the time each cell was last seen; -1: never.
        broken_promises: (SIZE, SIZE) int64, how often a cell was expected to show and did not.
        visits: how often the agent was in each pose (x, y, heading).
    """

    def __init__(self, observation: Observation) -> None:
        self.cells = np.zeros((SIZE, SIZE, 3), np.uint8)
        self.last_seen = np.full((SIZE, SIZE), -1)
        self.broken_promises = np.zeros((SIZE, SIZE), np.int64)
        self.time = 0
        self.visits: Counter[tuple[int, int, int]] = Counter()
        self.position = (SIZE // 2, SIZE // 2)
        self.direction = int(observation["direction"])
        self._write(np.asarray(observation["image"]))

    def update(self, action: int, observation: Observation, expected: np.ndarray | None = None) -> None:
        """Take in the observation that ``action`` led to, and the image (7, 7, 3) that was expected."""
        image = np.asarray(observation["image"])
        self.time += 1
        self.direction = int(observation["direction"])
        if action == grid.FORWARD:
            step = grid.forward_vector(self.direction)
            ahead = ((self.position[0] + int(step[0])) % SIZE, (self.position[1] + int(step[1])) % SIZE)
            front = self.cells[ahead]
            prior = 0.5 if front[0] == grid.UNSEEN or grid.enterable(front) else -0.5
            if self._agreement(image, ahead) + prior > self._agreement(image, self.position):
                self.position = ahead
        if expected is not None:
            broken = (expected[..., 0] != grid.UNSEEN) & (image[..., 0] == grid.UNSEEN)
            self.broken_promises.reshape(-1)[self._here(self.position)[broken]] += 1
        self._write(image)

    def index(self, positions: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Flat indices into the map of each view cell.

        Args:
            positions: (B, 2) ints.
            directions: (B,) headings.

        Returns:
            int64 (B, 7, 7).
        """
        places = (np.asarray(positions)[:, None, None, :] + grid.world_offsets(np.asarray(directions))) % SIZE
        return places[..., 0] * SIZE + places[..., 1]

    def _here(self, position: tuple[int, int]) -> np.ndarray:
        return self.index(np.array([position]), np.array([self.direction]))[0]

    def _agreement(self, image: np.ndarray, position: tuple[int, int]) -> int:
        """Cells that look as the map says, less those that do not, were the agent at ``position``."""
        known = self.cells.reshape(-1, 3)[self._here(position)]
        both = (known[..., 0] != grid.UNSEEN) & (image[..., 0] != grid.UNSEEN)
        both[grid.AGENT_CELL] = False
        same = (known == image).all(-1)
        return int((both & same).sum()) - int((both & ~same).sum())

    def _write(self, image: np.ndarray) -> None:
        shown = image[..., 0] != grid.UNSEEN
        shown[grid.AGENT_CELL] = False  # shows what is carried, not what lies there
        flat = self.cells.reshape(-1, 3)
        index = self._here(self.position)
        flat[index[shown]] = image[shown]
        self.last_seen.reshape(-1)[index[shown]] = self.time
        self.visits[(*self.position, self.direction)] += 1
        if flat[index[grid.AGENT_CELL], 0] == grid.UNSEEN:
            flat[index[grid.AGENT_CELL]] = (grid.EMPTY, 0, 0)
        self.last_seen.reshape(-1)[index[grid.AGENT_CELL]] = self.time
