import csv
import json

import pytest
import torch
from click.testing import CliRunner

from wmtoolkit.benchmarks import speed
from wmtoolkit.benchmarks.report import compare
from wmtoolkit.cli.main import main
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.results import results_document, write_json


def test_rates_ratios_and_spread_are_those_of_the_clock():
    """A clock that stands still but for the calls: each variant's seconds, round by round, are known."""
    now = 0.0

    def taking(*seconds):
        left = [9.0, *seconds]  # the first round warms up

        def call():
            nonlocal now
            now += left.pop(0)

        return call

    variants = {"slow": {"walk": (60, taking(4, 2, 3))}, "fast": {"walk": (60, taking(1, 5, 1.5))}}
    slow, fast = speed._measured(speed.Comparison("legs", "steps", variants), rounds=3, clock=lambda: now)
    assert (slow["variant"], slow["per_second"], slow["ratio"], slow["spread"]) == ("slow", 30.0, 1.0, 1.5)
    assert (fast["variant"], fast["per_second"], fast["ratio"], fast["spread"]) == ("fast", 60.0, 2.0, 1.5)


def test_the_command_measures_every_comparison_and_writes_its_results(tmp_path):
    threads = torch.get_num_threads()
    command = ["bench", "speed", "--part", "llada2", "--quick", "--threads", "1"]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.stderr
    assert torch.get_num_threads() == threads
    document = json.loads(done.stdout)
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == document["rows"]
    assert document["arguments"] == {"parts": ["llada2"], "quick": True, "rounds": 1, "threads": 1, "clock": "wall"}
    measured = {(row["comparison"], row["use"], row["variant"]) for row in document["rows"]}
    for name in ("sorted_mm", "grouped_mm", "eager"):
        assert {("experts", use, name) for use in ("forward", "train")} <= measured
    assert {("decoding", "decode", "recomputed"), ("decoding", "decode", "cached")} <= measured
    assert {("batch", "train", f"{rows} rows") for rows in (1, 2)} <= measured
    assert all(row["per_second"] > 0 and row["unit"] == "tokens" for row in document["rows"])
    assert len(document["text"].split("\n\n")[0].splitlines()) == len(document["rows"]) + 1
    again = CliRunner().invoke(main, [*command, "--out", str(tmp_path)])
    assert again.exit_code == 1
    assert "not empty" in again.stderr


def test_imagination_is_measured_beside_the_real_level():
    document = speed.speed(["imagination"], quick=True)
    assert len(document["checkpoint"]["sha256"]) == 64
    rows = document["rows"]
    found = {(row["comparison"], row["variant"]): row for row in rows}
    assert set(found) == {
        *(("imagination", name) for name in ("1 lanes", "4 lanes", "real level")),
        *(("32 steps of history", name) for name in ("whole history anew", "newest frame and memory")),
        *(
            (f"cache, 32 steps, 4 rounds{of}", name)
            for of in ("", " of 7 actions")
            for name in ("context anew in each pass", "cached context")
        ),
    }
    assert all(row["per_second"] > 0 and row["unit"] == "steps" for row in rows)
    assert "target" not in found["imagination", "1 lanes"]
    assert found["32 steps of history", "newest frame and memory"]["target"] == 3
    assert found["cache, 32 steps, 4 rounds", "cached context"]["target"] == 3
    assert found["imagination", "4 lanes"]["rate_target"] == 1000


def test_an_unknown_part_or_clock_is_named():
    with pytest.raises(UserError, match="'llama' is no part; there are llada2"):
        speed.speed(["llama"])
    with pytest.raises(UserError, match="'sun' is no clock; there are wall, cpu"):
        speed.speed(clock="sun")


def test_a_report_says_which_targets_are_met_and_keeps_ratios_as_numbers(tmp_path):
    rows = [
        {
            "part": "p",
            "comparison": "c",
            "use": "u",
            "variant": name,
            "unit": "steps",
            "per_second": 50.0,
            "ratio": ratio,
        }
        | {"spread": 1.0, "target": 3, "met": ratio >= 3, "rate_target": 40, "rate_met": True}
        for name, ratio in (("first", 1.0), ("second", 4.0))
    ]
    write_json(tmp_path / "results.json", results_document("bench speed", {}, {}, rows))
    text = compare([tmp_path])["text"]
    compare([tmp_path], tmp_path / "report.csv")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| p |")]
    assert [line[5] for line in lines] == ["3: missed, 40 a second: met", "3: met, 40 a second: met"]
    with (tmp_path / "report.csv").open(newline="") as file:
        found = {line["labels"]: line["value"] for line in csv.DictReader(file) if line["metric"] == "ratio"}
    assert sorted(found.values()) == ["1.0", "4.0"]
    assert all("ratio" not in labels for labels in found)
