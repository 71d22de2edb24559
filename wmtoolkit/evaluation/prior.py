"""The empirical prior: what newly revealed cells look like in the training episodes, the rival of every guess."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wmtoolkit.evaluation.transitions import all_steps, transitions
from wmtoolkit.world import grid, windows
from wmtoolkit.world.tokenizer import ATTRIBUTES, WorldTokenizer

_TOKENIZER = WorldTokenizer()
_BACK_OFF = 10.0
"""How many sightings the prior over all places of the view weighs against those at one place."""


@dataclass(frozen=True)
class CellPrior:
    """P(cell | its place in the view, it is revealed), counted in training episodes of one level.

    Attributes:
        log_probs: (49, 420) float64, in nats; each row sums to one over the fully specified cells.
    """

    log_probs: np.ndarray

    @classmethod
    def fit(cls, frames: windows.Frames, samples: int, rng: np.random.Generator) -> CellPrior:
        """Count the revealed cells of ``samples`` steps."""
        target = all_steps(frames)
        steps = transitions(frames, rng.choice(target, min(samples, len(target)), replace=False))
        row, place = np.nonzero(steps.revealed)
        return cls.counted(place, steps.cells[row, place])

    @classmethod
    def counted(cls, place: np.ndarray, cells: np.ndarray) -> CellPrior:
        """From sightings: place (n,) in the view, 0-48, and id (n,) of each cell."""
        counts = np.zeros((grid.CELLS, len(_TOKENIZER.cells)))
        np.add.at(counts, (place, cells - _TOKENIZER.cells.start), 1)
        full = (_TOKENIZER.cell_attributes(np.array(_TOKENIZER.cells)) < ATTRIBUTES).all(-1)
        anywhere = counts.sum(axis=0) + 0.01 * full
        anywhere /= anywhere.sum()
        mixed = (counts + _BACK_OFF * anywhere) / (counts.sum(axis=1, keepdims=True) + _BACK_OFF)
        with np.errstate(divide="ignore"):
            return cls(np.log(mixed))

    def nll(self, cells: np.ndarray) -> np.ndarray:
        """(N, 49) ids -> (N, 49) nats."""
        return -self.log_probs[np.arange(grid.CELLS), cells - _TOKENIZER.cells.start]
