"""Splits: by seed alone, the same everywhere, disjoint; by mission where asked; training seeds are refused."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtoolkit.data import SplitRule, check_unseen, collect, load_trajectories, open_store
from wmtoolkit.data.splits import DEFAULT_HELD_OUT, SPLITS, in_ranges, seed_ranges, unseen_seeds
from wmtoolkit.errors import UserError


@given(st.integers(0, 2**62), st.text(max_size=20), st.text(max_size=20))
def test_the_split_of_a_seed_does_not_depend_on_the_mission(seed, one, other):
    assert SplitRule().assign(seed, one) == SplitRule().assign(seed, other)


@given(st.integers(0, 2**40), st.integers(200, 3000))
def test_shares_are_met_closely_by_any_run_of_seeds(first, count):
    splits = [SplitRule().assign(seed, "") for seed in range(first, first + count)]
    assert abs(splits.count(0) - 0.90 * count) <= 3
    assert abs(splits.count(1) - 0.05 * count) <= 3
    assert abs(splits.count(2) - 0.05 * count) <= 3


@given(st.integers(0, 2**40))
def test_forty_seeds_hold_every_split(first):
    assert {SplitRule().assign(seed, "") for seed in range(first, first + 40)} == {0, 1, 2}


@given(st.sets(st.integers(0, 60)))
def test_seed_ranges_hold_exactly_the_seeds(seeds):
    ranges = seed_ranges(list(seeds))
    assert {seed for seed in range(-1, 62) if in_ranges(seed, ranges)} == seeds
    assert all(later[0] > earlier[1] + 1 for earlier, later in pairwise(ranges))


def test_episodes_without_a_seed_stay_with_their_equals():
    rule = SplitRule()
    found = {start: rule.assign(None, "go to the red ball", bytes([start])) for start in range(200)}
    assert set(found.values()) == {0, 1, 2}
    assert all(rule.assign(None, "go to the red ball", bytes([start])) == split for start, split in found.items())


def test_splits_of_a_dataset_are_disjoint_and_written_down(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 80, policy="random", out=tmp_path / "a", max_steps=2)
    other = collect("BabyAI-GoToRedBall-v0", 80, policy="random", out=tmp_path / "b", max_steps=2)
    seeds = {split: {t.seed for t in load_trajectories(path, split)} for split in SPLITS}
    assert {split: len(found) for split, found in seeds.items()} == {"train": 72, "validation": 4, "test": 4}
    assert set.union(*seeds.values()) == set(range(80))
    assert {t.seed for t in load_trajectories(other, "test")} == seeds["test"]
    both = open_store([path, other], "train")
    assert set(both.seeds.tolist()) == seeds["train"]
    assert sorted(both.level_ids) == ["BabyAI-GoToObj-v0", "BabyAI-GoToRedBall-v0"]


def test_held_out_pairs_are_in_no_training_mission(tmp_path):
    rule = SplitRule(held_out=DEFAULT_HELD_OUT)
    path = collect("BabyAI-GoToLocal-v0", 150, policy="random", out=tmp_path / "d", max_steps=1, split=rule)
    pairs = re.compile("|".join(DEFAULT_HELD_OUT))
    missions = {split: [t.mission for t in load_trajectories(path, split)] for split in SPLITS}
    assert not any(pairs.search(mission) for split in ("train", "validation") for mission in missions[split])
    assert missions["test"]
    assert all(pairs.search(mission) for mission in missions["test"])
    assert missions["validation"]
    assert open_store([path]).fingerprint == open_store([path], "test").fingerprint


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"shares": (0.9, 0.1)}, "three numbers"),
        ({"shares": (0.9, 0.2, 0.1)}, "add up to 1"),
        ({"held_out": ("red banana",)}, "red banana"),
    ],
)
def test_wrong_rules_are_refused(arguments, word):
    with pytest.raises(UserError, match=word):
        SplitRule(**arguments)


def test_an_unknown_split_is_refused(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 2, policy="random", out=tmp_path / "d", max_steps=2)
    with pytest.raises(UserError, match="dev"):
        load_trajectories(path, "dev")


def test_evaluation_on_training_seeds_is_refused(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 60, policy="random", out=tmp_path / "d", max_steps=2, seed=100)
    document = open_store([path], "train").document()
    test_seeds = open_store([path], "test").seeds.tolist()
    check_unseen(test_seeds, document)
    check_unseen(range(1000, 1100), document)
    check_unseen(unseen_seeds(100, 5), document)
    with pytest.raises(UserError, match=r"1 of 4 seeds were trained on in BabyAI-GoToObj-v0"):
        check_unseen([*test_seeds[:3], int(open_store([path], "train").seeds[0])], document)
    check_unseen(range(100, 160), document, level="BabyAI-GoToLocal-v0")
    assert document["train_seeds"]["BabyAI-GoToObj-v0"][0][0] >= 100
