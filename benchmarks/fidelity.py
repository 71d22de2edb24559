"""Is imagination like reality: drift by horizon, and success imagined against success real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.drift import open_loop
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player, episodes, summary
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.evaluation.aggregates import correlation
from wmtoolkit.progress import Bar


@dataclass(frozen=True)
class FidelityPlan:
    """Each agent plays each level for real and in imagination, from the same first observations.

    Attributes:
        checkpoints: further checkpoints whose imagination, and whose agents, are compared too.
        episodes: of each, episode i takes level seed ``seed + i``.
        branches: episodes of each level in which imagination goes on alone; horizon: for so many steps.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    agents: list[AgentSpec] = field(default_factory=lambda: [AgentSpec("policy")])
    checkpoints: list[str] = field(default_factory=list)
    episodes: int = 50
    branches: int = 64
    horizon: int = 64
    seed: int = FIRST_SEED


def players(plan: FidelityPlan, player: Player) -> dict[str, Player]:
    """The checkpoint under test, and the further ones by the names of their folders."""
    return {"": player, **{_name(Path(path)): Player(Path(path)) for path in plan.checkpoints}}


def _name(path: Path) -> str:
    return path.parent.name if path.name == "checkpoint" else path.name


def pairs(plan: FidelityPlan) -> Iterator[tuple[Condition, Condition]]:
    """Real and imagined, level by level."""
    for level in plan.levels:
        for agent in plan.agents:
            yield Condition(level, agent), Condition(level, agent, imagined=True)


def _drift_unit(plan: FidelityPlan, player: Player, level: str) -> dict[str, Any]:
    return {
        "level": level,
        "branches": plan.branches,
        "horizon": plan.horizon,
        "checkpoint": player.identity["sha256"],
        "seed": plan.seed,
    }


def units(plan: FidelityPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every drift and every episode of the plan; what does not depend on the checkpoint comes once."""
    for level in plan.levels:
        yield _drift_unit(plan, player, level)
    for own in players(plan, player).values():
        for pair in pairs(plan):
            for condition in pair:
                if own is player or own.uses_model(condition):
                    for seed in own.seeds(condition.level, plan.seed, plan.episodes):
                        yield own.unit(condition, seed)


def run(plan: FidelityPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Do what is missing."""
    for level in plan.levels:

        def work(level: str = level) -> dict[str, Any]:
            path = fresh_data(level, ledger.folder.parent / "data", seed=plan.seed)
            return open_loop(player.model, path, plan.branches, plan.horizon, seed=plan.seed)

        ledger.do(_drift_unit(plan, player, level), work)
        bar.advance(info=f"{level}: drift")
    for own in players(plan, player).values():
        for pair in pairs(plan):
            for condition in pair:
                if own is player or own.uses_model(condition):
                    own.play(condition, own.seeds(condition.level, plan.seed, plan.episodes), ledger, bar)


def report(plan: FidelityPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and rows: tables ``drift`` a level and horizon, ``divergence`` a level, ``fidelity`` a level and agent,
    ``ranking`` a level."""
    rows: list[dict[str, Any]] = []
    for level in plan.levels:
        values = ledger.values(_drift_unit(plan, player, level))
        if values is None:
            continue
        rows += [{"table": "drift", "level": level, **step} for step in values["steps"]]
        rows.append({"table": "divergence", "level": level, **values["divergence"]})
    points = []
    everyone = [(name, own, pair) for name, own in players(plan, player).items() for pair in pairs(plan)]
    for checkpoint, own, (real, imagined) in everyone:
        seeds = own.seeds(real.level, plan.seed, plan.episodes)
        found = [summary(episodes(own, condition, seeds, ledger)) for condition in (real, imagined)]
        name = f"{real.agent.name}, {checkpoint}" if checkpoint else real.agent.name
        row: dict[str, Any] = {"table": "fidelity", "level": real.level, "agent": name}
        for side, part in zip(("real", "imagined"), found, strict=True):
            row |= {
                f"{side}_{key}": part.get(key)
                for key in ("n", "success_rate", "success_rate_low", "success_rate_high", "error")
            }
        rows.append(row)
        if all(part["n"] == len(seeds) for part in found) and seeds:
            points.append(row)
    metrics: dict[str, Any] = {}
    if len(points) > 2:
        real_rates, imagined_rates = ([row[f"{name}_success_rate"] for row in points] for name in ("real", "imagined"))
        metrics["fidelity_pearson"] = correlation(imagined_rates, real_rates, "pearson")
        metrics["fidelity_spearman"] = correlation(imagined_rates, real_rates, "spearman")
        gap = np.abs(np.array(real_rates) - np.array(imagined_rates))
        metrics["fidelity_gap"] = {"value": float(gap.mean()), "ci95": None, "n": len(gap)}
    for level in plan.levels:
        there = [row for row in points if row["level"] == level]
        if len(there) > 2:
            imagined_there, real_there = (
                [row[f"{side}_success_rate"] for row in there] for side in ("imagined", "real")
            )
            ranks = correlation(imagined_there, real_there, "spearman")
            rows.append({"table": "ranking", "level": level, "agents": len(there), "spearman": ranks["value"]})
    return metrics, rows
