"""Plots of the report, as SVG text that stands in a page by itself."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wmtoolkit.benchmarks.reporting.sections import Row, short

if TYPE_CHECKING:
    from wmtoolkit.benchmarks.reporting.reading import Run

COLORS = ("#3b7dd8", "#e07b39", "#3a9d5d", "#9b59b6", "#c0392b", "#16a2a8", "#b5892f", "#d45c9a", "#6b7f99", "#7f8c2a")
_GREY = "#888888"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wmtoolkit",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _GREY,
    "axes.titlecolor": _GREY,
    "axes.titlesize": 10,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "text.color": _GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.prop_cycle": cycler(color=COLORS),
}
"""Grey text and no background: readable on a light page and on a dark one."""
_LINES = ("-", "--", ":", "-.")


def loss_curve(runs: Sequence[Run]) -> str:
    """Training loss and validation NLL of runs against the step."""
    with matplotlib.rc_context(_STYLE):
        figure, (left, right) = _panels(2)
        for run in runs:
            train = [(line["step"], line["loss"]) for line in run.metrics if "loss" in line]
            held_out = [
                (line["step"], line["validation_nll_per_step"])
                for line in run.metrics
                if "validation_nll_per_step" in line
            ]
            if train:
                left.plot(*zip(*train, strict=True), label=run.name, linewidth=1)
            if held_out:
                right.plot(*zip(*held_out, strict=True), label=run.name, marker="o", markersize=3, linewidth=1)
        left.set(xlabel="step", ylabel="training loss (weighted nats a token)", yscale="log")
        right.set(xlabel="step", ylabel="validation NLL bound (nats a step)", yscale="log")
        if len(runs) > 1:
            left.legend()
        return _svg(figure)


def learning_curves(curves: Sequence[Sequence[Row]]) -> str:
    """Success of policies, a line a run, against real steps and against resets of the real level."""
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(2)
        for axes, x, label in zip(panels, ("real_steps", "real_resets"), ("real steps", "resets"), strict=True):
            for place, curve in enumerate(curves):
                name = f"{curve[0]['run']} ({short(curve[0]['level'])}, {curve[0]['mode']})"
                _curve(axes, curve, x, "success", name, COLORS[place % len(COLORS)])
            axes.set(xlabel=label, ylabel="success in the real level", ylim=(-0.02, 1.02))
        panels[0].legend(loc="lower right")
        return _svg(figure)


def rates(rows: Sequence[Row], label: str, metric: str = "success_rate") -> str:
    """Horizontal bars of a rate with its interval, one a row, in order."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.42 * len(rows) + 0.9), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(rows))[::-1]
        axes.barh(places, [row[metric] for row in rows], color=COLORS[0], alpha=0.75, height=0.6)
        for place, row in zip(places, rows, strict=True):
            axes.plot([row[f"{metric}_low"], row[f"{metric}_high"]], [place, place], color=_GREY, linewidth=2)
        axes.set_yticks(places, [str(row[label]) for row in rows])
        axes.set(xlim=(0, 1.02), xlabel="success rate, with 95 % interval")
        return _svg(figure)


def success_by_level(rows: Sequence[Row]) -> str:
    """Success of every agent in every level, with intervals: a line a level, a mark an agent."""
    levels, agents = _unique(rows, "level"), _unique(rows, "agent")
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 0.24 * len(levels) * max(2, len(agents)) + 1.1), layout="constrained")
        axes = figure.subplots()
        for number, agent in enumerate(agents):
            own = {row["level"]: row for row in rows if row["agent"] == agent and row["n"]}
            shift = (number - (len(agents) - 1) / 2) * 0.8 / len(agents)
            places = [place for place, level in enumerate(levels) if level in own]
            found = [own[levels[place]] for place in places]
            _marks(axes, [row["success_rate"] for row in found], np.array(places) + shift, found, number, agent)
        for place in range(1, len(levels)):
            axes.axhline(place - 0.5, color=_GREY, alpha=0.25, linewidth=0.7)
        axes.set_yticks(range(len(levels)), [short(level) for level in levels])
        axes.invert_yaxis()
        axes.set(xlim=(-0.02, 1.02), xlabel="success rate, with 95 % Wilson interval")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def _marks(axes: Axes, x: Any, y: Any, rows: Sequence[Row], number: int, label: str) -> None:
    axes.errorbar(
        x,
        y,
        xerr=_spread(rows, "success_rate"),
        fmt="o",
        markersize=5,
        color=COLORS[number % len(COLORS)],
        label=label,
        linewidth=1.4,
    )


def _spread(rows: Sequence[Row], metric: str) -> np.ndarray:
    """(2, n) lengths of the two sides of each row's interval."""
    ends = [[abs(row[metric] - row[f"{metric}_{end}"]) for row in rows] for end in ("low", "high")]
    return np.array(ends).reshape(2, -1)


def evaluation_figure(reliability: Sequence[Row], completion: Sequence[Row]) -> str:
    """Reliability diagram, and completion by mask ratio in accuracy and in nats."""
    with matplotlib.rc_context(_STYLE):
        figure, (left, middle, right) = _panels(3)
        left.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        sizes = np.sqrt([row["n"] for row in reliability])
        left.plot([row["confidence"] for row in reliability], [row["accuracy"] for row in reliability], linewidth=1)
        left.scatter(
            [row["confidence"] for row in reliability],
            [row["accuracy"] for row in reliability],
            s=8 + 60 * sizes / max(sizes.max(), 1),
            alpha=0.8,
        )
        left.set(xlabel="probability given to a cell", ylabel="share right", xlim=(0, 1.03), ylim=(0, 1.03))
        left.set_title("calibration")
        for masking in _unique(completion, "masking"):
            own = [row for row in completion if row["masking"] == masking]
            for axes, metric in ((middle, "accuracy"), (right, "nll")):
                _curve(axes, own, "ratio", metric, masking)
        middle.set(xlabel="share hidden", ylabel="share filled in right", ylim=(None, 1.01))
        middle.set_title("completion")
        right.set(xlabel="share hidden", ylabel="nats a hidden cell or attribute", ylim=(0, None))
        right.set_title("completion")
        middle.legend(loc="lower left")
        return _svg(figure)


def robustness_figure(rows: Sequence[Row], knob: str, metric: str = "success_rate") -> str:
    """A metric against the strength of a knob: a panel a level, a line an agent, dashed with belief completion."""
    levels = _unique(rows, "level")
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(len(levels))
        for axes, level in zip(panels, levels, strict=True):
            own = [row for row in rows if row["level"] == level and row["knob"] == knob and row.get(metric) is not None]
            for number, agent in enumerate(_unique(own, "agent")):
                mine = [row for row in own if row["agent"] == agent]
                clear = [row for row in mine if row["strength"] == 0]
                for belief in (False, True):
                    line = clear + [row for row in mine if row["belief"] == belief and row["strength"] != 0]
                    line.sort(key=lambda row: row["strength"])
                    if len(line) > len(clear):
                        label = f"{agent}, with belief" if belief else str(agent)
                        _curve(axes, line, "strength", metric, label, COLORS[number % len(COLORS)], _LINES[belief])
            axes.set(xlabel=knob.replace("_", " "), ylim=(-0.02, 1.02))
            axes.set_title(short(level))
        panels[0].set_ylabel(metric.replace("_", " "))
        panels[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def drift_figure(steps: Sequence[Row], divergence: Sequence[Row]) -> str:
    """Accuracy of known cells and exact frames by horizon, and how long imagination stays without an error."""
    with matplotlib.rc_context(_STYLE):
        figure, (left, middle, right) = _panels(3)
        for number, level in enumerate(_unique(steps, "level")):
            own = [row for row in steps if row["level"] == level]
            color = COLORS[number % len(COLORS)]
            for axes, metric in ((left, "known_cell_accuracy"), (middle, "known_frame_exact")):
                _curve(axes, own, "horizon", metric, short(level), color, band=len(steps) < 200)
            for row in divergence:
                if row["level"] == level:
                    survival = [1.0, *row["survival"]]
                    right.step(range(len(survival)), survival, where="post", color=color, label=short(level))
        left.set(xlabel="imagined steps", ylabel="known cells right")
        middle.set(xlabel="imagined steps", ylabel="frames with every known cell right")
        right.set(xlabel="imagined steps", ylabel="share of branches without any error", ylim=(0, 1.02))
        right.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def fidelity_figure(rows: Sequence[Row]) -> str:
    """Success in imagination against success in reality: a point a level and agent."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.6, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle=":")
        for number, agent in enumerate(_unique(rows, "agent")):
            own = [row for row in rows if row["agent"] == agent]
            x, y = ([row[f"{side}_success_rate"] for row in own] for side in ("imagined", "real"))
            spread = [_spread(own, f"{side}_success_rate") for side in ("imagined", "real")]
            color = COLORS[number % len(COLORS)]
            axes.errorbar(
                x, y, xerr=spread[0], yerr=spread[1], fmt="none", ecolor=color, alpha=0.25, linewidth=1
            )  # fmt: skip
            axes.scatter(x, y, color=color, s=30, label=agent, zorder=3)
        axes.set(xlabel="success in imagination", ylabel="success in reality", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def efficiency_figure(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Metrics of trainings against the number of episodes they were trained on."""
    with matplotlib.rc_context(_STYLE):
        figure, (axes,) = _panels(1)
        rows = sorted(rows, key=lambda row: row["data_episodes"])
        for metric in metrics:
            _curve(axes, rows, "data_episodes", metric, metric.replace("_", " ").replace("/", ": "))
        axes.set(xlabel="training episodes a level", xscale="log", ylim=(-0.02, 1.02))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(figure)


def ablation_figure(rows: Sequence[Row], metrics: Mapping[str, str]) -> str:
    """One panel a metric, one line a variant, with the range over seeds or the run's interval; the first is dotted."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 + 2.4 * len(metrics), 0.3 * len(rows) + 1.0), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
        places = np.arange(len(rows))
        for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
            values = np.array([row.get(metric, np.nan) for row in rows], dtype=np.float64)
            ends = np.array([[row.get(f"{metric}_{end}", np.nan) for end in ("low", "high")] for row in rows], float)
            axes.errorbar(values, places, xerr=np.abs(ends - values[:, None]).T, fmt="o", markersize=4, linewidth=1.2)
            axes.axvline(values[0], color=_GREY, linewidth=0.8, linestyle=":")
            axes.set_title(title)
        panels[0].set_yticks(places, [row["variant"] for row in rows])
        panels[0].invert_yaxis()
        return _svg(figure)


def _curve(
    axes: Axes,
    rows: Sequence[Row],
    x: str,
    y: str,
    label: str,
    color: str | None = None,
    line: str = "-",
    band: bool = True,
) -> None:
    """A line with the band of its intervals; rows without the value are left out."""
    found = [row for row in rows if row.get(y) is not None]
    if not found:
        return
    places = [row[x] for row in found]
    mark = "o" if len(found) < 20 else None
    (drawn,) = axes.plot(
        places, [row[y] for row in found], label=label, color=color, linestyle=line, marker=mark, markersize=3.5
    )
    if band and all(row.get(f"{y}_low") is not None for row in found):
        low, high = ([row[f"{y}_{end}"] for row in found] for end in ("low", "high"))
        axes.fill_between(places, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def _unique(rows: Iterable[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def _panels(count: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(9 if count > 1 else 6, 3.1), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, count))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
