"""Masking strategies: each a distribution over what of a time step's block is visible.

A draw is a ``Masks``: visibility of every element of B x n blocks, and how much each hidden one counts in the loss.
Strategies differ only in what they hide; the query-shaped ones hide exactly what the query asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
        strategy: (...) index into ``STRATEGIES`` of the strategy that drew each block.
    """

    slots: np.ndarray
    cells: np.ndarray
    strategy: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """(..., 52) bool: tokens of which anything is hidden."""
        return np.concatenate([~self.slots, ~self.cells.all(-1)], axis=-1)


def _forward(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """What happens next: only the action is visible."""
    slots[:, ACTION] = True


def _policy(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """What to do: nothing of the step is visible."""


def _inverse(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """Which action caused this: all but the action is visible."""
    slots[:], cells[:] = True, True
    slots[:, ACTION] = False


def _outcome(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """Is it done: all but the outcome is visible."""
    slots[:], cells[:] = True, True
    slots[:, OUTCOME] = False


def _cell(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """Any order over whole tokens: the number hidden is uniform in 1..52, then which ones is uniform."""
    order = rng.random((len(slots), BLOCK)).argsort(axis=1).argsort(axis=1)
    visible = order >= rng.integers(1, BLOCK + 1, len(slots))[:, None]
    slots[:], cells[:] = visible[:, :FIRST_CELL], visible[:, FIRST_CELL:, None]


def _attribute(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """Any order over attributes: every object, colour, state and slot is hidden with one uniform ratio a block."""
    ratio = rng.random(len(slots))
    slots[:] = rng.random(slots.shape) >= ratio[:, None]
    cells[:] = rng.random(cells.shape) >= ratio[:, None, None]


def _fixed(slots: np.ndarray, cells: np.ndarray, rng: np.random.Generator) -> None:
    """Each token hidden with probability 0.15, as BERT does: the baseline."""
    visible = rng.random((len(slots), BLOCK)) >= 0.15
    slots[:], cells[:] = visible[:, :FIRST_CELL], visible[:, FIRST_CELL:, None]


STRATEGIES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], None]] = {
    "forward": _forward,
    "policy": _policy,
    "inverse": _inverse,
    "outcome": _outcome,
    "cell": _cell,
    "attribute": _attribute,
    "fixed": _fixed,
}
NAMES = tuple(STRATEGIES)


def draw(mixture: Mapping[str, float], shape: tuple[int, ...], rng: np.random.Generator) -> Masks:
    """Draw masks for blocks of the given shape, each from one strategy of the mixture.

    Args:
        mixture: share of each strategy (need not sum to 1).

    Raises:
        ValueError: for an unknown strategy or shares that are negative or all zero.
    """
    unknown = set(mixture) - set(STRATEGIES)
    if unknown:
        raise ValueError(f"unknown masking strategies {sorted(unknown)}; known are {', '.join(NAMES)}")
    shares = np.array([mixture.get(name, 0.0) for name in NAMES], dtype=np.float64)
    if (shares < 0).any() or shares.sum() == 0:
        raise ValueError(f"shares of masking strategies must be >= 0 and not all zero, not {dict(mixture)}")
    count = int(np.prod(shape))
    strategy = rng.choice(len(NAMES), size=count, p=shares / shares.sum())
    slots = np.zeros((count, FIRST_CELL), bool)
    cells = np.zeros((count, grid.CELLS, 3), bool)
    for index, name in enumerate(NAMES):
        chosen = np.flatnonzero(strategy == index)
        if len(chosen):
            part_slots, part_cells = slots[chosen], cells[chosen]
            STRATEGIES[name](part_slots, part_cells, rng)
            slots[chosen], cells[chosen] = part_slots, part_cells
    return Masks(slots.reshape(*shape, FIRST_CELL), cells.reshape(*shape, grid.CELLS, 3), strategy.reshape(shape))


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


__all__ = ["ACTION", "DIRECTION", "NAMES", "OUTCOME", "STRATEGIES", "Masks", "draw", "hide", "only"]
