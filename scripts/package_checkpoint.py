"""Put a trained model and its model card into the package: python scripts/package_checkpoint.py RUN RESULTS

RUN is the folder of ``wmtool train``, RESULTS that of ``wmtool evaluate`` on the same checkpoint. The card's words come
from ``scripts/model_card.md``; its tables, seeds and hashes from the two folders.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from wmtoolkit.errors import UserError
from wmtoolkit.world.checkpoint import checkpoint_hash, load

LIMIT = 16_000_000
"""Bytes that a file of the package may have."""


def package(run: Path, results: Path, name: str = "compact") -> Path:
    """Copy the run's best checkpoint with its config, training seeds and card; returns the folder.

    Raises:
        UserError: the results are of another checkpoint, or a file is too large.
    """
    root = Path(__file__).resolve().parent.parent
    checkpoint, target = run / "checkpoint", root / "wmtoolkit" / "checkpoints" / name
    network, facts = load(checkpoint)
    measured = json.loads((results / "results.json").read_text(encoding="utf-8"))
    if checkpoint_hash(checkpoint) not in json.dumps(measured):
        raise UserError(f"{results} was not measured on {checkpoint}; run wmtool evaluate on it")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(checkpoint, target)
    shutil.copy(run / "config.yaml", target / "training.yaml")
    seeds = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
    kept = {key: seeds[key] for key in ("fingerprint", "train_seeds") if key in seeds}
    (target / "dataset.json").write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")
    seconds = [
        line["seconds"]
        for line in map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        if "seconds" in line
    ]
    values = {
        "steps": facts["steps"],
        "parameters": sum(value.numel() for value in network.parameters() if value.requires_grad),
        "layers": network.llada2.config.num_hidden_layers,
        "hours": seconds[-1] / 3600,
        "levels": "\n".join(f"- {level}" for level in facts["levels"]),
        "episodes": seeds["episodes"] // len(facts["levels"]),
        "hash": checkpoint_hash(checkpoint),
        "torch": torch.__version__.partition("+")[0],
        "tables": (results / "results.md").read_text(encoding="utf-8"),
    }
    text = (root / "scripts" / "model_card.md").read_text(encoding="utf-8")
    (target / "README.md").write_text(text.format(**values), encoding="utf-8")
    for file in target.iterdir():
        if file.stat().st_size > LIMIT:
            raise UserError(f"{file} has {file.stat().st_size} bytes; at most {LIMIT} may be shipped")
    return target


if __name__ == "__main__":
    try:
        print(package(Path(sys.argv[1]), Path(sys.argv[2])))
    except (UserError, OSError, IndexError) as error:
        sys.exit(f"{error or 'give the folders of a run and of its results'}")
