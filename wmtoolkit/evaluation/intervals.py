"""Confidence intervals."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (E. B. Wilson, 1927); (0, 1) for no trials."""
    if trials == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def bootstrap_mean(
    values: np.ndarray, rng: np.random.Generator, level: float = 0.95, samples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean; values (n,) -> (low, high)."""
    values = np.asarray(values, dtype=np.float64)
    means = values[rng.integers(0, len(values), (samples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
