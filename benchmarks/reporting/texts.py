"""A report as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from wmtoolkit.benchmarks.reporting.reading import Result, Run, flat_row
from wmtoolkit.benchmarks.reporting.sections import Section


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
        parts += [f"`{origin['command_line']}`  \n{origin_line(origin)}" for origin in section.origins]
    return "\n\n".join(parts) + "\n"


def origin_line(document: Mapping[str, Any]) -> str:
    """Seed, date, commit, checkpoint, versions and machine in one line."""
    parts = [f"seed {document.get('seed')}", *([document["date"]] if document.get("date") else [])]
    parts.append(f"commit {document.get('git') or 'unknown'}")
    made = document.get("made", {})
    if made and made["commits"] != [document.get("git")]:
        parts.append(f"its rows made at {', '.join(map(str, made['commits']))} on {', '.join(made['dates'])}")
    if others := [
        machine for machine in made.get("machines", []) if machine != document.get("versions", {}).get("machine")
    ]:
        parts.append(f"some of them on {'; '.join(others)}")
    if document.get("checkpoint"):
        parts.append(f"checkpoint sha256 {document['checkpoint']['sha256']}")
    return ", ".join([*parts, *(f"{name} {value}" for name, value in document.get("versions", {}).items())])


LABELS = frozenset(
    {"strength", "belief", "horizon", "position", "ratio", "bin", "training_seed", "seed", "data_episodes", "step"}
)
"""Numbers in rows that say what a row is about, as words do; all others were measured."""


def csv_text(found: Sequence[Run | Result]) -> str:
    """One line a number: source, command, table, the row's labels, metric, value, low, high, n."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["source", "command", "table", "labels", "metric", "value", "low", "high", "n"])
    for item in found:
        if isinstance(item, Run):
            for name, value in flat_row(item).items():
                if isinstance(value, int | float):
                    writer.writerow([item.name, item.kind, "", "", name, value, "", "", ""])
            continue
        for name, entry in item.document["metrics"].items():
            low, high = entry.get("ci95") or ("", "")
            writer.writerow([item.name, item.kind, "metrics", "", name, entry["value"], low, high, entry["n"]])
        for line in item.document["rows"]:
            names = LABELS if "table" in line else LABELS - {"ratio"}  # of speeds it is what was measured
            about = {
                key: value
                for key, value in line.items()
                if (key in names or isinstance(value, str)) and key not in ("table", "error", "note")
            }
            labels = "; ".join(f"{key}={value}" for key, value in about.items())
            for name, value in line.items():
                measured = isinstance(value, int | float) and name not in about
                if measured and not name.endswith(("_low", "_high", "_n")):
                    more = [line.get(f"{name}{end}", "") for end in ("_low", "_high", "_n")]
                    writer.writerow([item.name, item.kind, line.get("table", ""), labels, name, value, *more])
    return buffer.getvalue()
