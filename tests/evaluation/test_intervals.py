"""Confidence intervals against published and hand-computed values."""

import numpy as np
import pytest

from wmtoolkit.evaluation.intervals import Tally, bootstrap_mean, wilson


def test_wilson_matches_published_values() -> None:
    # 81 of 263, from E. B. Wilson's method as tabulated by Newcombe (1998), table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)


def test_wilson_at_the_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(100, 100)
    assert high == 1.0
    assert 0.96 < low < 0.97
    for trials in range(1, 300):  # to the last bit
        assert wilson(0, trials)[0] == 0
        assert wilson(trials, trials)[1] == 1


def test_the_bootstrap_covers_the_mean_and_narrows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(2.0, 1.0, 400)
    low, high = bootstrap_mean(values, np.random.default_rng(1))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_mean(np.ones(5), rng) == (1.0, 1.0)
    # Totals over different counts: the mean is of all that was counted, and 6 by 4 in any draw of equal shares.
    assert _mean([3.0, 1.5, 1.5], [2, 1, 1]) == (1.5, 1.5)
    assert _mean([0.0, 9.0], [1, 3]) == (0.0, 3.0)
    assert _mean([10.0, 0.0, 0.0], [5, 0, 0]) == (2.0, 2.0)  # a draw of nothing counted is no draw


def _mean(totals: list[float], counts: list[int]) -> tuple[float, float]:
    each = np.array(counts)
    return Tally("mean", np.array(totals), each.astype(float), each).interval()


def test_a_share_counts_independent_episodes() -> None:
    # Two episodes of 50 steps, one all right and one all wrong: var(p) = 2/1 * (25² + 25²) / 100² = 0.25, which is
    # that of a single trial.
    split = Tally.of("share", np.repeat([1, 0], 50), np.repeat([3, 8], 50))
    assert split.value == 0.5
    assert split.interval() == pytest.approx(wilson(0.5, 1))
    # Ten episodes of one step, 7 right: var(p) = 10/9 * 2.1 / 100, so 0.21 / 0.02333 = 9 effective trials.
    apart = Tally.of("share", np.arange(10) < 7, np.arange(10))
    assert apart.interval() == pytest.approx(wilson(6.3, 9))
    assert apart.entry() == {"value": 0.7, "ci95": list(apart.interval()), "n": 10}


def test_a_share_without_errors_is_not_certain() -> None:
    perfect = Tally.of("share", np.ones(200), np.repeat(np.arange(20), 10))
    assert perfect.value == 1
    assert perfect.interval() == pytest.approx(wilson(200, 200))


def test_f1_follows_from_hits_and_errors() -> None:
    # 3 hits, 1 false alarm, 0 misses: F1 = 2*3 / (2*3 + 1 + 0).
    tally = Tally.of("f1", np.array([1, 1, 1, 0]), np.arange(4))
    assert tally.value == pytest.approx(6 / 7)
    low, high = tally.interval()
    assert low < 6 / 7 < high <= 1


def test_weights_count_for_the_value_and_not_as_evidence() -> None:
    plain = Tally.of("share", np.array([1, 1, 0, 1]), np.arange(4))
    heavy = Tally.of("share", np.array([1, 1, 0, 1]), np.arange(4), np.full(4, 1000.0))
    assert heavy.value == plain.value
    assert heavy.interval() == pytest.approx(plain.interval())
    uneven = Tally.of("share", np.array([1, 0]), np.arange(2), np.array([3.0, 1.0]))
    assert uneven.value == 0.75


def test_levels_join_by_their_sums() -> None:
    rng = np.random.default_rng(0)
    parts = [Tally.of("mean", rng.normal(size=30), rng.integers(0, 5, 30)) for _ in range(3)]
    joined = Tally.joined(parts)
    assert joined.value == pytest.approx(np.mean([part.value for part in parts]))
    assert joined.entry()["n"] == 90
    assert len(joined.total) == sum(len(part.total) for part in parts)


def test_the_interval_of_a_mean_covers_it_about_95_times_in_100() -> None:
    """Episodes differ in their means: an interval that took steps as independent would cover far less often."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        level = rng.normal(0, 1, 40)
        episode = np.repeat(np.arange(40), 10)
        low, high = Tally.of("mean", level[episode] + rng.normal(0, 0.3, 400), episode).interval()
        covered += low < 0 < high
    assert 178 <= covered <= 199
