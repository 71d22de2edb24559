"""Runs and results side by side: read what lies in folders, lay it out as a page, Markdown or CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from wmtoolkit.benchmarks.figures import loss_curve, success_chart
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.results import SCHEMA

MEANINGS = {
    "known_cell_accuracy": "Of the cells whose place in the world was seen earlier in the episode, the share "
    "predicted right.",
    "known_frame_exact": "Share of next frames in which every such cell is right.",
    "remembered_cell_accuracy": "Of the cells last seen 5 to 30 steps ago, the share right.",
    "changed_cell_accuracy": "Of the cells that look otherwise than when last seen, the share right.",
    "revealed_cell_accuracy": "Of the cells seen for the first time, the share right: nobody can know them, "
    "guessing what is most common is the best there is.",
    "revealed_nll": "Nats a cell seen for the first time: how surprised the model is.",
    "revealed_nll_prior": "The same of the empirical prior, counted in training episodes of the level by place in the "
    "view.",
    "revealed_nll_gain": "Their difference: above 0 the model guesses better than the prior.",
    "cell_accuracy": "Share of all cells of the next frame predicted right.",
    "frame_exact": "Share of next frames right in every cell, the unknowable ones included.",
    "direction_accuracy": "Share of steps with the right heading.",
    "forward_nll": "Nats a step of outcome, heading and cells, all filled at once from past and action.",
    "outcome_f1": "F1 of predicting that a step ends the episode in success.",
    "outcome_precision": "Of the predicted successes, the share that are.",
    "outcome_recall": "Of the successes, the share predicted.",
    "success_probability": "Mean P(success) where an episode succeeds.",
    "success_probability_swapped": "The same when the mission is swapped for one that names other objects: it should "
    "be near 0.",
    "swap_falls": "Share of successes whose probability the other mission at least halves.",
    "ece": "Expected calibration error of the cells' probabilities: 0.02 means they are off by 2 points on average.",
    "action_accuracy": "Share of the bot's choices that the model's policy makes too.",
    "inverse_accuracy": "Share of actions told right from what came before and after.",
    "inverse_accuracy_changed": "The same where something changed; a vain pick-up and a bump look alike.",
    "belief_accuracy": "Of the cells of the newest frame hidden at random (30 %), the share filled in right.",
    "nll_per_step": "Upper bound on -log p of a whole step (action, outcome, heading, 49 cells) given its past, in "
    "nats; the targets were hidden from the model.",
    "dynamics_per_step": "The part of that bound without the action.",
    "chain_nll_per_step": "-log p of a whole step by the chain rule in one fixed order, token after token.",
    "chain_dynamics_per_step": "The part of it without the action.",
}
"""What each number means, for people who meet it for the first time."""


@dataclass
class Run:
    """A training run: its folder, config and lines of metrics."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]


@dataclass
class Result:
    """A results.json, and the pictures beside it."""

    path: Path
    document: dict[str, Any]
    pictures: list[Path]

    @property
    def name(self) -> str:
        """Who acted and where, for rollouts; else the folder's name."""
        arguments = self.document["arguments"]
        if self.document["command"] != "rollout":
            return self.path.name
        return f"{arguments['agent']}{' in imagination' if arguments.get('imagined') else ''}"

    @property
    def predictors(self) -> list[dict[str, Any]]:
        """Of an evaluation, one row a predictor, over all its levels."""
        rows = [row for row in self.document["rows"] if row.get("table") == "levels"]
        return [row for row in rows if row["level"] == rows[-1]["level"]]


def read_folder(path: Path) -> Run | Result:
    """What a folder holds: a run (metrics.jsonl) or results (results.json).

    Raises:
        UserError: neither, or one that is cut off or of another schema.
    """
    if (path / "results.json").is_file():
        file = path / "results.json"
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file} is cut off or no JSON; run its command again") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise UserError(f"{file} is of another schema than {SCHEMA}")
        return Result(path, document, sorted(path.glob("*.gif")))
    if (path / "metrics.jsonl").is_file():
        lines = []
        for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the last line of a run that is being written
                break
        from omegaconf import OmegaConf

        config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
        return Run(path, config, lines)  # type: ignore[arg-type]
    raise UserError(f"{path} holds neither results.json nor metrics.jsonl; give folders of runs or results")


def compare(paths: list[Path], out: Path | None = None, title: str = "wmtoolkit report") -> dict[str, Any]:
    """Put runs and results side by side.

    Args:
        paths: folders of ``wmtool train``, ``evaluate`` and ``rollout``.
        out: file to write; its ending (.html, .md, .csv) says as what.

    Returns:
        ``rows``: one flat object a result, and ``text``, the Markdown.
    """
    found = [read_folder(path) for path in paths]
    rows = [_row(item) for item in found]
    text = _markdown(rows)
    if out is not None:
        writers = {".html": lambda: _html(found, title), ".md": lambda: text, ".csv": lambda: _csv(rows)}
        if out.suffix not in writers:
            raise UserError(f"--out {out}: the ending must be one of {', '.join(writers)}")
        temporary = out.with_name(f".{out.name}.tmp")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(writers[out.suffix](), encoding="utf-8")
        temporary.replace(out)
    return {"rows": rows, "text": text if out is None else f"wrote {out}"}


def _row(item: Run | Result) -> dict[str, Any]:
    if isinstance(item, Run):
        last = item.metrics[-1] if item.metrics else {}
        found = [line["validation_nll_per_step"] for line in item.metrics if "validation_nll_per_step" in line]
        return {
            "name": item.path.name,
            "kind": "train",
            "step": last.get("step"),
            "validation_nll": min(found, default=None),
        }
    metrics = {name: entry["value"] for name, entry in item.document["metrics"].items()}
    return {"name": item.name, "kind": item.document["command"], **metrics}


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def _markdown(rows: list[dict[str, Any]]) -> str:
    """One table a kind of row."""
    tables = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        chosen = [row for row in rows if row["kind"] == kind]
        columns = [name for name in _columns(chosen) if name != "kind"]
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in chosen]
        tables.append(f"### {kind}\n\n" + "\n".join(lines))
    return "\n\n".join(tables)


def _csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(rows))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _html(found: list[Run | Result], title: str) -> str:
    runs = [item for item in found if isinstance(item, Run)]
    results = [item for item in found if isinstance(item, Result)]
    evaluations = [item for item in results if item.document["command"] == "evaluate"]
    rollouts = [item for item in results if item.document["command"] == "rollout"]
    template = (files("wmtoolkit.benchmarks") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = _number
    environment.filters["share"] = lambda value: f"{100 * value:.1f} %"
    return environment.from_string(template).render(
        title=title,
        runs=runs,
        loss_svg=loss_curve(runs) if runs else None,
        evaluations=evaluations,
        rollouts=rollouts,
        success_svg=success_chart(rollouts) if rollouts else None,
        pictures=[(item, _embedded(picture)) for item in results for picture in item.pictures],
        meanings=MEANINGS,
        headline=_headline(evaluations, rollouts),
        stamp=results[0].document if results else None,
    )


def _headline(evaluations: list[Result], rollouts: list[Result]) -> list[tuple[str, str]]:
    """The few numbers a reader looks for first."""
    tiles = []
    for item in evaluations[:1]:
        for name, label in (
            ("known_cell_accuracy", "known cells right"),
            ("known_frame_exact", "known frames exact"),
            ("outcome_f1", "outcome F1"),
        ):
            if name in item.document["metrics"]:
                tiles.append((label, f"{item.document['metrics'][name]['value']:.4f}"))
    for item in rollouts:
        metrics = item.document["metrics"]
        if item.document["arguments"]["agent"] == "best-first" and not item.document["arguments"].get("imagined"):
            rate = metrics["success_rate"]
            tiles.append(("planner's success", f"{round(rate['value'] * rate['n'])} of {rate['n']}"))
            tiles.append(("planner's mean length", f"{metrics['mean_episode_length']['value']:.2f} steps"))
    return tiles


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def _embedded(picture: Path) -> str:
    return "data:image/gif;base64," + base64.b64encode(picture.read_bytes()).decode()
