"""Are probabilities honest: reliability diagram and expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmtoolkit.evaluation.prediction import StepPredictions
from wmtoolkit.evaluation.transitions import Transitions

_DRAWS = 1000


@dataclass(frozen=True)
class Calibration:
    """Sums over episodes and bins of confidence, each (E, bins): how many, of the confidence, and how many right."""

    count: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, confidence: np.ndarray, right: np.ndarray, episode: np.ndarray, bins: int = 15) -> Calibration:
        """From n probabilities (n,), whether each came true (n,), and the episode (n,) of each."""
        place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
        names, owner = np.unique(episode, return_inverse=True)
        flat, shape = owner * bins + place, (len(names), bins)

        def sums(weights: np.ndarray | None) -> np.ndarray:
            return np.bincount(flat, weights, minlength=len(names) * bins).reshape(shape)

        return cls(sums(None), sums(confidence), sums(right))

    @classmethod
    def joined(cls, parts: Sequence[Calibration]) -> Calibration:
        """Those of several levels, as one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def entry(self) -> dict[str, Any]:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): value, bootstrap interval, n.

        Noise can only add to it, to the value as to each draw of the bootstrap, so percentiles alone may lie above the
        value, and nearly always above the error of a calibrated model. The lower end is therefore the percentile
        mirrored at the value (basic bootstrap), at least 0, and the interval always holds the value.
        """
        gap, episodes = self.confidence - self.right, len(self.count)
        drawn = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), _DRAWS)
        errors = np.abs(drawn @ gap).sum(-1) / np.maximum(drawn @ self.count.sum(-1), 1)
        total = int(self.count.sum())
        value = float(np.abs(gap.sum(0)).sum() / max(total, 1))
        high = max(value, float(np.quantile(errors, 0.975)))
        return {"value": value, "ci95": [max(0.0, 2 * value - high), high], "n": total}

    def rows(self) -> list[dict[str, float]]:
        """The reliability diagram: of each bin that is not empty, its start, mean confidence, accuracy and count."""
        count, confidence, right = (getattr(self, name).sum(0) for name in type(self).__annotations__)
        return [
            {
                "bin": index / len(count),
                "confidence": float(confidence[index] / count[index]),
                "accuracy": float(right[index] / count[index]),
                "n": int(count[index]),
            }
            for index in np.flatnonzero(count).tolist()
        ]


def calibrations(steps: Transitions, said: StepPredictions, evenly: int) -> dict[str, Calibration]:
    """Calibration over the first ``evenly`` steps, which were drawn evenly, by the name of its error.

    ``ece`` is that of all cells, most of which are certain; ``ece_revealed`` of the cells seen for the first time, and
    missing where there are none; ``ece_outcome`` of the outcome.
    """
    assert said.confidence is not None
    assert said.outcome_confidence is not None
    first = slice(0, evenly)
    episode, confidence, revealed = steps.episode[first], said.confidence[first], steps.revealed[first]
    right = said.cells[first] == steps.cells[first]
    owner = np.broadcast_to(episode[:, None], right.shape)
    found = {"ece": Calibration.of(confidence.ravel(), right.ravel(), owner.ravel())}
    if revealed.any():
        found["ece_revealed"] = Calibration.of(confidence[revealed], right[revealed], owner[revealed])
    outcome = said.outcomes[first] == steps.outcomes[first]
    return found | {"ece_outcome": Calibration.of(said.outcome_confidence[first], outcome, episode)}
