"""Masking strategies: each a distribution over what of a time step's block is visible.

A draw is a ``Masks``: visibility of every element of blocks. Strategies differ only in what they hide; the query-shaped
ones hide exactly what the query asks for. Each block of a window draws its own strategy, but for ``goal``, which is a
pattern over a whole window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wmtoolkit.world import grid
from wmtoolkit.world.tokenizer import ACTION, BLOCK, DIRECTION, FIRST_CELL, OUTCOME, WorldTokenizer

_TOKENIZER = WorldTokenizer()


@dataclass
class Masks:
    """What of blocks is visible.

    Attributes:
        slots: (..., 3) bool for action, outcome, direction.
        cells: (..., 49, 3) bool for each cell's object, colour and state.
        strategy: (...) index into ``NAMES`` of the strategy that drew each block.
    """

    slots: np.ndarray
    cells: np.ndarray
    strategy: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """(..., 52) bool: tokens of which anything is hidden."""
        return np.concatenate([~self.slots, ~self.cells.all(-1)], axis=-1)


class Ends(NamedTuple):
    """Of each of w windows: the (w,) index of its first and of its last frame, and whether that is a success."""

    first: np.ndarray
    last: np.ndarray
    success: np.ndarray


def _forward(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """What happens next: only the action is visible."""
    slots[:, ACTION] = True


def _policy(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """What to do: nothing of the step is visible."""


def _inverse(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """Which action caused this: all but the action is visible."""
    slots[:], cells[:] = True, True
    slots[:, ACTION] = False


def _outcome(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """Is it done: all but the outcome is visible."""
    slots[:], cells[:] = True, True
    slots[:, OUTCOME] = False


def _cell(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """Any order over whole tokens: the number hidden is uniform in 1..52, then which ones is uniform."""
    order = rng.random((len(slots), BLOCK)).argsort(axis=1).argsort(axis=1)
    visible = order >= rng.integers(1, max(1, round(BLOCK * largest)) + 1, len(slots))[:, None]
    slots[:], cells[:] = visible[:, :FIRST_CELL], visible[:, FIRST_CELL:, None]


def _attribute(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """Any order over attributes: every object, colour, state and slot is hidden with one uniform ratio a block."""
    ratio = rng.random(len(slots)) * largest
    slots[:] = rng.random(slots.shape) >= ratio[:, None]
    cells[:] = rng.random(cells.shape) >= ratio[:, None, None]


def _belief(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """What is behind the noise: whole cells are hidden with one uniform ratio a block, all else is visible."""
    slots[:] = True
    ratio = rng.random(len(slots)) * largest
    cells[:] = (rng.random(cells.shape[:2]) >= ratio[:, None])[..., None]


def _goal(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, ends: Ends) -> None:
    """How do I get there: the first frame and the wish at the end are visible, and nothing between.

    The wish is the outcome of the last frame. Where that is no success, and for half of the other windows, it is the
    whole frame, but for the action that led to it.
    """
    window = np.arange(len(slots))
    slots[window, ends.first], cells[window, ends.first] = True, True
    slots[window, ends.last, OUTCOME] = True
    whole = ~ends.success | (rng.random(len(slots)) < 0.5)
    slots[window[whole], ends.last[whole], DIRECTION] = True
    cells[window[whole], ends.last[whole]] = True


def _fixed(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator, largest: float) -> None:
    """Each token hidden with probability 0.15, as BERT does: the baseline."""
    visible = rng.random((len(slots), BLOCK)) >= 0.15
    slots[:], cells[:] = visible[:, :FIRST_CELL], visible[:, FIRST_CELL:, None]


STRATEGIES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator, float], None]] = {
    "forward": _forward,
    "policy": _policy,
    "inverse": _inverse,
    "outcome": _outcome,
    "cell": _cell,
    "attribute": _attribute,
    "belief": _belief,
    "fixed": _fixed,
}
"""Strategies that a block draws on its own."""
GOAL = "goal"
"""The strategy that a whole window draws; it asks backwards in time, so only full attention can answer it."""
NAMES = (*STRATEGIES, GOAL)


def draw(
    mixture: Mapping[str, float],
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    largest: float = 1.0,
    ends: Ends | None = None,
) -> Masks:
    """Draw masks for blocks of the given shape, each from one strategy of the mixture.

    Args:
        mixture: share of each strategy (need not sum to 1); ``goal`` only with ``ends``.
        largest: in 0..1, scales the ratios that ``cell``, ``attribute`` and ``belief`` draw.
        ends: where the windows' frames begin and end, for blocks of shape (w, n).

    Raises:
        ValueError: for an unknown strategy or shares that are negative or all zero.
    """
    unknown = set(mixture) - set(NAMES if ends else STRATEGIES)
    if unknown:
        raise ValueError(f"unknown masking strategies {sorted(unknown)}; known are {', '.join(NAMES)}")
    shares = np.array([mixture.get(name, 0.0) for name in NAMES], dtype=np.float64)
    if (shares < 0).any() or shares.sum() == 0:
        raise ValueError(f"shares of masking strategies must be >= 0 and not all zero, not {dict(mixture)}")
    shares /= shares.sum()
    count = int(np.prod(shape))
    alone = shares[:-1] / shares[:-1].sum() if shares[-1] < 1 else np.full(len(STRATEGIES), 1 / len(STRATEGIES))
    strategy = rng.choice(len(STRATEGIES), size=count, p=alone)
    slots = np.zeros((count, FIRST_CELL), bool)
    cells = np.zeros((count, grid.CELLS, 3), bool)
    for index, name in enumerate(STRATEGIES):
        chosen = np.flatnonzero(strategy == index)
        if len(chosen):
            part_slots, part_cells = slots[chosen], cells[chosen]
            STRATEGIES[name](part_slots, part_cells, rng, largest)
            slots[chosen], cells[chosen] = part_slots, part_cells
    drawn = Masks(slots.reshape(*shape, FIRST_CELL), cells.reshape(*shape, grid.CELLS, 3), strategy.reshape(shape))
    if ends and shares[-1] > 0:
        chosen = np.flatnonzero(rng.random(len(ends.first)) < shares[-1])
        part_slots, part_cells = np.zeros_like(drawn.slots[chosen]), np.zeros_like(drawn.cells[chosen])
        _goal(part_slots, part_cells, rng, Ends(*(part[chosen] for part in ends)))
        drawn.slots[chosen], drawn.cells[chosen] = part_slots, part_cells
        drawn.strategy[chosen] = NAMES.index(GOAL)
    return drawn


def thinned(drawn: Masks, ends: Ends, rng: np.random.Generator) -> Masks:
    """Masks of windows (w, n) in which whole frames are given back: any subset of frames is asked about, not all.

    Each window keeps its masks in a uniform share of its frames, and in at least one. A window that asks for ``goal``
    keeps them all, but every other one is given a uniform share of its actions: a plan of which some is decided.
    """
    count, length = drawn.strategy.shape
    goal = drawn.strategy == NAMES.index(GOAL)
    kept = rng.random((count, length)) < rng.random((count, 1))
    kept[np.arange(count), rng.integers(ends.first, ends.last + 1)] = True
    kept |= goal
    slots = drawn.slots | ~kept[..., None]
    slots[..., ACTION] |= goal & (rng.random((count, length)) < rng.random((count, 1)) * (rng.random((count, 1)) < 0.5))
    return Masks(slots, drawn.cells | ~kept[..., None, None], drawn.strategy)


def only(name: str, shape: tuple[int, ...]) -> Masks:
    """Masks of one query-shaped strategy, which leaves nothing to chance."""
    return draw({name: 1.0}, shape, np.random.default_rng(0))


def hide(ids: np.ndarray, masks: Masks) -> np.ndarray:
    """Blocks (..., 52) with what is not visible replaced by MASK or, in a cell, by "?"."""
    hidden = ids.copy()
    hidden[..., :FIRST_CELL][~masks.slots] = _TOKENIZER.mask
    attributes = _TOKENIZER.cell_attributes(ids[..., FIRST_CELL:])
    hidden[..., FIRST_CELL:] = _TOKENIZER.cell_ids(attributes, masks.cells)
    return hidden


__all__ = ["ACTION", "DIRECTION", "GOAL", "NAMES", "OUTCOME", "STRATEGIES", "Masks", "draw", "hide", "only", "thinned"]
