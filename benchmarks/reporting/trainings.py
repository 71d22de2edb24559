"""The report's sections on trainings and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.sections import Section, Table, number, of_table, percent, ranged, tabulated

COMPARED = {
    "known_cell_accuracy": "known cells",
    "known_frame_exact": "known frames exact",
    "outcome_f1": "outcome F1",
    "action_accuracy": "bot's action",
    "inverse_accuracy_changed": "inverse dynamics",
    "belief_accuracy": "belief",
    "nll_per_step": "NLL bound a step",
    "forward_nll": "forward NLL a step",
    "revealed_nll": "revealed cells, NLL",
}
"""Metrics by which trainings are compared."""
_DRAWN = 3
_TEXTS = {
    "bench efficiency": ("Efficiency", "The same training on fewer and fewer episodes."),
    "bench ablation": ("Ablations", "Every variant changes one thing of the first."),
    "bench baselines": (
        "Baselines",
        "Rivals of the any-order model on the same data and budget, asked the same: a transformer of the same size "
        "from left to right (inverse dynamics by Bayes' rule in seven passes, hidden cells filled in their turn), a "
        "masked model whose ratio never changes, a convolutional one-step predictor and behaviour cloning that see "
        "one view, and three that learn nothing. A dash: it cannot be asked.",
    ),
}
_RANGES = " Behind a mean over several seeds stands their range, behind a single run its 95 % interval."


def trainings(document: Mapping[str, Any], name: str) -> Section:
    """Variants of a training beside the first of them."""
    rows, (title, text) = of_table(document, "variants"), _TEXTS[document["command"]]
    shown = {key: label for key, label in COMPARED.items() if any(key in row for row in rows)}
    played = sorted({key for row in rows for key in row if key.startswith("success_rate/")})
    played = [key for key in played if not key.endswith(("_low", "_high"))]
    drawn = []
    if rows and title == "Efficiency":
        drawn.append((figures.efficiency_figure(rows, [*played, "known_frame_exact"]), "Against the amount of data"))
    elif rows and shown:
        few = dict(list(shown.items())[:_DRAWN])
        drawn.append(
            (figures.ablation_figure(rows, few), "Each variant; dotted: the first, which all are compared with")
        )
    return Section(
        title,
        text + _RANGES,
        drawn,
        [
            tabulated(
                "",
                rows,
                {
                    "variant": "variant",
                    "seeds": "seeds",
                    "parameters": lambda row: f"{row['parameters']:,.0f}",
                    **{label: ranged(key) for key, label in shown.items()},
                    **{f"success, {key.partition('/')[2]}": percent(key) for key in played},
                    "training s": lambda row: f"{row['training_seconds']:,.0f}",
                },
            )
        ],
    )


def speed(document: Mapping[str, Any], name: str) -> Section:
    """Every comparison as it was measured, ratios marked."""
    rows = document["rows"]
    names = list(rows[0]) if rows else []
    lines = [[number(row.get(key)) for key in names] for row in rows]
    words = [place for place, key in enumerate(names) if rows and isinstance(rows[0][key], str)]
    best = names.index("ratio") if "ratio" in names else None
    return Section(
        "Speed",
        "The variants of a comparison take turns in one run; the ratio is to the first variant. Trust the ratios more "
        "than the speeds: those depend on the machine and on what else it does.",
        tables=[Table("", [key.replace("_", " ") for key in names], lines, best, words)],
    )
