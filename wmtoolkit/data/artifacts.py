"""What a path is: a dataset, a training run, a checkpoint, or a folder of results; and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wmtoolkit.data.datasets import dataset_path
from wmtoolkit.data.files import read_json
from wmtoolkit.data.inspection import inspect_dataset
from wmtoolkit.errors import UserError


def inspect_path(name: str | Path, **options: Any) -> dict[str, Any]:
    """Tell what a dataset, run, checkpoint or results folder is, as a JSON-able document with a ``text``.

    Args:
        name: Minari id or folder.
        options: of ``inspect_dataset``; they concern datasets only.

    Raises:
        UserError: it is none of these, or damaged.
    """
    path = dataset_path(name)
    if (path / "metrics.jsonl").is_file() and (path / "config.yaml").is_file():
        return _inspect_run(path)
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return _inspect_checkpoint(path)
    if (path / "results.json").is_file():
        return _inspect_results(path)
    return inspect_dataset(name, **options)


def _inspect_checkpoint(path: Path) -> dict[str, Any]:
    config = read_json(path / "config.json")
    parameters = size = 0
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "np") as tensors:  # only the header is read
                for key in tensors.keys():  # noqa: SIM118 - not a dict
                    count = 1
                    for length in tensors.get_slice(key).get_shape():
                        count *= length
                    parameters += count
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({error}); copy or save the checkpoint again") from None
        size += file.stat().st_size
    scalars = {key: value for key, value in config.items() if isinstance(value, str | int | float | bool)}
    document = {
        "kind": "checkpoint",
        "path": str(path),
        "model_type": config.get("model_type"),
        "parameters": parameters,
        "bytes": size,
        "config": config,
    }
    lines = [f"checkpoint {path}: {parameters:,} parameters, {size / 1e6:.1f} MB"]
    return {**document, "text": "\n".join([*lines, *(f"  {key}: {value}" for key, value in scalars.items())])}


def _inspect_run(path: Path) -> dict[str, Any]:
    records = []
    for number, line in enumerate((path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path / 'metrics.jsonl'}, line {number}, is cut off or not JSON") from None
    dataset = read_json(path / "dataset.json") if (path / "dataset.json").is_file() else {}
    checkpoints = sorted(entry.name for entry in path.glob("checkpoints/step-*"))
    last = {key: value for record in records for key, value in record.items()}
    document = {
        "kind": "run",
        "path": str(path),
        "last_metrics": last,
        "records": len(records),
        "checkpoints": checkpoints,
        "best": str(path / "checkpoint") if (path / "checkpoint").exists() else None,
        "dataset": dataset.get("fingerprint"),
        "config": (path / "config.yaml").read_text(encoding="utf-8"),
    }
    lines = [
        f"run {path}: {len(records)} records, {len(checkpoints)} checkpoints, "
        + ("a best one" if document["best"] else "no best one"),
        f"data {document['dataset'] or 'unknown'}",
        *(f"  {key}: {value}" for key, value in last.items()),
    ]
    return {**document, "text": "\n".join(lines)}


def _inspect_results(path: Path) -> dict[str, Any]:
    results = read_json(path / "results.json")
    metrics = results.get("metrics", {})
    lines = [
        f"results of {results.get('command', 'an unknown command')} in {path}, {len(results.get('rows', []))} rows"
    ]
    for name, metric in metrics.items():
        lines.append(f"  {name}: {metric.get('value')}  95 % {metric.get('ci95')}  n {metric.get('n')}")
    return {"kind": "results", "path": str(path), "results": results, "text": "\n".join(lines)}
