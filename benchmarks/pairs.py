"""Compositional generalisation: missions that name colour-object pairs that no mission of the training named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from wmtoolkit.benchmarks.fresh import EPISODES, check_fresh, fresh_data, own_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, fingerprint, seeded, slug
from wmtoolkit.benchmarks.play import Player
from wmtoolkit.benchmarks.trainings import mean_over_seeds, train_apart
from wmtoolkit.data.splits import DEFAULT_HELD_OUT
from wmtoolkit.evaluation.evaluate import MODEL, evaluate
from wmtoolkit.progress import Bar
from wmtoolkit.training.config import Config, load_config


@dataclass(frozen=True)
class PairsPlan:
    """Trainings on episodes whose missions name none of some pairs.

    Attributes:
        config: of the training; set: entries to change in it.
        held_out: pairs such as ``red box``: missions that name one are asked about afterwards, and so are others, both
            on fresh episodes.
        seeds: of the trainings; samples: steps of each part that ``wmtool evaluate`` predicts.
        seed: first level seed of the fresh episodes.
    """

    config: str = "ablation/base"
    set: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=lambda: list(DEFAULT_HELD_OUT))
    seeds: list[int] = field(default_factory=lambda: [0])
    samples: int = 500
    seed: int = FIRST_SEED


def _runs(plan: PairsPlan) -> Iterator[tuple[dict[str, Any], Config]]:
    """Units and the configs they stand for."""
    for seed in plan.seeds:
        config = load_config(plan.config, seeded(plan.set, seed))
        unit = {"training_seed": seed, "config": fingerprint(config), "samples": plan.samples}
        yield {**unit, "held_out": plan.held_out, "seed": plan.seed}, config


def units(plan: PairsPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every training.

    Raises:
        UserError: one would be measured on level seeds that it is trained on.
    """
    for unit, config in _runs(plan):
        check_fresh(plan.seed, EPISODES, config.data.levels, [config])
        yield unit


def run(plan: PairsPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Train and measure what is missing."""
    for unit, config in _runs(plan):

        def work(unit: dict[str, Any] = unit, config: Config = config) -> dict[str, Any]:
            out = ledger.folder / "runs" / slug(f"pairs-{unit['training_seed']}-{unit['config'][:8]}")
            folder = ledger.folder.parent / "data"
            data = own_data(config, folder, plan.held_out)
            train_apart(plan.config, seeded(plan.set, unit["training_seed"]), data, out)
            # Not the training's own validation split, by which its checkpoint was chosen.
            fresh = [
                str(fresh_data(level, folder, seed=plan.seed, held_out=plan.held_out)) for level in config.data.levels
            ]
            document = evaluate(out / "checkpoint", fresh, samples=plan.samples)
            rows = [row for row in document["rows"] if row["table"] == "levels" and row.get("predictor") == MODEL]
            return {
                "rows": [row for row in rows if ", " in row["level"]],
                "checkpoint": document["checkpoint"]["sha256"],
            }

        ledger.do(unit, work)
        bar.advance(info=f"seed {unit['training_seed']}")


def report(plan: PairsPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows: table ``runs`` a training, level and kind of pairs; ``pairs`` a level and kind, the mean over trainings."""
    runs: list[dict[str, Any]] = []
    for unit, _ in _runs(plan):
        if (values := ledger.values(unit)) is None:
            continue
        about = {"training_seed": unit["training_seed"]}
        about |= {"checkpoint": values["checkpoint"]} if "checkpoint" in values else {}
        for row in values["rows"]:
            level, _, pairs = row["level"].rpartition(", ")
            own = {key: value for key, value in row.items() if key not in ("table", "level", "predictor")}
            runs.append({"table": "runs", "level": level, "pairs": pairs, **about, **own})
    means = []
    for level, pairs in dict.fromkeys((row["level"], row["pairs"]) for row in runs):
        own_runs = [
            {key: value for key, value in row.items() if key not in ("level", "pairs") and not key.endswith("_n")}
            for row in runs
            if (row["level"], row["pairs"]) == (level, pairs)
        ]
        means.append(
            {"table": "pairs", "level": level, "pairs": pairs, "seeds": len(own_runs), **mean_over_seeds(own_runs)}
        )
    return {}, [*runs, *means]
