"""Is imagination like reality: drift by horizon, and success imagined against success real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
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
        episodes: of each, episode i takes level seed ``seed + i``.
        branches: episodes of each level in which imagination goes on alone; horizon: for so many steps.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    agents: list[AgentSpec] = field(default_factory=lambda: [AgentSpec("policy")])
    episodes: int = 50
    branches: int = 64
    horizon: int = 64
    seed: int = FIRST_SEED


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
    """Every drift and every episode of the plan."""
    for level in plan.levels:
        yield _drift_unit(plan, player, level)
    for pair in pairs(plan):
        for condition in pair:
            for seed in player.seeds(condition.level, plan.seed, plan.episodes):
                yield player.unit(condition, seed)


def run(plan: FidelityPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Do what is missing."""
    for level in plan.levels:

        def work(level: str = level) -> dict[str, Any]:
            path = fresh_data(level, ledger.folder.parent / "data", seed=plan.seed)
            return open_loop(player.model, path, plan.branches, plan.horizon, seed=plan.seed)

        ledger.do(_drift_unit(plan, player, level), work)
        bar.advance(info=f"{level}: drift")
    for pair in pairs(plan):
        for condition in pair:
            player.play(condition, player.seeds(condition.level, plan.seed, plan.episodes), ledger, bar)


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
    for real, imagined in pairs(plan):
        seeds = player.seeds(real.level, plan.seed, plan.episodes)
        found = [summary(episodes(player, condition, seeds, ledger)) for condition in (real, imagined)]
        row: dict[str, Any] = {"table": "fidelity", "level": real.level, "agent": real.agent.name}
        for name, part in zip(("real", "imagined"), found, strict=True):
            row |= {
                f"{name}_{key}": part.get(key)
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
        own = [row for row in points if row["level"] == level]
        if len(own) > 2:
            found = correlation(
                *([row[f"{name}_success_rate"] for row in own] for name in ("imagined", "real")), "spearman"
            )
            rows.append({"table": "ranking", "level": level, "agents": len(own), "spearman": found["value"]})
    return metrics, rows
