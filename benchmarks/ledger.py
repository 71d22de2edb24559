"""Rows of finished work, one JSON line each: a suite that is interrupted goes on where it stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wmtoolkit.errors import UserError, error_line
from wmtoolkit.evaluation.results import SCHEMA, git_commit, machine

Unit = Mapping[str, Any]


class Ledger:
    """``rows.jsonl`` in a folder: each finished or failed unit of work of one suite.

    A row holds ``unit`` (what was done), ``values`` or ``error``, and ``date``, ``git``, ``machine``, ``seconds``.
    Failed units are tried again the next time. A line cut off by a crash is dropped.

    Args:
        folder: of the suite.
        suite: its name.

    Raises:
        UserError: the rows are another suite's or of another schema.
    """

    def __init__(self, folder: Path, suite: str) -> None:
        self.folder, self.suite = folder, suite
        self.path = folder / "rows.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, dict[str, Any]] = {}
        self._git, self._machine = git_commit(), machine()
        kept = read_rows(self.path, suite) if self.path.is_file() else []
        for row in kept:
            self._rows[_key(row["unit"])] = row
        # Whole or not at all, and without what was cut off, so that the next line starts on its own.
        temporary = self.path.with_suffix(".tmp")
        lines = [{"schema": SCHEMA, "suite": suite}, *kept]
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        os.replace(temporary, self.path)

    def done(self, unit: Unit) -> bool:
        """Whether the unit was finished, not merely tried."""
        row = self._rows.get(_key(unit))
        return row is not None and "error" not in row

    def values(self, unit: Unit) -> dict[str, Any] | None:
        """What came of a finished unit."""
        row = self._rows.get(_key(unit))
        return None if row is None or "error" in row else row["values"]

    def error(self, unit: Unit) -> str | None:
        """Why a unit failed the last time it was tried."""
        return self._rows.get(_key(unit), {}).get("error")

    def write(self, unit: Unit, values: Mapping[str, Any], seconds: float) -> None:
        """Add the row of a finished unit; it is on the disk when this returns."""
        self._append({"unit": dict(unit), "values": dict(values), "seconds": round(seconds, 3)})

    def fail(self, unit: Unit, error: BaseException) -> None:
        """Add the row of a failed unit."""
        self._append({"unit": dict(unit), "error": error_line(error)})

    def do(self, unit: Unit, work: Callable[[], Mapping[str, Any]]) -> None:
        """Do a unit that is not done yet; what it raises, but for an interrupt, becomes its error."""
        if self.done(unit):
            return
        started = time.perf_counter()
        try:
            values = work()
        except Exception as error:
            self.fail(unit, error)
        else:
            self.write(unit, values, time.perf_counter() - started)

    def _append(self, row: dict[str, Any]) -> None:
        row |= {"date": datetime.now(UTC).date().isoformat(), "git": self._git, "machine": self._machine}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[_key(row["unit"])] = row

    def made(self, units: Iterable[Unit]) -> dict[str, list[Any]]:
        """Commits and dates, in their order, at which the finished ones of these units were done, and on which machines
        as far as it is known."""
        rows = [self._rows[_key(unit)] for unit in units if self.done(unit)]
        return {
            "commits": list(dict.fromkeys(row["git"] for row in rows)),
            "dates": sorted({row["date"] for row in rows}),
            "machines": list(dict.fromkeys(row["machine"] for row in rows if "machine" in row)),
        }

    def holes(self, units: Iterable[Unit]) -> list[dict[str, Any]]:
        """Units that are not finished, with the error where there was one."""
        return [
            {"unit": dict(unit), "error": self.error(unit) or "not run yet"} for unit in units if not self.done(unit)
        ]


def read_rows(path: Path, suite: str | None = None) -> list[dict[str, Any]]:
    """Rows of a ledger; a last line that was cut off is left out.

    Raises:
        UserError: it is no ledger, of another schema or suite, or damaged before its last line.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path}, line {number}, is damaged; remove that line to go on without it") from None
    head = rows[0] if rows else {}
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        raise UserError(f"{path} holds no rows of schema {SCHEMA}; give another --out or use the toolkit that wrote it")
    if suite is not None and head.get("suite") != suite:
        raise UserError(f"{path} holds rows of the suite {head.get('suite')!r}, not {suite!r}; give another --out")
    return rows[1:]


def _key(unit: Unit) -> str:
    return json.dumps(unit, sort_keys=True, default=str)
