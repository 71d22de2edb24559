"""The tables of an evaluation as Markdown, for the terminal and for model cards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SCORES = {
    "known_cell_accuracy": "known cells",
    "known_frame_exact": "known frames exact",
    "remembered_cell_accuracy": "cells last seen 5-30 steps ago",
    "changed_cell_accuracy": "changed cells",
    "direction_accuracy": "heading",
    "outcome_f1": "outcome F1",
    "action_accuracy": "bot's action",
    "inverse_accuracy_changed": "inverse dynamics, where something changed",
    "inverse_bayes_changed": "the same by Bayes' rule",
    "inverse_accuracy": "inverse dynamics, all steps",
    "goal_accuracy": "plan to a goal, first action",
    "belief_accuracy": "belief, 30 % of cells hidden",
    "ece": "ECE of all cells",
    "ece_revealed": "ECE of revealed cells",
    "ece_outcome": "ECE of the outcome",
    "revealed_nll": "revealed cells, NLL",
    "revealed_nll_prior": "the same of the empirical prior",
    "nll_per_step": "NLL bound a step",
    "chain_nll_per_step": "chain NLL a step",
}
"""Metrics of the main table, in order, with their headings."""


def markdown(document: Mapping[str, Any]) -> str:
    """The tables of a results document of ``wmtool evaluate``."""
    rows = document["rows"]
    levels = [row for row in rows if row["table"] == "levels"]
    predictors = list(dict.fromkeys(row["predictor"] for row in levels))
    parts = []
    model = [row for row in levels if row["predictor"] == predictors[0]]
    parts.append(
        _section(
            "Prediction on held-out episodes (95 % interval)",
            ["level", *SCORES.values()],
            [[_short(row["level"]), *(cell(row, name) for name in SCORES)] for row in model],
            wide=True,
        )
    )
    compared = [name for name in SCORES if any(name in row for row in levels if row["predictor"] != predictors[0])]
    last = model[-1]["level"]
    parts.append(
        _section(
            f"Beside the baselines, {'all levels' if len(model) > 1 else _short(last)}",
            ["", *predictors],
            [[SCORES[name], *(_number(row.get(name)) for row in levels if row["level"] == last)] for name in compared],
        )
    )
    events = [row for row in rows if row["table"] == "events"]
    names = list(dict.fromkeys(row["event"] for row in events))
    parts.append(_pivot("Steps with every known cell right, by event", events, "event", names, "exact"))
    outcomes = [row for row in rows if row["table"] == "outcomes" and "outcome_f1" in row]
    columns = (
        "outcome_precision",
        "outcome_recall",
        "outcome_f1",
        "success_probability",
        "success_probability_swapped",
        "success_probability_near_miss",
    )
    parts.append(
        _section(
            "Outcome, by the number of true frames before it in the window",
            [
                "level",
                "frames",
                "precision",
                "recall",
                "F1",
                "P(success) at successes",
                "mission swapped",
                "near misses",
            ],
            [[_short(row["level"]), str(row["position"]), *(cell(row, name) for name in columns)] for row in outcomes],
        )
    )
    completion = [row for row in rows if row["table"] == "completion" and row["level"] == last]
    ratios = list(dict.fromkeys(row["ratio"] for row in completion))
    lines = []
    for masking in dict.fromkeys(row["masking"] for row in completion):
        found = {row["ratio"]: row for row in completion if row["masking"] == masking}
        for name, label in (("accuracy", "accuracy"), ("nll", "nats")):
            lines.append([f"{masking}, {label}", *(_number(found[ratio].get(name)) for ratio in ratios)])
    parts.append(
        _section(
            f"Completion by mask ratio, {'all levels' if len(model) > 1 else _short(last)}",
            ["", *(str(ratio) for ratio in ratios)],
            lines,
        )
    )
    parts.append(_footer(document))
    return "\n\n".join(part for part in parts if part)


def cell(row: Mapping[str, Any], name: str) -> str:
    """A metric of a flat row with its interval, "-" where it is not there."""
    if row.get(name) is None:
        return "-"
    return f"{_number(row[name])} ({_number(row[f'{name}_low'])}-{_number(row[f'{name}_high'])})"


def _short(level: str) -> str:
    """A level's name without its family and version."""
    return level.removeprefix("BabyAI-").removeprefix("MiniGrid-").replace("-v0", "")


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _pivot(title: str, rows: Sequence[Mapping[str, Any]], key: str, names: Sequence[str], metric: str) -> str:
    """One line a level, one column a name."""
    lines = []
    for level in dict.fromkeys(row["level"] for row in rows):
        found = {row[key]: row for row in rows if row["level"] == level}
        lines.append([_short(level), *(cell(found.get(name, {}), metric) for name in names)])
    return _section(title, ["level", *names], lines)


def _section(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]], wide: bool = False) -> str:
    """A headed table; ``wide`` turns it, so that a metric is a line and a level a column."""
    if not lines:
        return ""
    table = [list(columns), *(list(line) for line in lines)]
    if wide:
        table = [list(line) for line in zip(*table, strict=True)]
        table[0][0] = ""
    head, *body = table
    text = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]
    return f"**{title}**\n\n" + "\n".join(text)


def _footer(document: Mapping[str, Any]) -> str:
    arguments, metrics = document["arguments"], document["metrics"]
    lines = [f"`{document['command_line']}`", f"seed {document['seed']}, {document['date']}, commit {document['git']}"]
    if document["checkpoint"]:
        lines.append(f"checkpoint sha256 {document['checkpoint']['sha256']}")
    lines.append(f"level seeds of the training: {arguments['training_seeds']}")
    if "nll_per_step" in metrics:
        bound = metrics["nll_per_step"]
        lines.append(
            f"NLL bound: random orders weighted L/l, {arguments['bound_samples']} draws on each of {bound['n']} steps, "
            f"standard error {bound['standard_error']:.3f} nats a step; {bound['value'] / 52:.4f} nats a token"
        )
    return "  \n".join(lines)
