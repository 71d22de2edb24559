"""Confidence intervals, and tallies: what was counted in each episode, from which value and interval follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

_DRAWS = 1000


def wilson(successes: float, trials: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson, 1927); (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    # It holds the share itself; at 0 and 1 rounding would say otherwise.
    return max(0.0, min(share, float(centre - half))), min(1.0, max(share, float(centre + half)))


def bootstrap_mean(
    values: np.ndarray,
    rng: np.random.Generator,
    level: float = 0.95,
    samples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean; values (n,) -> (low, high)."""
    values = np.asarray(values, dtype=np.float64)
    means = values[rng.integers(0, len(values), (samples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Tally:
    """A ratio of sums over episodes: shares, means and F1 scores, of one level or of several laid end to end.

    Steps of one episode are not independent, so intervals come from the spread between episodes:

    - ``share``: Wilson's interval with the effective number of trials p(1-p)/var(p), where var(p) is that of a ratio
      between clusters (Dean and Pagano 2015, J. Surv. Stat. Methodol. 3:484), at most the number of trials. Where all
      trials agree there is no spread to see, and they count as independent.
    - ``f1``: the same for the share of hits among what is or was called positive, carried over by F1 = 2s/(1+s).
    - ``mean``: percentile bootstrap over episodes.

    Attributes:
        kind: ``share``, ``f1`` or ``mean``.
        total, weight: (E,) float64 numerator and denominator of each episode; for ``f1`` hits, and hits + errors.
        count: (E,) int64 trials of each episode.
    """

    kind: str
    total: np.ndarray
    weight: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, kind: str, values: np.ndarray, episode: np.ndarray, weight: np.ndarray | None = None) -> Tally:
        """Tally of values (n,) that belong to episodes (n,); ``weight`` (n,) defaults to 1 each."""
        values = np.asarray(values, dtype=np.float64)
        _, place = np.unique(episode, return_inverse=True)
        weight = np.ones(len(values)) if weight is None else weight
        return cls(
            kind,
            np.bincount(place, weights=values * weight),
            np.bincount(place, weights=weight),
            np.bincount(place),
        )

    @classmethod
    def joined(cls, tallies: Sequence[Tally]) -> Tally:
        """Tallies of one metric in several levels, as one."""
        parts = (np.concatenate([getattr(tally, name) for tally in tallies]) for name in ("total", "weight", "count"))
        return cls(tallies[0].kind, *parts)

    @property
    def value(self) -> float:
        """The ratio; NaN where nothing was counted."""
        if self.weight.sum() <= 0:
            return float("nan")
        share = float(self.total.sum() / self.weight.sum())
        return 2 * share / (1 + share) if self.kind == "f1" else share

    def interval(self) -> tuple[float, float]:
        """95 % interval."""
        if self.kind == "mean":
            return self._bootstrap()
        share, episodes = float(self.total.sum() / self.weight.sum()), len(self.total)
        trials = float(self.count.sum())
        if 0 < share < 1 and episodes > 1:
            residual = self.total - share * self.weight
            variance = episodes / (episodes - 1) * (residual**2).sum() / self.weight.sum() ** 2
            if variance > 0:
                trials = min(trials, share * (1 - share) / variance)
        low, high = wilson(share * trials, trials)
        return (2 * low / (1 + low), 2 * high / (1 + high)) if self.kind == "f1" else (low, high)

    def _bootstrap(self) -> tuple[float, float]:
        rng, episodes = np.random.default_rng(0), len(self.total)
        drawn = rng.multinomial(episodes, np.full(episodes, 1 / episodes), _DRAWS)
        weight = drawn @ self.weight
        ratios = (drawn @ self.total)[weight > 0] / weight[weight > 0]
        low, high = np.quantile(ratios, [0.025, 0.975])
        return float(low), float(high)

    def entry(self) -> dict[str, Any]:
        """``value``, ``ci95`` and ``n`` for results."""
        return {"value": self.value, "ci95": list(self.interval()), "n": int(self.count.sum())}
