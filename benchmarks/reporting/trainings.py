"""The report's sections on trainings and speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.sections import (
    Row,
    Section,
    Table,
    first,
    number,
    of_table,
    percent,
    ranged,
    short,
    tabulated,
)
from wmtoolkit.evaluation.tables import SCORES

COMPARED = {
    "known_cell_accuracy": "known cells",
    "known_frame_exact": "known frames exact",
    "outcome_f1": "outcome F1",
    "action_accuracy": "bot's action",
    "inverse_accuracy_changed": "inverse dynamics",
    "inverse_bayes_changed": "inverse dynamics by Bayes' rule",
    "belief_accuracy": "belief",
    "goal_accuracy": "goal",
    "nll_per_step": "NLL bound a step",
    "forward_nll": "forward NLL a step, all at once",
    "chain_nll": "forward NLL a step, chain",
    "chain_nll_heading": "of it, the heading",
    "revealed_nll": "revealed cells, NLL",
}
"""Metrics by which trainings are compared."""
QUERIES = {
    "forward: known cells right": "known_cell_accuracy",
    "forward: known frames exact": "known_frame_exact",
    "forward: nats a step, token by token": "chain_nll",
    "forward: of these, the heading's": "chain_nll_heading",
    "forward: of these, outcome and cells": "chain_nll_rest",
    "forward: heading right": "direction_accuracy",
    "forward: nats a step, all at once": "forward_nll",
    "outcome: F1": "outcome_f1",
    "policy: the bot's action": "action_accuracy",
    "inverse: the action between two views": "inverse_accuracy_changed",
    "inverse: the same by Bayes' rule": "inverse_bayes_changed",
    "belief: 30 % hidden cells filled right": "belief_accuracy",
    "goal: first action of a plan to succeed": "goal_accuracy",
}
"""What an any-order model is asked, and the metric that says how well it answers."""
DRIFT = "frame_exact_alone_"
"""Share of frames with every known cell right where imagination went on alone; behind it the horizon, a slash and the
rounds of filling."""
_DRAWN = 3
_EPISODES = {"real_episodes": "recorded episodes", "demonstrations": "of them the expert's"}
_TEXTS = {
    "bench efficiency": ("Efficiency", "The same training on fewer and fewer episodes."),
    "bench ablation": ("Ablations", "Every variant changes one thing of the first."),
    "bench baselines": (
        "Baselines",
        "Rivals of the any-order model on the same data and budget, asked the same: a transformer of the same size "
        "from left to right (inverse dynamics by Bayes' rule in seven passes, hidden cells filled in their turn), a "
        "masked model whose ratio never changes, a convolutional one-step predictor and behaviour cloning that see "
        "one view, predictors that learn nothing, or only count (the empirical prior), and model-free PPO in the real "
        "levels, for as many steps as the data hold. A dash: it cannot be asked. "
        "Forward NLL: nats of outcome, heading and 49 cells of a step given past and action, on the same steps; by the "
        "chain each token knows those before it, all at once none knows another.",
    ),
}
_RANGES = " Behind a mean over several seeds stands their range, behind a single run its 95 % interval."


def trainings(document: Mapping[str, Any], name: str) -> Section:
    """Variants of a training beside the first of them."""
    rows, (title, text) = of_table(document, "variants"), _TEXTS[document["command"]]
    shown = {key: label for key, label in COMPARED.items() if any(key in row for row in rows)}
    played, drifts = _beginning_with("success_rate/", rows), _beginning_with(DRIFT, rows)
    # Of a single level success stands under the level's name alone.
    played = [key for key in played if len([other for other in played if other.startswith(f"{key}, ")]) != 1]
    drawn = []
    if rows and title == "Efficiency":
        drawn.append((figures.efficiency_figure(rows, [*played, "known_frame_exact"]), "Against the amount of data"))
    elif rows and shown:
        few = dict(list(shown.items())[:_DRAWN])
        drawn.append(
            (figures.ablation_figure(rows, few), "Each variant; dotted: the first, which all are compared with")
        )
    unplanned = [row["variant"] for row in of_table(document, "not planned")]
    return Section(
        title,
        text + _RANGES + (f" Not in this plan: {', '.join(unplanned)}." if unplanned else ""),
        drawn,
        [
            tabulated(
                "",
                rows,
                {
                    "variant": "variant",
                    "seeds": "seeds",
                    **{label: _whole(key) for key, label in (_EPISODES if title == "Efficiency" else {}).items()},
                    "parameters": _whole("parameters"),
                    **{label: ranged(key) for key, label in shown.items()},
                    **{_alone(key): ranged(key) for key in drifts},
                    **{f"success, {key.partition('/')[2]}": percent(key) for key in played},
                    "training s": _whole("training_seconds"),
                    **({"": lambda row: row.get("note", "")} if any("note" in row for row in rows) else {}),
                },
            ),
            *([_queries(rows)] if document["command"] == "bench baselines" else []),
            _origins(document),
        ],
    )


def _whole(key: str) -> Callable[[Row], str]:
    return lambda row: f"{row[key]:,.0f}" if key in row else "-"


def _beginning_with(prefix: str, rows: Sequence[Row]) -> list[str]:
    """Metrics of the rows whose names begin so, without their intervals."""
    found = {key for row in rows for key in row if key.startswith(prefix)}
    return sorted(key for key in found if not key.endswith(("_low", "_high")))


def _alone(key: str) -> str:
    horizon, _, rounds = key.removeprefix(DRIFT).partition("/")
    return f"known frames exact after {horizon} steps alone, {rounds} {'round' if rounds == '1' else 'rounds'}"


def _origins(document: Mapping[str, Any]) -> Table:
    """Every training: its seed, and the hash of what it left."""
    rows = list(
        {
            (row.get("variant"), row["training_seed"]): row
            for row in of_table(document, "runs")
            if row.get("parameters", 1)
        }.values()
    )
    columns: dict[str, Any] = {"variant": "variant"} if any("variant" in row for row in rows) else {}
    columns |= {"training seed": "training_seed", "checkpoint sha256": lambda row: row.get("checkpoint", "-")}
    return tabulated("Trainings", rows, columns, words=(0, len(columns) - 1))


def _queries(rows: Sequence[Row]) -> Table:
    """Query by query, what the any-order model and the autoregressive one answer."""
    beside = [row for name in ("any-order", "autoregressive") if (row := first(rows, variant=name))]
    lines = [[query, *(ranged(metric)(row) for row in beside)] for query, metric in QUERIES.items()]
    title = "Query by query; all but the nats are shares right"
    return Table(title, ["query", *(str(row["variant"]) for row in beside)], lines if beside else [])


def pairs(document: Mapping[str, Any], name: str) -> Section:
    """Missions that name colour-object pairs never named in training, beside those that name others."""
    rows, held_out = of_table(document, "pairs"), document["arguments"]["plan"]["held_out"]
    metrics = {key: label for key, label in SCORES.items() if any(key in row for row in rows)}
    tables = []
    for name in dict.fromkeys(row["level"] for row in rows):
        columns = [first(rows, level=name, pairs=pairs) for pairs in ("unseen pairs", "seen pairs")]
        lines = [[label, *(ranged(key, 4)(row) for row in columns)] for key, label in metrics.items()]
        tables.append(Table(short(name), ["", "unseen pairs", "seen pairs"], lines, 1))
    return Section(
        "Unseen pairs",
        f"Trained on missions that name none of {', '.join(held_out)}; the objects themselves are seen, as any other. "
        "Asked about held-out episodes whose missions name one of these, and about others, whose level seeds are new "
        "alike. Where the model leans on the mission (outcome, policy, goal) the columns may part." + _RANGES,
        tables=[*tables, _origins(document)],
    )


def _targets(row: Row) -> str:
    """What a speed should be: as a ratio or an amount, and in steps a second."""
    parts = [f"{number(row['target'])}: {'met' if row['met'] else 'missed'}"] if "target" in row else []
    if "rate_target" in row:
        parts.append(f"{number(row['rate_target'])} a second: {'met' if row['rate_met'] else 'missed'}")
    return ", ".join(parts)


def speed(document: Mapping[str, Any], name: str) -> Section:
    """Every comparison as it was measured, ratios marked."""
    columns = {
        **{key: key for key in ("part", "comparison", "use", "variant")},
        "ratio": "ratio",
        "target": _targets,
        "a second": lambda row: f"{number(row['per_second'])} {row['unit']}" if "per_second" in row else "",
        "in all": lambda row: f"{number(row['amount'])} {row['unit']}" if "amount" in row else "",
        "spread": "spread",
    }
    return Section(
        "Speed",
        "The variants of a comparison take turns in one run; the ratio is to the first variant. Trust the ratios more "
        "than the speeds: those depend on the machine and on what else it does.",
        tables=[tabulated("", document["rows"], columns, best=4, words=(0, 1, 2, 3))],
    )
