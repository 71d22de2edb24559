"""Confidence intervals against published and hand-computed values."""

import numpy as np
import pytest

from wmtoolkit.evaluation.intervals import bootstrap_mean, wilson


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


def test_the_bootstrap_covers_the_mean_and_narrows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(2.0, 1.0, 400)
    low, high = bootstrap_mean(values, np.random.default_rng(1))
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_mean(np.ones(5), rng) == (1.0, 1.0)
