"""Masking strategies: each distribution is what its docstring says."""

import numpy as np
import pytest
from scipy.stats import chisquare

from wmtoolkit import Trajectory, WorldTokenizer
from wmtoolkit.world import masks
from wmtoolkit.world.tokenizer import ACTION, BLOCK, DIRECTION, FIRST_CELL, OUTCOME

TOKENIZER = WorldTokenizer()


def _draw(name: str, count: int = 4000) -> masks.Masks:
    return masks.draw({name: 1.0}, (count,), np.random.default_rng(0))


def test_cell_masks_hide_a_uniform_number_of_uniform_tokens() -> None:
    drawn = _draw("cell", 20_000)
    hidden = drawn.targets.sum(-1)
    assert hidden.min() == 1
    assert hidden.max() == BLOCK
    assert chisquare(np.bincount(hidden, minlength=BLOCK + 1)[1:]).pvalue > 1e-4
    assert chisquare(drawn.targets.sum(0)).pvalue > 1e-4
    assert np.isin(drawn.cells.sum(-1), (0, 3)).all()


def test_attribute_masks_hide_each_attribute_on_its_own() -> None:
    drawn = _draw("attribute")
    partial = (drawn.cells.any(-1) & ~drawn.cells.all(-1)).mean()
    assert 0.2 < partial < 0.6
    ratio = 1 - drawn.cells.mean(axis=(1, 2))
    assert np.quantile(ratio, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)


def test_belief_masks_hide_whole_cells_and_nothing_else() -> None:
    drawn = _draw("belief")
    assert drawn.slots.all()
    assert np.isin(drawn.cells.sum(-1), (0, 3)).all()
    ratio = 1 - drawn.cells.any(-1).mean(axis=1)
    assert np.quantile(ratio, [0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9], abs=0.05)


@pytest.mark.parametrize("name", ["cell", "attribute", "belief"])
def test_ratios_are_scaled(name: str) -> None:
    drawn = masks.draw({name: 1.0}, (4000,), np.random.default_rng(0), largest=0.2)
    hidden = 1 - drawn.cells.mean(axis=(1, 2))
    assert hidden.mean() == pytest.approx(0.1, abs=0.01)
    assert hidden.max() < 0.45


def test_goal_masks_show_the_present_and_the_wish() -> None:
    count = 3000
    rng = np.random.default_rng(0)
    first, length = rng.integers(0, 2, count), rng.integers(2, 5, count)
    ends = masks.Ends(first, first + length, rng.random(count) < 0.5)
    drawn = masks.draw({"goal": 1.0}, (count, 7), rng, ends=ends)
    assert (drawn.strategy == masks.NAMES.index("goal")).all()
    window = np.arange(count)
    assert drawn.slots[window, first].all()
    assert drawn.cells[window, first].all()
    assert not drawn.slots[window, ends.last, ACTION].any()
    assert drawn.slots[window, ends.last, OUTCOME].all()
    whole = drawn.cells[window, ends.last].all(axis=(1, 2))
    assert (whole == drawn.cells[window, ends.last].any(axis=(1, 2))).all()
    assert (whole == drawn.slots[window, ends.last, DIRECTION]).all()
    assert whole[~ends.success].all()
    assert whole[ends.success].mean() == pytest.approx(0.5, abs=0.05)
    between = (np.arange(7) > first[:, None]) & (np.arange(7) < ends.last[:, None])
    assert not drawn.slots[between].any()
    assert not drawn.cells[between].any()


def test_goal_masks_share_windows_with_others() -> None:
    ends = masks.Ends(np.zeros(4000, int), np.full(4000, 3), np.ones(4000, bool))
    drawn = masks.draw({"goal": 1, "inverse": 3}, (4000, 4), np.random.default_rng(0), ends=ends)
    goal = drawn.strategy == masks.NAMES.index("goal")
    assert (goal.all(axis=1) == goal.any(axis=1)).all()
    assert goal.mean() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="goal"):
        masks.draw({"goal": 1}, (4, 4), np.random.default_rng(0))


def test_thinned_masks_ask_about_a_uniform_share_of_frames_and_keep_goals() -> None:
    ends = masks.Ends(np.zeros(6000, int), np.full(6000, 9), np.ones(6000, bool))
    rng = np.random.default_rng(0)
    drawn = masks.draw({"goal": 1, "forward": 3}, (6000, 10), rng, ends=ends)
    thin = masks.thinned(drawn, ends, rng)
    goal = (drawn.strategy == masks.NAMES.index("goal")).all(axis=1)
    given = drawn.targets[goal] & ~thin.targets[goal]
    np.testing.assert_array_equal(np.flatnonzero(given.any(axis=(0, 1))), [masks.ACTION])
    planned = given[..., masks.ACTION].any(axis=1)
    assert planned.mean() == pytest.approx(0.5 * 10 / 11, abs=0.03)  # of half of them none may be given by chance
    asked = thin.targets[~goal].any(-1).sum(axis=1)
    assert asked.min() == 1
    assert np.bincount(asked, minlength=11)[2:] / len(asked) == pytest.approx(np.full(9, 1 / 11), abs=0.02)
    kept = thin.targets.any(-1) & ~goal[:, None]
    np.testing.assert_array_equal(thin.targets[kept], drawn.targets[kept])


def test_fixed_masks_hide_fifteen_percent() -> None:
    assert _draw("fixed").targets.mean() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(
    ("name", "visible_slots", "cells_visible"),
    [
        ("forward", {ACTION}, False),
        ("policy", set(), False),
        ("inverse", {1, 2}, True),
        ("outcome", {0, 2}, True),
    ],
)
def test_query_masks_hide_exactly_what_is_asked(name: str, visible_slots: set[int], cells_visible: bool) -> None:
    drawn = _draw(name, 5)
    assert set(np.flatnonzero(drawn.slots[0])) == visible_slots
    assert (drawn.cells == cells_visible).all()
    assert (drawn.slots == drawn.slots[0]).all()


def test_a_mixture_has_its_shares() -> None:
    drawn = masks.draw({"forward": 3, "outcome": 1}, (4000, 2), np.random.default_rng(1))
    assert drawn.slots.shape == (4000, 2, FIRST_CELL)
    assert (drawn.strategy == masks.NAMES.index("forward")).mean() == pytest.approx(0.75, abs=0.02)


def test_hidden_ids_tell_nothing_of_what_is_hidden(episodes: list[Trajectory]) -> None:
    ids = TOKENIZER.encode(episodes[0])[1:]
    drawn = masks.draw({"cell": 1, "attribute": 1}, (len(ids),), np.random.default_rng(2))
    hidden = masks.hide(ids, drawn)
    np.testing.assert_array_equal((hidden != ids) | (ids == hidden), True)
    assert (hidden[drawn.targets] != ids[drawn.targets]).all()
    np.testing.assert_array_equal(hidden[~drawn.targets], ids[~drawn.targets])
    changed = ids.copy()
    changed[..., OUTCOME] = np.where(drawn.slots[..., OUTCOME], ids[..., OUTCOME], TOKENIZER.outcomes.start)
    np.testing.assert_array_equal(masks.hide(changed, drawn), hidden)


def test_unknown_strategies_and_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="known are forward"):
        masks.draw({"forwards": 1.0}, (1,), np.random.default_rng(0))
    with pytest.raises(ValueError, match="not all zero"):
        masks.draw({"forward": 0.0}, (1,), np.random.default_rng(0))
