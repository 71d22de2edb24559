"""Aggregates over episodes, levels and agents against hand-computed values."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from wmtoolkit.evaluation.aggregates import (
    area_under_curve,
    correlation,
    iqm,
    level_iqm,
    mean_gap,
    paired_difference,
    probability_of_improvement,
    rank_agreement,
    retention,
    robustness_curve,
)


def test_the_interquartile_mean_drops_a_quarter_at_either_end() -> None:
    assert iqm(np.array([0, 1, 2, 3, 4, 5, 6, 100])) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert iqm(np.array([0.5])) == 0.5
    assert iqm(np.array([1, 0])) == 0.5
    assert iqm(np.array([100, 0, 1, 2])) == pytest.approx(1.5)
    # Of ten, two and a half at either end: the third and the eighth count by half.
    assert iqm(np.arange(10) ** 2) == pytest.approx((4 / 2 + 9 + 16 + 25 + 36 + 49 / 2) / 5)
    found = level_iqm([np.array([0, 0]), np.array([1, 0]), np.array([1, 1]), np.array([0, 1])])
    assert found["value"] == pytest.approx(0.5)  # of 0, 0.5, 1, 0.5 the middle two
    assert found["n"] == 8
    assert found["ci95"][0] <= 0.5 <= found["ci95"][1]


def test_probability_of_improvement_counts_pairs() -> None:
    # Of 2 x 3 pairs, 3 beats all three; 1 beats 0, ties with 1 and loses to 2: (3 + 1 + 0.5) / 6.
    found = probability_of_improvement([np.array([3, 1])], [np.array([0, 1, 2])])
    assert found["value"] == pytest.approx(4.5 / 6)
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 5, 40), rng.integers(1, 6, 30)
    u = mannwhitneyu(ours, theirs).statistic
    assert probability_of_improvement([ours], [theirs])["value"] == pytest.approx(u / (40 * 30))
    apart = probability_of_improvement([np.ones(9), np.ones(9)], [np.zeros(9), np.ones(9)])
    assert apart["value"] == pytest.approx(0.75)  # 1 in the first level, 1/2 in the second
    assert apart["ci95"] == pytest.approx([0.75, 0.75])


def test_paired_seeds_narrow_the_difference() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(0, 10, 200)
    ours = theirs + 1 + rng.normal(0, 0.1, 200)
    found = paired_difference([ours], [theirs])
    assert found["value"] == pytest.approx(1, abs=0.05)
    assert found["ci95"][1] - found["ci95"][0] < 0.1
    # Episodes are drawn within levels: one where all gain and one where none does leave nothing to chance.
    levels = paired_difference([np.ones(3), np.ones(3)], [np.zeros(3), np.ones(3)])
    assert (levels["value"], levels["ci95"], levels["n"]) == (0.5, [0.5, 0.5], 6)


def test_the_normalised_area_by_hand() -> None:
    # From 0.8 over 0.4 to 0: trapezoids 0.5*0.6 + 0.5*0.2 over a width of 1, divided by 0.8.
    assert area_under_curve([0, 0.5, 1], [0.8, 0.4, 0.0]) == pytest.approx(0.4 / 0.8)
    assert area_under_curve([0, 0.1, 0.9], [1, 1, 1]) == pytest.approx(1)
    # A wide gap counts as much as it is wide: 0.1 * 1 + 0.8 * 0.5 over 0.9.
    assert area_under_curve([0, 0.1, 0.9], [1, 1, 0]) == pytest.approx(0.5 / 0.9)
    assert np.isnan(area_under_curve([0, 1], [0, 1]))
    curve = robustness_curve([0, 0.5, 1], [np.array([1, 1]), np.array([1, 0]), np.array([0, 0])])
    assert curve["value"] == pytest.approx(0.5)


def test_retention_is_the_ratio_on_the_same_seeds() -> None:
    clear, disturbed = np.array([1, 1, 1, 0, 1]), np.array([1, 0, 1, 0, 0])
    found = retention(clear, disturbed)
    assert found["value"] == pytest.approx(0.5)
    assert found["ci95"][0] < 0.5 < found["ci95"][1]
    nothing = retention(np.zeros(4), np.ones(4))
    assert nothing["value"] is None
    assert nothing["ci95"] is None


def test_correlations_by_hand() -> None:
    x, y = [1, 2, 3, 4], [1, 4, 9, 16]
    assert correlation(x, y, "spearman")["value"] == pytest.approx(1)
    # Pearson by its definition: cov 13 over sqrt(5) * sqrt(129).
    dx, dy = np.array(x) - 2.5, np.array(y) - 7.5
    assert correlation(x, y)["value"] == pytest.approx((dx * dy).sum() / np.sqrt((dx**2).sum() * (dy**2).sum()))
    assert correlation(x, [-value for value in y])["value"] < -0.9
    assert correlation(x, [1, 1, 1, 1])["value"] is None
    assert correlation(x, y, "spearman")["ci95"] == pytest.approx([1, 1])


def test_points_of_a_level_are_drawn_together() -> None:
    # One level rises, the other falls; of two draws both may be the one, or the other.
    x, y, levels = [1, 2, 3, 1, 2, 3], [1, 2, 3, 3, 2, 1], ["a"] * 3 + ["b"] * 3
    for kind in ("pearson", "spearman"):
        found = correlation(x, y, kind, levels)
        assert found == {"value": pytest.approx(0), "ci95": pytest.approx([-1, 1]), "n": 6}
    gap = mean_gap([0.2, 0.7, 0.5, 0.9], [0.4, 0.5, 0.9, 0.5], ["a", "a", "b", "b"])
    assert gap == {"value": pytest.approx(0.3), "ci95": pytest.approx([0.2, 0.4]), "n": 4}
    # Of a single level the points are drawn: four gaps of 0 and 1 may all be 0, but hardly ever are in 1 of 40.
    alone = mean_gap([0, 0, 0, 0], [0, 1, 0, 1], ["a"] * 4)
    assert alone == {"value": 0.5, "ci95": [0, 1], "n": 4}


def test_the_ranking_of_agents_by_hand() -> None:
    # Three agents over two levels, 1 of 4, 2 of 4 and 4 of 4 right on one side; on the other the first two change
    # places: of ranks 1, 2, 3 and 2, 1, 3 the coefficient is 1 - 6 * 2 / (3 * 8).
    one = [[[1, 0], [1, 1]], [[1, 0], [0, 0]], [[1, 1], [1, 1]]]
    two = [[[0, 0], [0, 0]], [[1, 0], [1, 0]], [[1, 1], [1, 1]]]
    found = rank_agreement([np.array(one, float), np.array(two, float)])
    assert found["value"] == pytest.approx(0.5)
    assert found["n"] == 3
    # The seeds that are drawn are the same on both sides: what agrees seed by seed agrees in every draw.
    scores = np.random.default_rng(0).random((4, 1, 9)).repeat(2, axis=1)
    assert rank_agreement([scores])["ci95"] == pytest.approx([1, 1])
    assert rank_agreement([np.ones((3, 2, 5))])["value"] is None
