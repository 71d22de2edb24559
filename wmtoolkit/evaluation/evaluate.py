"""Everything ``wmtool evaluate`` measures of a checkpoint, as a results document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data import load_trajectories
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.intervals import bootstrap_mean
from wmtoolkit.evaluation.prediction import (
    BASELINES,
    action_accuracy,
    mission_swap,
    model_predictions,
    prediction_metrics,
    transitions,
)
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.world.checkpoint import checkpoint_hash
from wmtoolkit.world.model import AnyOrderWorldModel


def evaluate(
    checkpoint: Path | None,
    data: list[str],
    *,
    split: str = "test",
    seed: int = 0,
    limit: int | None = 4000,
    nll_episodes: int = 64,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint's predictions on a split of some datasets, beside the baselines.

    Args:
        limit: largest number of steps, drawn at random; None for all.
        nll_episodes: episodes on which the NLL bound is taken.

    Returns:
        The results document; one row a predictor. With ``out`` it is written to ``out/results.json`` too.
    """
    model = AnyOrderWorldModel.from_pretrained(checkpoint)
    trajectories = [item for path in data for item in load_trajectories(path, split)]
    if not trajectories:
        raise UserError(f"the {split} split of {', '.join(data)} holds no episode; collect more episodes")
    steps = transitions(trajectories, limit, seed)
    metrics = prediction_metrics(steps, model_predictions(model, steps), seed)
    chosen = np.random.default_rng(seed).permutation(len(trajectories))[:nll_episodes]
    bound = model.nll([trajectories[index] for index in chosen], seed=seed)
    for name in ("nll_per_step", "dynamics_per_step"):
        values = bound[name][~np.isnan(bound[name])]
        interval = bootstrap_mean(values, np.random.default_rng(seed))
        metrics[name] = {"value": float(values.mean()), "ci95": list(interval), "n": len(values)}
    if (accuracy := action_accuracy(model, trajectories)) is not None:
        metrics["action_accuracy"] = accuracy
    if (swap := mission_swap(model, trajectories)) is not None:
        for name in ("true_mission", "other_mission"):
            metrics[f"success_probability_{name}"] = {"value": swap[name], "ci95": None, "n": swap["n"]}
    rows = [{"predictor": "world model", **_values(metrics)}]
    for name, baseline in BASELINES.items():
        rows.append({"predictor": name, **_values(prediction_metrics(steps, baseline(steps), seed))})
    document = results_document(
        "evaluate",
        {"data": data, "split": split, "limit": limit, "nll_episodes": nll_episodes},
        metrics,
        rows,
        seed=seed,
        checkpoint={"path": str(model.path), "sha256": checkpoint_hash(model.path)} if model.path else None,
    )
    if out is not None:
        write_json(out / "results.json", document)
    return {**document, "text": _table(rows)}


def _values(metrics: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {name: entry["value"] for name, entry in metrics.items()}


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])[1:]
    lines = [" " * 32 + "".join(f"{row['predictor']:>20}" for row in rows)]
    for name in names:
        lines.append(f"{name:<32}" + "".join(f"{row[name]:>20.4f}" if name in row else " " * 20 for row in rows))
    return "\n".join(lines)
