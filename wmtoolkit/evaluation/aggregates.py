"""Scores of many episodes, levels and agents in few numbers, each with a 95 % bootstrap interval.

Interquartile mean, probability of improvement and the stratified bootstrap follow Agarwal et al. 2021
(arXiv:2108.13264): episodes are drawn anew within each level, levels stay. Points of several levels (correlations, mean
gap) are drawn level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import pearsonr, rankdata, spearmanr

DRAWS = 1000


def iqm(scores: np.ndarray) -> float:
    """Mean of the middle half of some scores (n,); one that lies across its edge counts for the part inside."""
    edges = np.clip(np.linspace(0, 1, len(scores) + 1), 0.25, 0.75)
    return float(2 * np.diff(edges) @ np.sort(np.asarray(scores, dtype=np.float64)))


def level_iqm(levels: Sequence[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Interquartile mean over levels of their mean scores; levels: episodes' scores (n_i,) of each."""
    return _entry(levels, lambda drawn: iqm(np.array([part.mean() for part in drawn])), seed)


def probability_of_improvement(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], seed: int = 0
) -> dict[str, Any]:
    """P(a random episode of ours scores higher than a random one of theirs), ties count half, averaged over levels."""
    rng = np.random.default_rng(seed)
    values, drawn = [], []
    for mine, other in zip(ours, theirs, strict=True):
        wins = (np.sign(np.asarray(mine, float)[:, None] - np.asarray(other, float)[None]) + 1) / 2
        rows, columns = (rng.multinomial(size, np.full(size, 1 / size), DRAWS) / size for size in wins.shape)
        values.append(wins.mean())
        drawn.append(((rows @ wins) * columns).sum(axis=1))
    interval = [float(end) for end in np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])]
    return {"value": float(np.mean(values)), "ci95": interval, "n": sum(len(part) for part in (*ours, *theirs))}


def paired_difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Mean difference of two agents' scores (n_i,) on the same level seeds, of each level, over all episodes."""
    levels = [np.asarray(mine, float) - np.asarray(other, float) for mine, other in zip(ours, theirs, strict=True)]
    return _entry(levels, lambda drawn: float(np.concatenate(drawn).mean()), seed)


def area_under_curve(strengths: Sequence[float], scores: Sequence[float]) -> float:
    """Mean of a curve of scores over its strengths (trapezoids), divided by the score at the first strength."""
    widths, values = np.diff(strengths), np.asarray(scores, dtype=np.float64)
    area = float((widths * (values[1:] + values[:-1]) / 2).sum() / widths.sum())
    return area / values[0] if values[0] > 0 else float("nan")


def robustness_curve(strengths: Sequence[float], episodes: Sequence[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Normalised area under a success curve; episodes: scores (n,) at each strength, on the same level seeds."""
    stacked = np.stack([np.asarray(part, dtype=np.float64) for part in episodes], axis=1)
    return _entry([stacked], lambda drawn: area_under_curve(strengths, drawn[0].mean(axis=0)), seed)


def retention(clear: np.ndarray, disturbed: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Mean score under a disturbance over that without, on the same level seeds (n,)."""
    stacked = np.stack([np.asarray(clear, float), np.asarray(disturbed, float)], axis=1)

    def ratio(drawn: Sequence[np.ndarray]) -> float:
        before, after = drawn[0].mean(axis=0)
        return float(after / before) if before > 0 else float("nan")

    return _entry([stacked], ratio, seed)


def rank_agreement(levels: Sequence[np.ndarray], seed: int = 0) -> dict[str, Any]:
    """Spearman's coefficient of how agents rank on two sides by their mean over levels; None where a side ranks nobody.

    The agents are those asked about, so the interval is of their episodes alone: in each level seeds are drawn anew,
    for all agents and both sides alike. ``n`` counts the agents.

    Args:
        levels: scores (agents, 2, n_i) on the same level seeds, of each level.
    """

    def coefficient(drawn: Sequence[np.ndarray]) -> float:
        ranks = rankdata(np.mean([part.mean(axis=0) for part in drawn], axis=0), axis=0)
        return float(np.corrcoef(ranks.T)[0, 1]) if np.ptp(ranks, axis=0).all() else float("nan")

    return {**_entry([np.moveaxis(part, -1, 0) for part in levels], coefficient, seed), "n": len(levels[0])}


def correlation(
    x: Sequence[float], y: Sequence[float], kind: str = "pearson", groups: Sequence[str] = (), seed: int = 0
) -> dict[str, Any]:
    """Pearson's or Spearman's coefficient of points; None where one side does not vary.

    Args:
        groups: of each point; see ``_over_points``.
    """
    measure = {"pearson": pearsonr, "spearman": spearmanr}[kind]

    def coefficient(points: np.ndarray) -> float:
        first, second = points.T
        if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
            return float("nan")
        return float(measure(first, second).statistic)

    return _over_points(x, y, coefficient, groups, seed)


def mean_gap(x: Sequence[float], y: Sequence[float], groups: Sequence[str] = (), seed: int = 0) -> dict[str, Any]:
    """Mean absolute difference of the two sides of points; groups: see ``_over_points``."""
    return _over_points(x, y, lambda points: float(np.abs(points[:, 0] - points[:, 1]).mean()), groups, seed)


def _over_points(
    x: Sequence[float],
    y: Sequence[float],
    statistic: Callable[[np.ndarray], float],
    groups: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """``_entry`` of points (n, 2): those of one group stand or fall together, so where there are several groups whole
    ones are drawn anew."""
    points = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        member = np.arange(len(points))
    parts = [points[member == number] for number in np.unique(member)]

    def of_parts(drawn: Sequence[np.ndarray]) -> float:
        return statistic(np.concatenate([parts[int(number)] for number in drawn[0]]))

    return {**_entry([np.arange(len(parts))], of_parts, seed), "n": len(points)}


def _entry(
    strata: Sequence[np.ndarray], statistic: Callable[[Sequence[np.ndarray]], float], seed: int
) -> dict[str, Any]:
    """Value and percentile interval of the stratified bootstrap, None where they are not defined, and n."""
    rng = np.random.default_rng(seed)
    strata = [np.asarray(part, dtype=np.float64) for part in strata]
    value = statistic(strata)
    found = np.array(
        [statistic([part[rng.integers(0, len(part), len(part))] for part in strata]) for _ in range(DRAWS)]
    )
    found = found[~np.isnan(found)]
    interval = None if np.isnan(value) or not len(found) else [float(end) for end in np.quantile(found, [0.025, 0.975])]
    return {"value": None if np.isnan(value) else value, "ci95": interval, "n": sum(len(part) for part in strata)}
