"""``results.json``: what a command measured, with everything needed to measure it again."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA = 1
_LEARNERS = ("stable-baselines3", "sb3-contrib")
_PACKAGES = ("wmtoolkit", "torch", "transformers", "gymnasium", "minigrid", "minari", "numpy", *_LEARNERS)


def versions() -> dict[str, str]:
    """Versions of Python, the packages that matter, and the machine's kind."""
    found = {"python": platform.python_version(), "machine": machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> str:
    """The machine's kind: its processor and how many cores."""
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    """The processor's name, or its kind where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    bf16 = " with bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else ""
    return f"{platform.machine()}, {names[0]}{bf16}" if names else platform.machine()


def git_commit() -> str | None:
    """Commit of the source tree this package runs from, with ``-dirty`` if changed; None outside a checkout."""
    try:
        where = Path(__file__).resolve().parents[2]
        if not (where / ".git").exists():
            return None
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=where, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def results_document(
    command: str,
    arguments: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    seed: int | None = None,
    checkpoint: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The document of interface.md: ``metrics`` maps a name to value, ci95 and n; ``rows`` are flat objects."""
    return {
        "schema": SCHEMA,
        "command": command,
        "command_line": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "wmtool"), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()},
        "versions": versions(),
        "git": git_commit(),
        "seed": seed,
        "checkpoint": checkpoint,
        "metrics": {name: dict(entry) for name, entry in metrics.items()},
        "rows": [dict(row) for row in rows],
    }


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=2), encoding="utf-8")
    os.replace(temporary, path)
