"""The report's sections on agents: success, robustness, fidelity, and single rollouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.sections import (
    Row,
    Section,
    Table,
    first,
    level,
    number,
    of_table,
    percent,
    ranged,
    short,
    tabulated,
    with_interval,
)
from wmtoolkit.evaluation.aggregates import paired_difference

FILMED = (
    " Films: the level from above, what the agent sees, and what the model goes on to imagine from the first view "
    "under the same actions, never shown reality again; what was out of sight it has to guess."
)
_HORIZONS = (1, 2, 4, 8, 16, 32, 64)


def success(document: Mapping[str, Any], name: str) -> Section:
    """Agents over levels, level by level, and in pairs."""
    rows = of_table(document, "success")
    return Section(
        "Success",
        f"Every agent plays the same level seeds; those of the training are "
        f"{document['arguments'].get('training_seeds', 'not recorded')}. Return is MiniGrid's 1 - 0.9 "
        "steps/limit for a success and 0 otherwise. An episode in which an agent raised an error counts as failed."
        + _films(document),
        [(figures.success_by_level(rows), "Success by level and agent, with 95 % Wilson intervals")] if rows else [],
        [
            tabulated(
                "Over levels",
                of_table(document, "agents"),
                {
                    "agent": "agent",
                    "levels": "levels",
                    "success": percent("success_rate"),
                    "interquartile mean of success": ranged("success_iqm"),
                    "interquartile mean of return": ranged("return_iqm"),
                },
                best=3,
            ),
            tabulated(
                "Level by level",
                rows,
                {
                    "level": level,
                    "agent": "agent",
                    "success": percent("success_rate"),
                    "mean return": ranged("mean_return"),
                    "mean length": ranged("mean_episode_length", 1),
                    "ms a decision": "milliseconds_per_decision",
                    "slowest": "slowest_decision_milliseconds",
                    "passes a decision": ranged("forward_passes_per_decision", 2),
                    "an episode": lambda row: (
                        f"{value:.1f}" if (value := row.get("forward_passes_per_episode")) is not None else "-"
                    ),
                    "episodes": "n",
                    "": _remark,
                },
                best=2,
                words=(0, 1, 10),
            ),
            tabulated(
                "Probability of improvement, and difference of success on the same seeds",
                of_table(document, "improvement"),
                {
                    "agent": "agent",
                    "over": "over",
                    "P(higher return)": ranged("probability"),
                    "difference of success": ranged("success_difference"),
                    "levels": "levels",
                },
                best=2,
                words=(0, 1),
            ),
        ],
    )


def robustness(document: Mapping[str, Any], name: str) -> Section:
    """Curves against each knob, and how much is kept."""
    rows, blind = of_table(document, "robustness"), of_table(document, "blind prediction")
    drawn = [
        (figures.robustness_figure(rows, knob), f"Success against {knob.replace('_', ' ')}")
        for knob in dict.fromkeys(row["knob"] for row in rows)
        if len({row["strength"] for row in rows if row["knob"] == knob}) > 2
    ]
    if any(row.get("known_cell_accuracy") is not None for row in blind):
        curve = figures.robustness_figure(
            [{**row, "agent": row.get("predictor", "world model")} for row in blind],
            "cell_dropout",
            "known_cell_accuracy",
        )
        drawn.append((curve, "Known cells of the next clear view predicted right from badly seen histories"))
    condition = {
        "knob": lambda row: row["knob"].replace("_", " "),
        "strength": lambda row: f"{row['strength']:g}",
        "belief completion": _belief,
    }
    return Section(
        "Robustness",
        "Cells are hidden, the view is small, colours lie, frames are lost; with belief completion the world model "
        "fills in what is hidden before the agent sees it. What is kept is success (or return, which also feels "
        "detours) at 30 % hidden cells over that with a clear view on the same seeds (both stand beside it; over few "
        "episodes it may be above 1); the normalised area is the mean of the curve over all shares hidden, over the "
        "clear view's value, where every share was played to the end. Baselines act on what is shown; "
        "random never looks, so that it keeps all of the little it has; bot reads the simulator: floor and ceiling.",
        drawn,
        [
            tabulated(
                "How much is kept",
                of_table(document, "retention"),
                {
                    "level": level,
                    "agent": "agent",
                    "belief completion": _belief,
                    "success kept at 0.3": lambda row: kept_of(document, row),
                    "return kept at 0.3": ranged("return_retention_0.3"),
                    "normalised area, success": ranged("robustness_auc"),
                    "normalised area, return": ranged("return_robustness_auc"),
                },
                best=3,
                words=(0, 1, 2),
            ),
            tabulated(
                "With belief completion, on the same level seeds",
                of_table(document, "gain"),
                {
                    "level": level,
                    "agent with belief": "agent",
                    "over": "over",
                    "knob": condition["knob"],
                    "strength": condition["strength"],
                    "difference of success": ranged("success_difference"),
                    "difference of return": ranged("return_difference"),
                    "episodes": "episodes",
                },
                best=5,
                words=(0, 1, 2, 3),
            ),
            tabulated(
                "Every condition",
                rows,
                {
                    "level": level,
                    "agent": "agent",
                    **condition,
                    "success": percent("success_rate"),
                    "mean return": ranged("mean_return"),
                    "episodes": "n",
                    "": _remark,
                },
                best=5,
                words=(0, 1, 2, 4, 8),
            ),
            tabulated(
                "Prediction from badly seen histories",
                blind,
                {
                    "level": level,
                    "predictor": lambda row: row.get("predictor", "world model"),
                    **condition,
                    "known cells": ranged("known_cell_accuracy", 4),
                    "known frames exact": ranged("known_frame_exact", 4),
                },
                best=5,
                words=(0, 1, 2, 4),
            ),
        ],
    )


def kept_of(document: Mapping[str, Any], row: Row, ends: bool = True) -> str:
    """Success kept at 30 % hidden cells, and the two rates it is the ratio of: it may be above 1."""
    rows = [item for item in of_table(document, "robustness") if item["knob"] == "cell_dropout"]
    rows = [item for item in rows if (item["level"], item["agent"]) == (row["level"], row["agent"])]
    rates = [
        first(rows, strength=strength, belief=belief).get("success_rate")
        for strength, belief in ((0.3, row["belief"]), (0.0, False))
    ]
    value = ranged("retention_0.3")(row if ends else {"retention_0.3": row.get("retention_0.3")})
    return value if None in rates else f"{value}: {rates[0]:.3f} of {rates[1]:.3f}"


def looked_around(document: Mapping[str, Any]) -> bool:
    """Whether the model was shown a turn on the spot before it imagined."""
    return document.get("arguments", {}).get("plan", {}).get("start") == "look_around"


_LOOKED = " The model, not the agents, was shown before what a turn on the spot shows: four real steps an episode."


def fidelity(document: Mapping[str, Any], name: str) -> Section:
    """Drift by horizon, and success imagined against success real."""
    steps, divergence, rows = (of_table(document, table) for table in ("drift", "divergence", "fidelity"))
    drawn = []
    if steps:
        drawn.append(
            (figures.drift_figure(steps, divergence), "Imagination that goes on alone, and what really happened")
        )
    played = [row for row in rows if None not in (row.get("real_success_rate"), row.get("imagined_success_rate"))]
    if played:
        drawn.append(
            (figures.fidelity_figure(played), "Success in imagination and in reality, a point a level and agent")
        )
    labels = {
        "fidelity_pearson": "Pearson's correlation",
        "fidelity_spearman": "Spearman's rank correlation",
        "fidelity_gap": "mean absolute difference",
        "ranking_spearman": "agents ranked by their mean over levels, Spearman",
    }
    metrics = {label: document["metrics"][key] for key, label in labels.items() if key in document["metrics"]}
    exact = [
        [
            short(row["level"]),
            *(ranged("known_frame_exact")(first(steps, level=row["level"], horizon=mark)) for mark in _HORIZONS),
            f"{row['median']}" if row["median"] else f"beyond {len(row['survival'])}",
        ]
        for row in divergence
    ]
    return Section(
        "Fidelity",
        "Is imagination like reality? Drift: branches from recorded episodes that are never shown reality again; only "
        "cells whose place was seen before the branch count. Success: the same agents from the same first "
        "observations, in the level and in the model."
        + (_LOOKED if looked_around(document) else "")
        + _films(document),
        drawn,
        [
            Table(
                "Success imagined against success real",
                ["", "value", "points or agents"],
                [[label, with_interval(entry), number(entry["n"])] for label, entry in metrics.items()],
                1,
            ),
            Table(
                "Frames with every known cell right, by imagined steps",
                ["level", *map(str, _HORIZONS), "median steps without an error"],
                exact,
            ),
            tabulated(
                "Level by level",
                rows,
                {
                    "level": level,
                    "agent": "agent",
                    "real": percent("real_success_rate"),
                    "imagined": percent("imagined_success_rate"),
                    "episodes": "real_n",
                    "": lambda row: "; ".join(
                        filter(None, (row.get("note"), row.get("real_error") or row.get("imagined_error")))
                    ),
                },
                best=3,
                words=(0, 1, 5),
            ),
            tabulated(
                "Agents ranked in imagination against in reality",
                of_table(document, "ranking"),
                {"level": level, "agents": "agents", "Spearman": ranged("spearman")},
                best=2,
            ),
        ],
    )


def rollouts(documents: list[tuple[Mapping[str, Any], str]]) -> Section:
    """Several ``wmtool rollout`` side by side."""
    rows = []
    for document, name in documents:
        row: dict[str, Any] = {"agent": name, "level": document["arguments"]["level"]}
        for metric, entry in document["metrics"].items():
            low, high = entry["ci95"] or (None, None)
            row |= {metric: entry["value"], f"{metric}_low": low, f"{metric}_high": high, "n": entry["n"]}
        rows.append(row | {"n": document["metrics"]["success_rate"]["n"]})
    return Section(
        "Rollouts",
        "Each agent plays the same fresh levels. best-first plans in imagination and acts in the real level; policy "
        "takes the action that the model itself would expect of the bot; bot is BabyAI's own solver, which reads the "
        "simulator; random is the floor. Success: the episode ended in the mission's success within the level's own "
        "time limit.",
        [(figures.rates(rows, "agent"), "Success rates")],
        [
            tabulated(
                "",
                rows,
                {
                    "agent": "agent",
                    "level": level,
                    "success": percent("success_rate"),
                    "mean return": "mean_return",
                    "mean length": "mean_episode_length",
                    "decisions a second": "decisions_per_second",
                    "raised": "errors",
                    "episodes": "n",
                },
                best=2,
                words=(0, 1),
            ),
            _paired(documents),
        ],
    )


def _paired(documents: list[tuple[Mapping[str, Any], str]]) -> Table:
    """Each rollout's success against the first of the same level, on the seeds that both played."""
    lines = []
    firsts: dict[str, tuple[str, dict[int, float]]] = {}
    for document, name in documents:
        level = document["arguments"]["level"]
        own = {row["seed"]: float(row["success"]) for row in document["rows"]}
        against, theirs = firsts.setdefault(level, (name, own))
        if shared := sorted(own.keys() & theirs.keys()) if against != name else []:
            gain = paired_difference(
                [np.array([own[seed] for seed in shared])], [np.array([theirs[seed] for seed in shared])]
            )
            lines.append([name, against, short(level), with_interval(gain), number(gain["n"])])
    title = "Difference of success on the same seeds"
    return Table(title, ["agent", "over", "level", "difference of success", "seeds"], lines, 3, (0, 1, 2))


def _films(document: Mapping[str, Any]) -> str:
    return FILMED if of_table(document, "films") else ""


def _belief(row: Row) -> str:
    return "yes" if row["belief"] else "no"


def _remark(row: Row) -> str:
    parts = [row["note"]] if row.get("note") else []
    if row.get("errors"):
        parts.append(f"raised in {row['errors']} episodes: {row['error']}")
    return "; ".join(parts)
