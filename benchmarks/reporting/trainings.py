"""The report's sections on trainings and speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.sections import Section, number, of_table, percent, ranged, tabulated

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
        "one view, and predictors that learn nothing, or only count (the empirical prior). A dash: it cannot be asked.",
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
                    **({"": lambda row: row.get("note", "")} if any("note" in row for row in rows) else {}),
                },
            )
        ],
    )


def speed(document: Mapping[str, Any], name: str) -> Section:
    """Every comparison as it was measured, ratios marked."""
    columns = {
        **{key: key for key in ("part", "comparison", "use", "variant")},
        "ratio": "ratio",
        "target": lambda row: (
            f"{number(row['target'])}: {'met' if row['met'] else 'missed'}" if "target" in row else ""
        ),
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
