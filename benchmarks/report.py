"""Runs and results side by side: read what lies in folders, lay it out as a page, Markdown or CSV."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.agents import fidelity, robustness, rollouts, success
from wmtoolkit.benchmarks.reporting.prediction import prediction
from wmtoolkit.benchmarks.reporting.sections import Section, Table, number, with_interval
from wmtoolkit.benchmarks.reporting.trainings import speed, trainings
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.results import SCHEMA

BUILDERS: dict[str, Callable[[Mapping[str, Any], str], Section]] = {
    "bench prediction": prediction,
    "evaluate": prediction,
    "bench success": success,
    "bench robustness": robustness,
    "bench fidelity": fidelity,
    "bench efficiency": trainings,
    "bench ablation": trainings,
    "bench baselines": trainings,
    "bench speed": speed,
}
"""Sections by the command whose results they show, in the order of the report."""


@dataclass
class Run:
    """A training run: its folder, config and lines of metrics."""

    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def state(self) -> str:
        """Whether it came to its end."""
        done, planned = (self.metrics[-1]["step"] if self.metrics else 0), self.config["training"]["steps"]
        return "finished" if done >= planned else f"cut off at step {done} of {planned}"


@dataclass
class Result:
    """A results.json, and the pictures beside it."""

    path: Path
    document: dict[str, Any]
    pictures: list[Path]

    @property
    def name(self) -> str:
        """Who acted, for rollouts; else the folder's name."""
        arguments = self.document["arguments"]
        if self.document["command"] != "rollout":
            return self.path.name
        return f"{arguments['agent']}{' in imagination' if arguments.get('imagined') else ''}"


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
            raise UserError(f"{file} is of another schema than {SCHEMA}; run its command again with this toolkit")
        if missing := {"command", "arguments", "metrics", "rows"} - set(document):
            raise UserError(f"{file} lacks {', '.join(sorted(missing))}; run its command again")
        return Result(path, document, sorted(path.glob("*.gif")))
    if (path / "metrics.jsonl").is_file() and (path / "config.yaml").is_file():
        lines = []
        for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:  # the last line of a run that is being written
                break
        from omegaconf import OmegaConf

        config = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
        return Run(path, config, lines)  # type: ignore[arg-type]
    if (path / "rows.jsonl").is_file():
        raise UserError(f"{path} holds a suite that was cut off before it wrote results.json; go on with --resume")
    raise UserError(f"{path} holds neither results.json nor metrics.jsonl; give folders of runs or results")


def read_all(paths: Sequence[Path]) -> tuple[list[Run | Result], list[str]]:
    """What the folders hold, and why some of them cannot be read.

    A folder that holds nothing itself stands for those in it that do, such as the suites of one ``wmtool bench``.
    """
    found: list[Run | Result] = []
    left_out: list[str] = []
    for path in paths:
        for folder in _folders(path):
            try:
                found.append(read_folder(folder))
            except UserError as error:
                left_out.append(str(error))
    return found, left_out


def _folders(path: Path) -> Iterator[Path]:
    names = ("results.json", "metrics.jsonl", "rows.jsonl")
    inside = [] if any((path / name).is_file() for name in names) else sorted(path.iterdir())
    chosen = [folder for folder in inside if any((folder / name).is_file() for name in names)]
    yield from chosen or [path]


def compare(paths: list[Path], out: Path | None = None, title: str = "wmtoolkit report") -> dict[str, Any]:
    """Put runs and results side by side.

    Args:
        paths: folders of ``wmtool train``, ``evaluate``, ``rollout`` and ``bench``.
        out: file to write; its ending (.html, .md, .csv) says as what.

    Returns:
        ``rows``: one flat object a result; ``left_out``: what could not be read, and why; and ``text``.

    Raises:
        UserError: nothing could be read, or ``out`` has another ending.
    """
    found, left_out = read_all(paths)
    if not found:
        raise UserError("; ".join(left_out))
    writers: dict[str, Callable[[], str]] = {
        ".html": lambda: _html(found, left_out, title),
        ".md": lambda: markdown(sections(found), left_out, title),
        ".csv": lambda: _csv(found),
    }
    if out is not None:
        if out.suffix not in writers:
            raise UserError(f"--out {out}: the ending must be one of {', '.join(writers)}")
        temporary = out.with_name(f".{out.name}.tmp")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(writers[out.suffix](), encoding="utf-8")
        temporary.replace(out)
    text = writers[".md"]() if out is None else "\n".join([*(f"left out: {why}" for why in left_out), f"wrote {out}"])
    return {"rows": [_row(item) for item in found], "left_out": left_out, "text": text}


def sections(found: Sequence[Run | Result]) -> list[Section]:
    """One section a result, in the order of ``BUILDERS``; rollouts share one, and so do runs."""
    results = [item for item in found if isinstance(item, Result)]
    runs = [item for item in found if isinstance(item, Run)]
    made = []
    for command, build in BUILDERS.items():
        for item in results:
            if item.document["command"] == command:
                made.append(_finished(build(item.document, item.name), item))
    played = [item for item in results if item.document["command"] == "rollout"]
    if played:
        together = rollouts([(item.document, item.name) for item in played])
        made.append(replace(together, pictures=[picture for item in played for picture in _pictures(item)]))
    made += [_anything(item) for item in results if item.document["command"] not in (*BUILDERS, "rollout")]
    return made + ([_trained(runs)] if runs else [])


def _finished(section: Section, item: Result) -> Section:
    """With what is missing of it, the pictures beside it, and where it comes from."""
    return replace(section, holes=holes(item.document), origin=item.document, pictures=_pictures(item))


def holes(document: Mapping[str, Any]) -> list[str]:
    """What is missing of a suite's results, line by line."""
    units = document.get("units")
    if not units or not units["missing"]:
        return []
    lines = [f"{units['missing']} of {units['planned']} units of work are missing; go on with --resume."]
    for hole in units["holes"]:
        named = ", ".join(f"{key} {value}" for key, value in hole["unit"].items() if value not in (None, {}, [], False))
        lines.append(f"{named}: {hole['missing']} missing, {hole['error']}")
    return lines


def _pictures(item: Result) -> list[tuple[str, str]]:
    caption = (
        f"{item.name} in {item.document['arguments'].get('level', '')}: the level and the agent's own view are real; "
        'the picture headed "what it had imagined" is what the model expected to see.'
    )
    return [
        ("data:image/gif;base64," + base64.b64encode(picture.read_bytes()).decode(), caption)
        for picture in item.pictures
    ]


def _anything(item: Result) -> Section:
    entries = item.document["metrics"].items()
    lines = [[name, with_interval(entry, 4), number(entry["n"])] for name, entry in entries]
    named = Section(
        f"{item.document['command']}: {item.name}", "", tables=[Table("", ["metric", "value", "n"], lines, 1)]
    )
    return _finished(named, item)


def _trained(runs: Sequence[Run]) -> Section:
    columns = ["run", "state", "steps", "best validation NLL", "layers x width", "experts (top)", "egomotion", "seed"]
    lines = []
    for run in runs:
        model, training, row = run.config["model"], run.config["training"], _row(run)
        lines.append(
            [
                run.path.name,
                run.state,
                number(training["steps"]),
                number(row["validation_nll"]),
                f"{model['num_hidden_layers']} x {model['hidden_size']}",
                f"{model['num_experts']} ({model['num_experts_per_tok']})",
                "on" if run.config["world"]["egomotion"] else "off",
                str(training["seed"]),
            ]
        )
    return Section(
        "Training",
        "Left: weighted cross-entropy of the hidden tokens of each batch. Right: an upper bound on the negative "
        "log-likelihood of a whole step of held-out episodes, whose targets were hidden from the model.",
        [(figures.loss_curve(runs), "Loss and validation")],
        [Table("", columns, lines, 3, (0, 1, 4, 5, 6))],
        [f"{run.path.name} was {run.state}" for run in runs if run.state != "finished"],
    )


def _row(item: Run | Result) -> dict[str, Any]:
    if isinstance(item, Run):
        last = item.metrics[-1] if item.metrics else {}
        found = [line["validation_nll_per_step"] for line in item.metrics if "validation_nll_per_step" in line]
        return {
            "name": item.path.name,
            "kind": "train",
            "state": item.state,
            "step": last.get("step"),
            "validation_nll": min(found, default=None),
        }
    metrics = {name: entry["value"] for name, entry in item.document["metrics"].items()}
    return {"name": item.name, "kind": item.document["command"], **metrics}


def markdown(made: Sequence[Section], left_out: Sequence[str], title: str) -> str:
    """The sections' tables, and under each how it was made."""
    parts = [f"# {title}"]
    if left_out:
        parts.append("\n".join(["Left out:", "", *(f"- {why}" for why in left_out)]))
    for section in made:
        parts.append(f"## {section.title}\n\n{section.text}".strip())
        if section.holes:
            parts.append("\n".join(f"- {hole}" for hole in section.holes))
        for table in section.tables:
            if table.lines:
                lines = [
                    f"| {' | '.join(line)} |" for line in (table.columns, ["---"] * len(table.columns), *table.lines)
                ]
                parts.append("\n".join([f"**{table.title}**\n" if table.title else "", *lines]).strip())
        if section.origin is not None:
            parts.append(f"`{section.origin['command_line']}`  \n{origin_line(section.origin)}")
    return "\n\n".join(parts) + "\n"


def origin_line(document: Mapping[str, Any]) -> str:
    """Seed, date, commit, checkpoint, versions and machine in one line."""
    parts = [f"seed {document.get('seed')}", str(document.get("date")), f"commit {document.get('git') or 'unknown'}"]
    if document.get("checkpoint"):
        parts.append(f"checkpoint sha256 {document['checkpoint']['sha256']}")
    return ", ".join([*parts, *(f"{name} {value}" for name, value in document.get("versions", {}).items())])


def _csv(found: Sequence[Run | Result]) -> str:
    """One line a number: source, command, table, the row's labels, metric, value, low, high, n."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["source", "command", "table", "labels", "metric", "value", "low", "high", "n"])
    for item in found:
        if isinstance(item, Run):
            for name, value in _row(item).items():
                if isinstance(value, int | float):
                    writer.writerow([item.path.name, "train", "", "", name, value, "", "", ""])
            continue
        command = item.document["command"]
        for name, entry in item.document["metrics"].items():
            low, high = entry.get("ci95") or ("", "")
            writer.writerow([item.name, command, "metrics", "", name, entry["value"], low, high, entry["n"]])
        for row in item.document["rows"]:
            labels = "; ".join(
                f"{key}={value}" for key, value in row.items() if isinstance(value, str) and key != "table"
            )
            for name, value in row.items():
                if isinstance(value, int | float) and not name.endswith(("_low", "_high", "_n")):
                    more = [row.get(f"{name}{end}", "") for end in ("_low", "_high", "_n")]
                    writer.writerow([item.name, command, row.get("table", ""), labels, name, value, *more])
    return buffer.getvalue()


def _html(found: Sequence[Run | Result], left_out: Sequence[str], title: str) -> str:
    template = (files("wmtoolkit.benchmarks") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        title=title, sections=sections(found), left_out=left_out, headline=headline(found), origin_line=origin_line
    )


def headline(found: Sequence[Run | Result]) -> list[tuple[str, str]]:
    """The few numbers a reader looks for first."""
    documents = {item.document["command"]: item.document for item in reversed(found) if isinstance(item, Result)}
    tiles = []
    measured = documents.get("bench prediction") or documents.get("evaluate")
    for name, label in (
        ("known_cell_accuracy", "known cells right"),
        ("known_frame_exact", "known frames exact"),
        ("outcome_f1", "outcome F1"),
    ):
        if measured and name in measured["metrics"]:
            tiles.append((label, f"{measured['metrics'][name]['value']:.4f}"))
    for item in found:
        if isinstance(item, Result) and item.name == "best-first":
            rate = item.document["metrics"]["success_rate"]
            tiles.append(("planner's success", f"{round(rate['value'] * rate['n'])} of {rate['n']}"))
    for row in documents.get("bench success", {}).get("rows", []):
        if row.get("table") == "agents" and row["agent"] == "best-first":
            tiles.append((f"planner's success, {row['levels']} levels", f"{100 * row['success_rate']:.1f} %"))
    if "fidelity_pearson" in documents.get("bench fidelity", {}).get("metrics", {}):
        value = documents["bench fidelity"]["metrics"]["fidelity_pearson"]["value"]
        tiles.append(("imagined against real success (Pearson)", number(value)))
    return tiles
