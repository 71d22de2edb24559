"""What is hidden of blocks: strategies that a block draws on its own, and the question for a goal.

Visible is True: (n, 3) of the slots before the cells, and (n, 49, 3) of the cells' attributes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .layout import ACTION, DIRECTION, FIRST_CELL, OUTCOME, SLOTS, Layout

MIXTURE = {
    "forward": 0.35,
    "policy": 0.20,
    "outcome": 0.16,
    "cell": 0.11,
    "inverse": 0.10,
    "attribute": 0.05,
    "belief": 0.03,
}
"""Share of each mask under block diffusion."""
FULL_MIXTURE = {"goal": 0.35, "cell": 0.20, "attribute": 0.15, "belief": 0.10, "inverse": 0.10, "forward": 0.10}
"""The same under full attention."""


def draw(
    mixture: Mapping[str, float], count: int, rng: np.random.Generator, noise_range: tuple[float, float] = (0.0, 1.0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks of ``count`` blocks, each by a strategy of its own: slots, cells, and the names of the strategies."""
    shares = np.array([mixture.get(name, 0.0) for name in STRATEGIES])
    shares = shares / shares.sum() if shares.sum() else np.full(len(shares), 1 / len(shares))
    strategy = rng.choice(list(STRATEGIES), size=count, p=shares).astype(object)
    low, high = noise_range
    slots, cells = np.ones((count, FIRST_CELL), bool), np.ones((count, SLOTS - FIRST_CELL, 3), bool)
    for block, name in enumerate(strategy):
        STRATEGIES[name](slots[block], cells[block], low + (high - low) * rng.random(), rng)
    return slots, cells, strategy


def _forward(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    slots[OUTCOME:], cells[:] = False, False


def _policy(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    slots[:], cells[:] = False, False


def _inverse(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    slots[ACTION] = False


def _outcome(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    slots[OUTCOME] = False


def _cell(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    """Any order over whole tokens: a uniform number of them, then which ones is uniform."""
    visible = np.ones(SLOTS, bool)
    visible[rng.permutation(SLOTS)[: max(1, int(np.ceil(ratio * SLOTS)))]] = False
    slots[:], cells[:] = visible[:FIRST_CELL], visible[FIRST_CELL:, None]


def _attribute(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    """Any order over attributes, each on its own."""
    slots[:], cells[:] = rng.random(slots.shape) >= ratio, rng.random(cells.shape) >= ratio


def _belief(slots: np.ndarray, cells: np.ndarray, ratio: float, rng: np.random.Generator) -> None:
    """Whole cells hidden, all else visible."""
    cells[:] = (rng.random(len(cells)) >= ratio)[:, None]


STRATEGIES = {
    "forward": _forward,
    "policy": _policy,
    "inverse": _inverse,
    "outcome": _outcome,
    "cell": _cell,
    "attribute": _attribute,
    "belief": _belief,
}


def ask_goal(
    slots: np.ndarray, cells: np.ndarray, frames: int, success: bool, span: int, rng: np.random.Generator
) -> np.ndarray:
    """Hide the way to a goal, in place: what lies before it is visible, and of the goal the wish; nothing between.

    The wish is SUCCESS where the episode ends so, or the whole frame but for the action that led to it.

    Returns:
        (n,) bool, the blocks up to the goal: those behind it take no part.
    """
    last = frames - 1
    ending = success and rng.random() < 0.5
    goal = last if ending or last < 2 else int(rng.integers(1, last + 1))
    begin = max(0, goal - int(rng.integers(1, span)))
    slots[:], cells[:] = True, True
    slots[begin + 1 : goal + 1], cells[begin + 1 : goal + 1] = False, False
    slots[goal, OUTCOME] = True
    if not (success and goal == last) or rng.random() < 0.5:
        slots[goal, DIRECTION], cells[goal] = True, True
    return np.arange(len(slots)) <= goal


def hide(blocks: np.ndarray, slots: np.ndarray, cells: np.ndarray, layout: Layout) -> np.ndarray:
    """Blocks (n, size) with what is not visible replaced by the mask or, in a cell, by "?"; padding stays."""
    noisy = blocks.copy()
    noisy[:, :FIRST_CELL][~slots] = layout.mask
    there = blocks[:, FIRST_CELL:SLOTS] != layout.pad
    parts = np.where(cells, layout.parts(blocks[:, FIRST_CELL:SLOTS]), layout.attributes)
    noisy[:, FIRST_CELL:SLOTS] = np.where(there, layout.cells(parts), layout.pad)
    return noisy
