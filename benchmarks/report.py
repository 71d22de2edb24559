"""Runs and results side by side: read what lies in folders, lay it out as a page, Markdown or CSV."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.agents import fidelity, robustness, rollouts, success
from wmtoolkit.benchmarks.reporting.goals import PLANNER, goals
from wmtoolkit.benchmarks.reporting.policies import policies
from wmtoolkit.benchmarks.reporting.prediction import prediction
from wmtoolkit.benchmarks.reporting.reading import Result, Run, flat_row, read_all
from wmtoolkit.benchmarks.reporting.sections import (
    Section,
    Table,
    first,
    number,
    of_table,
    short,
    with_interval,
)
from wmtoolkit.benchmarks.reporting.texts import csv_text, markdown, origin_line
from wmtoolkit.benchmarks.reporting.trainings import pairs, speed, trainings
from wmtoolkit.errors import UserError

BUILDERS: dict[str, Callable[[Mapping[str, Any], str], Section]] = {
    "bench prediction": prediction,
    "evaluate": prediction,
    "bench success": success,
    "bench robustness": robustness,
    "bench fidelity": fidelity,
    "bench efficiency": trainings,
    "bench ablation": trainings,
    "bench baselines": trainings,
    "bench pairs": pairs,
    "bench speed": speed,
}
"""Sections by the command whose results they show, in the order of the report."""
TOGETHER: dict[str, Callable[[list[tuple[Mapping[str, Any], str]]], Section]] = {
    "train-policy": policies,
    "rollout": rollouts,
}
"""Sections that all results of a command share."""
QUICK = "a quick plan: it shows that all this runs, and proves little"


def compare(
    paths: list[Path], out: Path | None = None, title: str = "wmtoolkit report", missing: Sequence[str] = ()
) -> dict[str, Any]:
    """Put runs and results side by side.

    Args:
        paths: folders of ``wmtool train``, ``evaluate``, ``rollout`` and ``bench``.
        out: file to write; its ending (.html, .md, .csv) says as what.
        missing: what is left out beside what cannot be read.

    Returns:
        ``rows``: one flat object a result; ``left_out``: what could not be read, and why; and ``text``.

    Raises:
        UserError: nothing could be read, or ``out`` has another ending.
    """
    found, left_out = read_all(paths)
    if not found:
        raise UserError("; ".join([*left_out, *missing]))
    left_out += missing
    writers: dict[str, Callable[[], str]] = {
        ".html": lambda: _html(found, left_out, title),
        ".md": lambda: markdown(sections(found), left_out, title),
        ".csv": lambda: csv_text(found),
    }
    if out is not None:
        if out.suffix not in writers:
            raise UserError(f"--out {out}: the ending must be one of {', '.join(writers)}")
        temporary = out.with_name(f".{out.name}.tmp")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(writers[out.suffix](), encoding="utf-8")
        temporary.replace(out)
    text = writers[".md"]() if out is None else "\n".join([*(f"left out: {why}" for why in left_out), f"wrote {out}"])
    return {"rows": [flat_row(item) for item in found], "left_out": left_out, "text": text}


def sections(found: Sequence[Run | Result]) -> list[Section]:
    """One section a result, in the order of ``BUILDERS``, and before them several of one command side by side; those
    ``TOGETHER`` share one, and so do runs. What cannot be shown leaves a hole."""
    results = [item for item in found if isinstance(item, Result)]
    runs = [item for item in found if isinstance(item, Run)]
    reached = goals([(item.document, item.name) for item in results])
    made = [reached] if reached else []
    for command, build in BUILDERS.items():
        own = [item for item in results if item.kind == command]
        if len(own) > 1 and any(item.document["metrics"] for item in own):
            made.append(_side_by_side(own))
        made += [_finished(build, item, several=len(own) > 1) for item in own]
    for command, together in TOGETHER.items():
        made += _in_one(together, [item for item in results if item.kind == command])
    made += [_finished(_anything, item) for item in results if item.kind not in (*BUILDERS, *TOGETHER)]
    return made + ([_trained(runs)] if runs else [])


def _finished(build: Callable[[Mapping[str, Any], str], Section], item: Result, several: bool = False) -> Section:
    """A result's section, with what is missing of it, the pictures beside it, and where it comes from."""
    try:
        section = build(item.document, item.name)
        left = [*([QUICK] if item.document["arguments"].get("quick") else []), *holes(item.document)]
        pictures = _pictures(item)
    except Exception as error:  # results of another hand, or of an older toolkit: the rest is still shown
        why = f"{item.path / 'results.json'} cannot be shown ({type(error).__name__}: {error}); run its command again"
        return Section(f"{item.kind}: {item.name}", "", holes=[why], origins=[item.document])
    title = section.title if not several or item.name in section.title else f"{section.title}: {item.name}"
    return replace(section, title=title, holes=left, origins=[item.document], pictures=pictures)


def _in_one(build: Callable[[list[tuple[Mapping[str, Any], str]]], Section], items: Sequence[Result]) -> list[Section]:
    """One section of all these results, and before it a hole for each that cannot be shown."""
    alone = [_finished(lambda document, name: build([(document, name)]), item) for item in items]
    shown = [item for item, section in zip(items, alone, strict=True) if section.tables]
    made = [section for section in alone if not section.tables]
    if shown:
        section = build([(item.document, item.name) for item in shown])
        pictures = [picture for item in shown for picture in _pictures(item)]
        made.append(replace(section, origins=[item.document for item in shown], pictures=pictures))
    return made


def _side_by_side(items: Sequence[Result]) -> Section:
    """The metrics of several results of one command, a column each."""
    names = dict.fromkeys(name for item in items for name in item.document["metrics"] if "/" not in name)
    names = names or dict.fromkeys(name for item in items for name in item.document["metrics"])
    lines = [
        [name, *(with_interval(entry, 4) if (entry := item.document["metrics"].get(name)) else "-" for item in items)]
        for name in names
    ]
    title = items[0].kind.removeprefix("bench ").capitalize()
    return Section(
        f"{title} side by side",
        "Differences count where the intervals part, or where the same seeds were played. Under the sections that "
        "follow stands where each comes from.",
        tables=[Table("", ["metric", *(item.name for item in items)], lines)],
    )


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
    """The films beside a result: a suite's, as its rows say, or a rollout's."""
    about = {row["file"]: row for row in item.document["rows"] if row.get("table") == "films"}
    found = []
    for picture in item.pictures:
        row = about.get(picture.name)
        if row is not None:
            end = "success" if row["success"] else "no success"
            caption = f"{short(row['level'])}, {row['agent']}, seed {row['seed']}: {end} in {row['steps']} steps"
        elif item.kind == "rollout":
            caption = (
                f"{item.name} in {item.document['arguments'].get('level', '')}: the level and the agent's own view are "
                'real; the picture headed "what it had imagined" is what the model expected to see.'
            )
        else:
            continue  # of an earlier plan
        found.append(("data:image/gif;base64," + base64.b64encode(picture.read_bytes()).decode(), caption))
    return found


def _anything(document: Mapping[str, Any], name: str) -> Section:
    entries = document["metrics"].items()
    lines = [[metric, with_interval(entry, 4), number(entry["n"])] for metric, entry in entries]
    return Section(f"{document['command']}: {name}", "", tables=[Table("", ["metric", "value", "n"], lines, 1)])


def _trained(runs: Sequence[Run]) -> Section:
    columns = ["run", "state", "steps", "best validation NLL", "layers x width", "experts (top)", "egomotion", "seed"]
    lines = []
    for run in runs:
        model, training, nll = run.config["model"], run.config["training"], flat_row(run)["validation_nll"]
        lines.append(
            [
                run.name,
                run.state,
                number(training["steps"]),
                number(nll),
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
        [f"{run.name} was {run.state}" for run in runs if run.state != "finished"],
        [run.origin for run in runs],
    )


def _html(found: Sequence[Run | Result], left_out: Sequence[str], title: str) -> str:
    template = (files("wmtoolkit.benchmarks") / "templates" / "report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        title=title, sections=sections(found), left_out=left_out, headline=headline(found), origin_line=origin_line
    )


def headline(found: Sequence[Run | Result]) -> list[tuple[str, str]]:
    """The few numbers a reader looks for first; those that cannot be told are left to their sections."""
    tiles: list[tuple[str, str]] = []
    results = [item for item in found if isinstance(item, Result)]
    for build in (_prediction_tiles, _rollout_tiles, _success_tiles, _fidelity_tiles):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # results of another hand
            tiles += build(results)
    return tiles


def _prediction_tiles(results: Sequence[Result]) -> list[tuple[str, str]]:
    kinds = {item.kind: item for item in reversed(results)}
    measured = kinds.get("bench prediction") or kinds.get("evaluate")
    labels = {
        "known_cell_accuracy": "known cells right",
        "known_frame_exact": "known frames exact",
        "outcome_f1": "outcome F1",
    }
    metrics = measured.document["metrics"] if measured else {}
    return [
        (_label(label, measured), number(metrics[name]["value"]))
        for name, label in labels.items()
        if measured and name in metrics
    ]


def _rollout_tiles(results: Sequence[Result]) -> list[tuple[str, str]]:
    tiles = []
    for item in results:
        arguments, rate = item.document["arguments"], item.document["metrics"].get("success_rate")
        if item.kind == "rollout" and arguments.get("agent") == PLANNER and rate and not arguments.get("imagined"):
            tiles.append(("planner's success", f"{round(rate['value'] * rate['n'])} of {rate['n']}"))
    return tiles


def _success_tiles(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Of the suite with the most levels."""
    played = [
        (row, item)
        for item in results
        if item.kind == "bench success" and (row := first(of_table(item.document, "agents"), agent=PLANNER))
    ]
    if not played:
        return []
    row, item = max(played, key=lambda pair: pair[0]["levels"])
    return [(_label(f"planner's success, {row['levels']} levels", item), f"{100 * row['success_rate']:.1f} %")]


def _fidelity_tiles(results: Sequence[Result]) -> list[tuple[str, str]]:
    for item in results:
        if item.kind == "bench fidelity" and "fidelity_pearson" in item.document["metrics"]:
            value = item.document["metrics"]["fidelity_pearson"]["value"]
            return [(_label("imagined against real success (Pearson)", item), number(value))]
    return []


def _label(label: str, item: Result) -> str:
    return f"{label} (quick plan)" if item.document["arguments"].get("quick") else label
