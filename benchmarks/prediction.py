"""How well is the next step, and everything else, predicted: ``wmtool evaluate`` level by level, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.fresh import EPISODES, fresh_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED
from wmtoolkit.benchmarks.play import Player
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.evaluation.evaluate import evaluate
from wmtoolkit.progress import Bar


@dataclass(frozen=True)
class PredictionPlan:
    """Levels whose fresh episodes are predicted.

    Attributes:
        data: datasets whose test splits are used instead; the levels are then theirs.
        samples: steps of each level; episodes: played in each level where no dataset is given.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    data: list[str] = field(default_factory=list)
    samples: int = 1000
    episodes: int = EPISODES
    seed: int = FIRST_SEED


def units(plan: PredictionPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Each level or dataset."""
    for name in plan.data or plan.levels:
        yield {
            "data" if plan.data else "level": name,
            "samples": plan.samples,
            "episodes": None if plan.data else plan.episodes,
            "checkpoint": player.identity["sha256"],
            "seed": plan.seed,
        }


def run(plan: PredictionPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Do what is missing."""
    for unit in units(plan, player):

        def work(unit: dict[str, Any] = unit) -> dict[str, Any]:
            path = unit.get("data") or fresh_data(
                unit["level"], ledger.folder.parent / "data", episodes=plan.episodes, seed=plan.seed
            )
            document = evaluate(player.checkpoint, [str(path)], samples=plan.samples)
            return {"metrics": document["metrics"], "rows": document["rows"]}

        ledger.do(unit, work)
        bar.advance(info=str(unit.get("level", unit.get("data"))))


def report(plan: PredictionPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics, the mean over levels of each; and the rows of ``wmtool evaluate``."""
    found = [values for unit in units(plan, player) if (values := ledger.values(unit)) is not None]
    rows = [row for values in found for row in values["rows"]]
    names = dict.fromkeys(name for values in found for name in values["metrics"])
    return {name: mean_over_levels([v["metrics"][name] for v in found if name in v["metrics"]]) for name in names}, rows


def mean_over_levels(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of values of levels that were measured apart, with the interval that follows from theirs."""
    values = np.array([entry["value"] for entry in entries], dtype=np.float64)
    ends = np.array([entry["ci95"] for entry in entries], dtype=np.float64)
    # Each side of an interval is a deviation of its own, none where the value lies outside; independent ones add up in
    # squares.
    sides = np.maximum((values[:, None] - ends) * [1, -1], 0)
    below, above = np.sqrt((sides**2).sum(axis=0)) / len(values)
    errors = [entry["standard_error"] for entry in entries if "standard_error" in entry]
    return {
        "value": float(values.mean()),
        "ci95": [float(values.mean() - below), float(values.mean() + above)],
        "n": int(sum(entry["n"] for entry in entries)),
        "levels": len(entries),
        **({"standard_error": float(np.linalg.norm(errors)) / len(errors)} if errors else {}),
    }
