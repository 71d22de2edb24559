"""Collecting keeps up with the environment, loading keeps up with training; memory does not grow with the data."""

import mmap

import numpy as np
import pytest

from wmtoolkit.benchmarks import data_speed, speed
from wmtoolkit.data import collect, open_store
from wmtoolkit.data.plan import DEFAULT_MIX, CollectionPlan


def measured(comparison, clock="cpu", rounds=1):
    """Rows by variant, on the processor's clock: other work on the machine changes little."""
    return {row["variant"]: row for row in speed._measured(comparison, rounds, speed.CLOCKS[comparison.clock or clock])}


def test_recording_keeps_up_with_the_environment_playing_the_same_steps(tmp_path):
    for shares in ({"random": 1.0}, DEFAULT_MIX):
        plan = CollectionPlan("BabyAI-GoToLocal-v0", 20, shares)
        rows = measured(data_speed._collecting(plan, tmp_path, {"recorded": 0.7}))
        assert rows["recorded"]["met"], rows
        assert rows["recorded"]["episodes_per_second"] < rows["recorded"]["per_second"]


def test_loading_is_twenty_times_as_fast_as_training(tmp_path):
    store = open_store([collect("BabyAI-GoToLocal-v0", 40, out=tmp_path / "d")])
    rows = measured(data_speed._loading(store, 1, seed=0, quick=True))
    assert rows["loader gives"]["ratio"] >= 20, rows


def test_targets_are_judged_and_shown():
    now = 0.0

    def taking(seconds):
        def call():
            nonlocal now
            now += seconds

        return call

    variants = {name: {"walk": (60, taking(seconds))} for name, seconds in (("one", 4), ("two", 2), ("three", 3))}
    legs = speed.Comparison("legs", "steps", variants, also={"episodes": 0.1}, targets={"two": 1.7, "three": 1.7})
    one, two, three = speed._measured(legs, 1, lambda: now)
    assert ("met" in one, two["met"], three["met"]) == (False, True, False)
    assert (two["per_second"], two["episodes_per_second"]) == (30, 3)
    small, large = speed._amounts(speed.Amount("memory", "MB", {"few": lambda: 70.0, "many": lambda: 140.0}, most=60))
    assert ("met" in small, large["met"], large["ratio"]) == (False, False, 2)
    text = speed._text(
        [{"part": "p", **row} for row in (two, three, large)], dict.fromkeys(("threads", "clock", "rounds"))
    )
    assert "30 steps, 3 episodes" in text
    assert "1.7 at least: met" in text
    assert "1.7 at least: MISSED" in text
    assert "60 MB more at most: MISSED" in text


def test_memory_is_that_of_this_process_outside_mapped_files(tmp_path):
    np.save(tmp_path / "mapped.npy", np.ones(8_000_000))
    before = data_speed._anonymous_megabytes()
    mapped = np.load(tmp_path / "mapped.npy", mmap_mode="r")
    assert mapped.sum() == 8_000_000
    assert data_speed._anonymous_megabytes() - before < 32
    # an array could take memory that the process holds already
    held = mmap.mmap(-1, 64_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    np.frombuffer(held, np.uint8)[:] = 1
    assert data_speed._anonymous_megabytes() - before > 60


@pytest.mark.slow
def test_memory_is_flat_from_a_thousand_to_fifty_thousand_episodes():
    few, many = (data_speed._memory(episodes)() for episodes in (1_000, 50_000))
    assert many - few <= data_speed.FLAT


@pytest.mark.slow
def test_two_workers_are_nearly_twice_as_fast(tmp_path):
    assert measured(data_speed._workers(tmp_path, 2400, seed=0))["2 workers"]["ratio"] >= 1.7
