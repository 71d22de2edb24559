"""What lies in folders: runs (metrics.jsonl) and results (results.json)."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.results import SCHEMA
from wmtoolkit.world.checkpoint import checkpoint_hash

_FRAME = {"command": str, "command_line": str, "arguments": dict, "metrics": dict, "rows": list}
"""What every results.json holds."""
_OPTIONAL = {"checkpoint": ("sha256",), "units": ("planned", "missing", "holes"), "made": ("commits", "dates")}
"""What others hold besides, and what of it is read."""
_READ = {
    "model": ("num_hidden_layers", "hidden_size", "num_experts", "num_experts_per_tok"),
    "training": ("steps", "seed"),
    "world": ("egomotion",),
}
"""What a report reads of a run's config."""


@dataclass
class Run:
    """A training run: its folder, its name in a report, config and lines of metrics."""

    path: Path
    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def origin(self) -> dict[str, Any]:
        """How to make it again: command, seed, commit, versions and the checkpoint's hash, as far as they are known."""
        command = ["wmtool", "train", "--config", str(self.path / "config.yaml")]
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for path in json.loads((self.path / "dataset.json").read_text(encoding="utf-8"))["paths"]:
                command += ["--data", str(path)]
        found: dict[str, Any] = {"command_line": shlex.join(command), "seed": self.config["training"]["seed"]}
        with contextlib.suppress(OSError, ValueError, TypeError):
            found |= json.loads((self.path / "versions.json").read_text(encoding="utf-8"))
        with contextlib.suppress(OSError, UserError):
            found["checkpoint"] = {"sha256": checkpoint_hash(self.path / "checkpoint")}
        return found

    @property
    def kind(self) -> str:
        """The command that made it."""
        return "train"

    @property
    def state(self) -> str:
        """Whether it came to its end."""
        done, planned = (self.metrics[-1]["step"] if self.metrics else 0), self.config["training"]["steps"]
        return "finished" if done >= planned else f"cut off at step {done} of {planned}"


@dataclass
class Result:
    """A results.json, its name in a report (who acted, for rollouts; else the folder's), and the pictures beside it."""

    path: Path
    name: str
    document: dict[str, Any]
    pictures: list[Path]

    @property
    def kind(self) -> str:
        """The command that made it."""
        return str(self.document["command"])


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
        if missing := [name for name, kind in _FRAME.items() if not isinstance(document.get(name), kind)]:
            raise UserError(f"{file} lacks {', '.join(missing)}; run its command again")
        _check(file, document)
        return Result(path, _name(path, document), document, sorted(path.glob("*.gif")))
    if (path / "metrics.jsonl").is_file() and (path / "config.yaml").is_file():
        config = _config(path / "config.yaml")
        lines = []
        for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                read = json.loads(line)
            except ValueError:  # the last line of a run that is being written
                break
            lines += [] if _missing(read, ["step"]) else [read]
        return Run(path, path.name, config, lines)
    if (path / "rows.jsonl").is_file():
        raise UserError(f"{path} holds a suite that was cut off before it wrote results.json; go on with --resume")
    raise UserError(f"{path} holds neither results.json nor metrics.jsonl; give folders of runs or results")


def _check(file: Path, document: Mapping[str, Any]) -> None:
    """Raise ``UserError`` unless what every report reads of a document is of the kind that this toolkit writes."""
    for name, entry in document["metrics"].items():
        if missing := _missing(entry, ("value", "ci95", "n")):
            raise UserError(f"{file}: metric {name} lacks {', '.join(missing)}; run its command again")
        value, ends = entry["value"], entry["ci95"]
        bounded = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
        if not isinstance(value, int | float | None) or not (ends is None or bounded):
            raise UserError(f"{file}: metric {name} is no number with an interval; run its command again")
    if not all(isinstance(row, dict) for row in document["rows"]):
        raise UserError(f"{file} holds rows that are no objects; run its command again")
    for name, keys in _OPTIONAL.items():
        if document.get(name) is not None and (missing := _missing(document[name], keys)):
            raise UserError(f"{file}: {name} lacks {', '.join(missing)}; run its command again")


def _missing(entry: Any, keys: Sequence[str]) -> list[str]:
    """Those of the keys that are not in a mapping; all of them if it is none."""
    return [key for key in keys if not isinstance(entry, dict) or key not in entry]


def _config(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(file))
    except Exception as error:  # OmegaConf passes on the YAML parser's exceptions as they are
        raise UserError(f"{file} is cut off or no YAML ({type(error).__name__}); start the run again") from None
    groups = config if isinstance(config, dict) else {}
    if missing := [f"{name}.{key}" for name, keys in _READ.items() for key in _missing(groups.get(name), keys)]:
        raise UserError(f"{file} lacks {', '.join(missing)}; start the run again")
    return config


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
    return _told_apart(found), left_out


def _name(path: Path, document: Mapping[str, Any]) -> str:
    if document["command"] != "rollout":
        return path.name
    arguments = document["arguments"]
    start = arguments.get("start", "level")
    where = " in imagination" if arguments.get("imagined") else ""
    return f"{arguments.get('agent', path.name)}{where}{'' if start == 'level' else f', start {start}'}"


def _told_apart(found: list[Run | Result]) -> list[Run | Result]:
    """Where two of a kind have one name, with as much of their paths as tells them apart."""
    groups: dict[tuple[str, str, str], list[Run | Result]] = {}
    for item in found:
        level = str(item.document["arguments"].get("level")) if item.kind == "rollout" else ""  # type: ignore[union-attr]
        groups.setdefault((item.kind, item.name, level), []).append(item)
    for group in groups.values():
        paths = [item.path.resolve().parts for item in group]
        different = len(set(paths))
        if different == 1:
            continue
        count = next(
            count for count in range(1, 1 + max(map(len, paths))) if len({p[-count:] for p in paths}) == different
        )
        for item, parts in zip(group, paths, strict=True):
            place = "/".join(parts[-count:])
            item.name = f"{item.name} ({place})" if item.kind == "rollout" else place
    return found


def _folders(path: Path) -> Iterator[Path]:
    names = ("results.json", "metrics.jsonl", "rows.jsonl")
    inside = [] if any((path / name).is_file() for name in names) else sorted(path.iterdir())
    chosen = [folder for folder in inside if any((folder / name).is_file() for name in names)]
    yield from chosen or [path]


def flat_row(item: Run | Result) -> dict[str, Any]:
    """One flat object of a run or result: name, kind and its metrics."""
    if isinstance(item, Run):
        last = item.metrics[-1] if item.metrics else {}
        found = [line["validation_nll_per_step"] for line in item.metrics if "validation_nll_per_step" in line]
        return {
            "name": item.name,
            "kind": item.kind,
            "state": item.state,
            "step": last.get("step"),
            "validation_nll": min(found, default=None),
        }
    metrics = {name: entry["value"] for name, entry in item.document["metrics"].items()}
    return {"name": item.name, "kind": item.kind, **metrics}
