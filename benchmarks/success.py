"""How well agents succeed: agents x levels over fixed fresh seeds, paired between agents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.baselines.acting import check_unfitted
from wmtoolkit.benchmarks.comparison_films import film, film_rows, film_units
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player, episodes, flat, left_out, summary
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.evaluation.aggregates import level_iqm, paired_difference, probability_of_improvement
from wmtoolkit.evaluation.intervals import wilson
from wmtoolkit.progress import Bar


@dataclass(frozen=True)
class SuccessPlan:
    """``episodes`` of each agent in each level; episode i takes level seed ``seed + i``.

    Attributes:
        films: agent of whom each level's first episode is filmed, reality beside imagination; empty: no films.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    agents: list[AgentSpec] = field(default_factory=lambda: [AgentSpec("random")])
    films: str = ""
    episodes: int = 100
    seed: int = FIRST_SEED


def conditions(plan: SuccessPlan) -> Iterator[Condition]:
    """Level by level, every agent."""
    for level in plan.levels:
        for agent in plan.agents:
            yield Condition(level, agent)


def units(plan: SuccessPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every episode of the plan."""
    check_unfitted(plan.seed, plan.episodes, plan.levels, plan.agents)
    for condition in conditions(plan):
        for seed in player.seeds(condition.level, plan.seed, plan.episodes):
            yield player.unit(condition, seed)
    yield from film_units(plan, player)


def run(plan: SuccessPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Play what is missing."""
    for condition in conditions(plan):
        player.play(condition, player.seeds(condition.level, plan.seed, plan.episodes), ledger, bar)
    film(plan, player, ledger, bar)


def report(plan: SuccessPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and rows: table ``success`` a level and agent, ``agents`` over levels, ``improvement`` by pairs."""
    rows: list[dict[str, Any]] = []
    returns: dict[str, dict[str, np.ndarray]] = {}
    successes: dict[str, dict[str, np.ndarray]] = {}
    for condition in conditions(plan):
        seeds = player.seeds(condition.level, plan.seed, plan.episodes)
        found = episodes(player, condition, seeds, ledger)
        name, row = condition.agent.name, {"table": "success", "level": condition.level, "agent": condition.agent.name}
        rows.append(row | summary(found) | left_out(seeds, plan.episodes))
        if len(found) == len(seeds) and found:
            returns.setdefault(name, {})[condition.level] = np.array([item["episode_return"] for item in found])
            successes.setdefault(name, {})[condition.level] = np.array([item["success"] for item in found], float)
    metrics: dict[str, Any] = {}
    for name, levels in successes.items():
        middle, all_of_them = level_iqm(list(levels.values())), np.concatenate(list(levels.values()))
        low, high = wilson(int(all_of_them.sum()), len(all_of_them))
        rows.append(
            {
                "table": "agents",
                "agent": name,
                "levels": len(levels),
                "success_rate": float(all_of_them.mean()),
                "success_rate_low": low,
                "success_rate_high": high,
                **flat("success_iqm", middle),
                **flat("return_iqm", level_iqm(list(returns[name].values()))),
            }
        )
        metrics[f"success_iqm/{name}"] = middle
    ranked = sorted(returns, key=lambda name: -np.mean([values.mean() for values in returns[name].values()]))
    for ours, theirs in itertools.combinations(ranked, 2):
        shared = [level for level in returns[ours] if level in returns[theirs]]
        if shared:
            better = probability_of_improvement(
                [returns[ours][level] for level in shared], [returns[theirs][level] for level in shared]
            )
            gain = paired_difference(
                [successes[ours][level] for level in shared], [successes[theirs][level] for level in shared]
            )
            pair: dict[str, Any] = {"table": "improvement", "agent": ours, "over": theirs, "levels": len(shared)}
            rows.append(pair | flat("probability", better) | flat("success_difference", gain))
    return metrics, rows + film_rows(plan, player, ledger)
