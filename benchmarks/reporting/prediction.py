"""The report's section on predictions: ``wmtool evaluate`` and the suite of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.meanings import MEANINGS
from wmtoolkit.benchmarks.reporting.sections import (
    Section,
    Table,
    first,
    level,
    number,
    of_table,
    ranged,
    short,
    tabulated,
    with_interval,
)
from wmtoolkit.evaluation.tables import SCORES
from wmtoolkit.world.tokenizer import BLOCK


def prediction(document: Mapping[str, Any], name: str) -> Section:
    """Every metric with what it means, then level by level, by event, by position, by mask ratio."""
    rows = of_table(document, "levels")
    predictors = list(dict.fromkeys(row["predictor"] for row in rows))
    model = [row for row in rows if row["predictor"] == predictors[0]]
    tables = [_overall(document)]
    if len(model) > 1:
        scores = [metric for metric in SCORES if any(metric in row for row in model)]
        lines = [[SCORES[metric], *(ranged(metric, 4)(row) for row in model)] for metric in scores]
        tables.append(Table("Level by level", ["", *map(level, model)], lines))
    events = of_table(document, "events")
    kinds = list(dict.fromkeys(row["event"] for row in events))
    lines = [
        [short(name), *(ranged("exact")(first(events, level=name, event=kind)) for kind in kinds)]
        for name in dict.fromkeys(row["level"] for row in events)
    ]
    tables.append(Table("Steps with every known cell right, by event", ["level", *kinds], lines))
    tables.append(
        tabulated(
            "Outcome, by the number of true frames before it in the window",
            [row for row in of_table(document, "outcomes") if "outcome_f1" in row],
            {
                "level": level,
                "frames": "position",
                "precision": ranged("outcome_precision"),
                "recall": ranged("outcome_recall"),
                "F1": ranged("outcome_f1"),
                "P(success) at successes": ranged("success_probability"),
                "the same, mission swapped": ranged("success_probability_swapped"),
                "at near misses": ranged("success_probability_near_miss"),
            },
            best=4,
        )
    )
    tables += [_reliability(document), _completion(document)]
    return Section(
        f"Prediction: {name}" if document["command"] == "evaluate" else "Prediction",
        "One step ahead on held-out episodes: given everything seen so far and an action, what comes next? "
        "Copy-last-frame says that nothing changes. The dead-reckoned map has learned nothing: it is the prior "
        "knowledge of the egomotion option alone (what was last seen at a place is still there, what was never seen is "
        "empty), and so is the map in sight for the expectation option (the same, where MiniGrid's rule of sight shows "
        "it). What the model adds to them is its own.",
        [
            (_figure(document, name), f"{short(name)}: calibration, and completion by mask ratio")
            for name in _drawn_levels(document)
        ],
        tables,
    )


def _reliability(document: Mapping[str, Any]) -> Table:
    """The reliability diagram of all cells in numbers."""
    rows, levels = of_table(document, "reliability"), _drawn_levels(document)
    lines = [
        [
            f"{start:.3f}",
            *(
                f"{row['accuracy']:.3f} of {row['confidence']:.3f}, {row['n']:,}"
                if (row := first(rows, level=name, bin=start))
                else "-"
                for name in levels
            ),
        ]
        for start in sorted({row["bin"] for row in rows})
    ]
    title = "Calibration of all cells: share right of the mean probability given, and cells, by probability from"
    return Table(title, ["from", *map(short, levels)], lines)


def _completion(document: Mapping[str, Any]) -> Table:
    """Completion by mask ratio in numbers."""
    rows = of_table(document, "completion")
    ratios = sorted({row["ratio"] for row in rows})
    lines = [
        [short(name), f"{masking}, {label}", *(number(first(own, ratio=ratio).get(metric)) for ratio in ratios)]
        for name in _drawn_levels(document)
        for masking in dict.fromkeys(row["masking"] for row in rows)
        for metric, label in (("accuracy", "share right"), ("nll", "nats"))
        if (own := [row for row in rows if (row["level"], row["masking"]) == (name, masking)])
    ]
    return Table("Completion by share hidden", ["level", "", *map(str, ratios)], lines, words=(0, 1))


def _overall(document: Mapping[str, Any]) -> Table:
    """Every metric over all levels. A suite measures levels apart: there it is the mean over them."""
    rows, suite = of_table(document, "levels"), document["command"] != "evaluate"
    last = rows[-1]["level"] if rows else ""
    beside = [] if suite else list(dict.fromkeys(row["predictor"] for row in rows))[1:]
    over = "mean over levels" if suite else "all levels" if last == "all" else short(last)
    lines = [
        [
            metric,
            with_interval(entry, 4),
            *(number(first(rows, level=last, predictor=name).get(metric)) for name in beside),
            number(entry["n"]),
            MEANINGS.get(metric, "") + _bound(entry),
        ]
        for metric, entry in document["metrics"].items()
        if "/" not in metric
    ]
    heads = ["metric", f"world model, {over}", *beside, "n", "what it means"]
    return Table("", heads, lines, 1, (0, len(heads) - 1))


def _bound(entry: Mapping[str, Any]) -> str:
    """What belongs to a likelihood: its standard error, and the value a token."""
    if "standard_error" not in entry:
        return ""
    return f" Standard error {entry['standard_error']:.3f}; {entry['value'] / BLOCK:.4f} nats a token."


def _drawn_levels(document: Mapping[str, Any]) -> list[str]:
    levels = list(dict.fromkeys(row["level"] for row in of_table(document, "reliability")))
    return levels[-1:] if document["command"] == "evaluate" else levels


def _figure(document: Mapping[str, Any], name: str) -> str:
    parts = (
        [row for row in of_table(document, table) if row["level"] == name] for table in ("reliability", "completion")
    )
    return figures.evaluation_figure(*parts)
