"""Trajectories as blocks of 52 tokens, and back.

Block 0 is the mission: ``[behaviour, word, word, ..., PAD, ...]``. Block t+1 is one time step:
``[action that led here, outcome, direction, 49 cells]``; for t = 0 the action is BOS and the outcome START.
A cell is one token out of the composite vocabulary (object or ?) x (colour or ?) x (state or ?).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, Trajectory, mission_text, mission_words

BLOCK = 3 + grid.CELLS
"""Tokens in a block."""
ACTION, OUTCOME, DIRECTION, FIRST_CELL = 0, 1, 2, 3
"""Slots of a time step's block."""
FRONT_SLOT, OWN_SLOT = (FIRST_CELL + column * grid.VIEW + row for column, row in (grid.FRONT_CELL, grid.AGENT_CELL))
"""Slots of the cell in front of the agent, and of its own, which shows what it carries."""
BEHAVIOUR, FIRST_WORD = 0, 1
"""Slots of the mission block."""
MAX_WORDS = BLOCK - FIRST_WORD

ATTRIBUTES = (len(grid.OBJECTS), len(grid.COLORS), len(grid.STATES))
"""Number of values of a cell's object, colour and state; the value equal to the number itself stands for "?"."""


@dataclass(frozen=True)
class Visibility:
    """What of a trajectory may be seen, attribute by attribute; True = visible.

    Attributes:
        images: (T+1, 7, 7, 3) bool.
        directions, outcomes: (T+1,) bool.
        actions: (T,) bool.
        mission: (51,) bool, one for each word slot (the slots after the last word hold padding).
        behaviour: bool.
    """

    images: np.ndarray
    directions: np.ndarray
    outcomes: np.ndarray
    actions: np.ndarray
    mission: np.ndarray
    behaviour: bool = True

    @classmethod
    def full(cls, steps: int, visible: bool = True) -> Visibility:
        """Everything visible (or nothing) in a trajectory of ``steps`` actions; fresh arrays to write into."""
        return cls(
            images=np.full((steps + 1, grid.VIEW, grid.VIEW, 3), visible),
            directions=np.full(steps + 1, visible),
            outcomes=np.full(steps + 1, visible),
            actions=np.full(steps, visible),
            mission=np.full(MAX_WORDS, visible),
            behaviour=visible,
        )


class WorldTokenizer:
    """Maps trajectories to integer ids and back. Stateless: the vocabulary is MiniGrid's own tables.

    Ids: PAD, MASK, behaviours, mission words, actions and BOS, outcomes, directions, then 12 x 7 x 5 cells.
    """

    pad, mask = 0, 1

    def __init__(self) -> None:
        names = ["[PAD]", "[MASK]"]
        self.behaviours = self._range(names, BEHAVIOURS)
        self.words = self._range(names, grid.WORDS)
        self.actions = self._range(names, (*grid.ACTIONS, "[BOS]"))
        self.outcomes = self._range(names, tuple(outcome.name for outcome in Outcome))
        self.directions = self._range(names, tuple(f"heading {name}" for name in grid.DIRECTIONS))
        table = ((*grid.OBJECTS, "?"), (*grid.COLORS, "?"), (*grid.STATES, "?"))
        cells = tuple(f"{color} {thing} {state}" for thing in table[0] for color in table[1] for state in table[2])
        self.cells = self._range(names, cells)
        self.names = tuple(names)
        self.vocab_size = len(names)
        self.bos = self.actions.stop - 1
        self.masked_cell = self.cells.stop - 1
        self._word_ids = {word: self.words.start + index for index, word in enumerate(grid.WORDS)}

    @staticmethod
    def _range(names: list[str], new: tuple[str, ...]) -> range:
        names.extend(new)
        return range(len(names) - len(new), len(names))

    @property
    def fingerprint(self) -> str:
        """Hash of the vocabulary; a checkpoint of another vocabulary is refused by it."""
        return hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:16]

    # Cells

    def cell_ids(self, cells: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        """(..., 3) integer attributes -> (...) ids; hidden attributes become "?"."""
        cells = np.asarray(cells, dtype=np.int64)
        if visible is not None:
            cells = np.where(visible, cells, ATTRIBUTES)
        objects, colors, states = (size + 1 for size in ATTRIBUTES)
        assert objects * colors * states == len(self.cells)
        return self.cells.start + (cells[..., 0] * colors + cells[..., 1]) * states + cells[..., 2]

    def cell_attributes(self, ids: np.ndarray) -> np.ndarray:
        """Inverse of ``cell_ids``: (...) ids -> (..., 3) attributes, "?" as the attribute's number of values."""
        _, colors, states = (size + 1 for size in ATTRIBUTES)
        flat = np.asarray(ids, dtype=np.int64) - self.cells.start
        return np.stack([flat // (colors * states), flat // states % colors, flat % states], axis=-1)

    def is_masked(self, ids: np.ndarray) -> np.ndarray:
        """(...) ids -> (...) bool: which tokens hide anything, MASK or a cell with a "?"."""
        return (ids == self.mask) | ((ids >= self.cells.start) & (self.cell_attributes(ids) == ATTRIBUTES).any(-1))

    # Blocks

    def mission_block(self, mission: str, behaviour: str, visible: Visibility | None = None) -> np.ndarray:
        """(52,) ids of block 0.

        Raises:
            UserError: for a word outside BabyAI's grammar or a mission of more than 51 words.
        """
        words = mission_words(mission)
        unknown = [word for word in words if word not in self._word_ids]
        if unknown:
            raise UserError(f"mission {mission!r} has words outside the vocabulary: {', '.join(unknown)}")
        if len(words) > MAX_WORDS:
            raise UserError(f"mission of {len(words)} words is longer than the {MAX_WORDS} a block holds")
        ids = np.full(BLOCK, self.pad, dtype=np.int64)
        ids[BEHAVIOUR] = self.behaviours.start + BEHAVIOURS.index(behaviour)
        ids[FIRST_WORD : FIRST_WORD + len(words)] = [self._word_ids[word] for word in words]
        if visible is not None:
            ids[FIRST_WORD:][~visible.mission] = self.mask
            if not visible.behaviour:
                ids[BEHAVIOUR] = self.mask
        return ids

    def step_blocks(
        self,
        images: np.ndarray,
        directions: np.ndarray,
        actions: np.ndarray,
        outcomes: np.ndarray,
        visible_cells: np.ndarray | None = None,
    ) -> np.ndarray:
        """Time steps as blocks.

        Args:
            images: (..., 7, 7, 3) integers.
            directions, outcomes: (...) integers.
            actions: (...) integers, the action that led to each frame; -1 = BOS.
            visible_cells: (..., 7, 7, 3) bool or None for all.

        Returns:
            (..., 52) int64 ids.
        """
        actions = np.asarray(actions)
        ids = np.empty((*actions.shape, BLOCK), dtype=np.int64)
        ids[..., ACTION] = np.where(actions < 0, self.bos, self.actions.start + actions)
        ids[..., OUTCOME] = self.outcomes.start + np.asarray(outcomes)
        ids[..., DIRECTION] = self.directions.start + np.asarray(directions)
        ids[..., FIRST_CELL:] = self.cell_ids(images, visible_cells).reshape(*actions.shape, grid.CELLS)
        return ids

    def encode(self, trajectory: Trajectory, visible: Visibility | None = None) -> np.ndarray:
        """(T+2, 52) int64 ids of a trajectory of T actions; what is not visible becomes MASK or "?"."""
        led_here = np.concatenate([[-1], trajectory.actions])
        steps = self.step_blocks(
            trajectory.images,
            trajectory.directions,
            led_here,
            trajectory.outcomes,
            None if visible is None else visible.images,
        )
        if visible is not None:
            steps[1:, ACTION][~visible.actions] = self.mask
            steps[:, OUTCOME][~visible.outcomes] = self.mask
            steps[:, DIRECTION][~visible.directions] = self.mask
        mission = self.mission_block(trajectory.mission, trajectory.behaviour, visible)
        return np.concatenate([mission[None], steps])

    def decode(self, ids: np.ndarray, max_steps: int | None = None) -> tuple[Trajectory, Visibility]:
        """Inverse of ``encode``.

        Args:
            ids: (T+2, 52).
            max_steps: the level's limit, from which MiniGrid computes the reward 1 - 0.9·T/max_steps of a success;
                without it a success is rewarded with 1.

        Returns:
            The trajectory (0 where hidden) and what of it is visible.
        """
        mission, steps = np.asarray(ids[0]), np.asarray(ids[1:])
        attributes = self.cell_attributes(steps[:, FIRST_CELL:]).reshape(-1, grid.VIEW, grid.VIEW, 3)
        visible = Visibility(
            images=attributes < ATTRIBUTES,
            directions=steps[:, DIRECTION] != self.mask,
            outcomes=steps[:, OUTCOME] != self.mask,
            actions=steps[1:, ACTION] != self.mask,
            mission=mission[FIRST_WORD:] != self.mask,
            behaviour=bool(mission[BEHAVIOUR] != self.mask),
        )
        outcomes = np.where(visible.outcomes, steps[:, OUTCOME] - self.outcomes.start, Outcome.CONTINUE)[1:]
        count = len(steps) - 1
        reward = 1.0 if max_steps is None else 1.0 - 0.9 * count / max_steps
        words = [grid.WORDS[word - self.words.start] for word in mission[FIRST_WORD:] if word in self.words]
        trajectory = Trajectory(
            mission=mission_text(words),
            images=np.where(visible.images, attributes, 0).astype(np.uint8),
            directions=np.where(visible.directions, steps[:, DIRECTION] - self.directions.start, 0),
            actions=np.where(visible.actions, steps[1:, ACTION] - self.actions.start, 0),
            rewards=np.where(outcomes == Outcome.SUCCESS, reward, 0.0).astype(np.float32),
            terminations=np.isin(outcomes, (Outcome.SUCCESS, Outcome.FAILURE)),
            truncations=np.zeros(count, bool),
            behaviour=BEHAVIOURS[mission[BEHAVIOUR] - self.behaviours.start] if visible.behaviour else "agent",
        )
        return trajectory, visible
