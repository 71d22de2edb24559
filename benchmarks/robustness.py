"""How success and prediction hold up when the agent sees badly, with and without the model's belief completion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.blind_prediction import predict_blindly
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player, episodes, flat, summary
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.evaluation.aggregates import retention, robustness_curve
from wmtoolkit.progress import Bar

DROPOUT = "cell_dropout"


@dataclass(frozen=True)
class RobustnessPlan:
    """Every agent under every strength of every knob.

    Attributes:
        knobs: options of ``PartialObservability`` and their strengths; those of ``cell_dropout`` begin with 0, which
            is the clear view that everything is compared with.
        belief: whether the model fills in what is hidden; each of the list is tried, for agents and predictions alike.
        episodes: a condition; episode i takes level seed ``seed + i``.
        predictions: steps of each level predicted from badly seen histories.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    agents: list[AgentSpec] = field(default_factory=lambda: [AgentSpec("policy")])
    knobs: dict[str, list[float]] = field(default_factory=lambda: {DROPOUT: [0.0, 0.3]})
    belief: list[bool] = field(default_factory=lambda: [False, True])
    episodes: int = 50
    predictions: int = 200
    seed: int = FIRST_SEED


def settings(plan: RobustnessPlan) -> Iterator[tuple[str, float, bool]]:
    """Knob, strength and belief; the clear view comes once and needs no belief."""
    for knob, strengths in plan.knobs.items():
        for strength in strengths:
            for belief in plan.belief:
                if not (belief and knob == DROPOUT and strength == 0):
                    yield knob, strength, belief


def conditions(plan: RobustnessPlan) -> Iterator[Condition]:
    """Level by level, agent by agent."""
    for level in plan.levels:
        for agent in plan.agents:
            for knob, strength, belief in settings(plan):
                yield condition(level, agent, knob, strength, belief)


def condition(level: str, agent: AgentSpec, knob: str, strength: float, belief: bool) -> Condition:
    """An agent under one strength of one knob."""
    value = int(strength) if knob == "view_size" else strength
    clear = knob == DROPOUT and strength == 0
    return Condition(level, agent, corruption={} if clear else {knob: value}, belief=belief)


def _prediction_unit(
    plan: RobustnessPlan, player: Player, level: str, knob: str, strength: float, belief: bool
) -> dict:
    return {
        "predictions": plan.predictions,
        "level": level,
        "corruption": {knob: strength},
        "belief": belief,
        "checkpoint": player.identity["sha256"],
        "seed": plan.seed,
    }


def units(plan: RobustnessPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every episode, and every prediction setting, of the plan."""
    for item in conditions(plan):
        for seed in player.seeds(item.level, plan.seed, plan.episodes):
            yield player.unit(item, seed)
    for level in plan.levels if plan.predictions else ():
        for knob, strength, belief in settings(plan):
            yield _prediction_unit(plan, player, level, knob, strength, belief)


def run(plan: RobustnessPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Do what is missing."""
    for level in plan.levels if plan.predictions else ():
        for knob, strength, belief in settings(plan):
            unit = _prediction_unit(plan, player, level, knob, strength, belief)
            change = condition(level, AgentSpec(), knob, strength, belief).corruption

            def work(level: str = level, change: Any = change, belief: bool = belief) -> dict[str, Any]:
                path = fresh_data(level, ledger.folder.parent / "data", seed=plan.seed)
                return predict_blindly(player.model, path, change, belief, plan.predictions, seed=plan.seed)

            ledger.do(unit, work)
            bar.advance(info=f"{level}: predictions")
    for item in conditions(plan):
        player.play(item, player.seeds(item.level, plan.seed, plan.episodes), ledger, bar)


def report(plan: RobustnessPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and rows: table ``robustness`` a condition, ``retention`` an agent and level, ``blind prediction``."""
    rows: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    for level in plan.levels:
        seeds = player.seeds(level, plan.seed, plan.episodes)
        for agent in plan.agents:
            curves: dict[bool, dict[float, np.ndarray]] = {belief: {} for belief in plan.belief}
            for knob, strength, belief in settings(plan):
                item = condition(level, agent, knob, strength, belief)
                found = episodes(player, item, seeds, ledger)
                row = {"table": "robustness", "level": level, "agent": agent.name, "knob": knob, "strength": strength}
                rows.append({**row, "belief": belief, **summary(found)})
                if knob == DROPOUT and found and len(found) == len(seeds):
                    scores = np.array([[entry["success"], entry["episode_return"]] for entry in found], float)
                    for own in plan.belief if strength == 0 else [belief]:
                        curves[own][strength] = scores.T
            for belief, curve in curves.items():
                if 0.0 not in curve or len(curve) < 2:
                    continue
                strengths = sorted(curve)
                row = {"table": "retention", "level": level, "agent": agent.name, "belief": belief}
                name = f"{level}/{agent.name}/{'belief' if belief else 'as seen'}"
                for place, prefix in enumerate(("", "return_")):
                    area = robustness_curve(strengths, [curve[strength][place] for strength in strengths])
                    found_here = {f"{prefix}robustness_auc": area}
                    if 0.3 in curve:
                        found_here[f"{prefix}retention_0.3"] = retention(curve[0.0][place], curve[0.3][place])
                    for metric, entry in found_here.items():
                        metrics[f"{metric}/{name}"] = entry
                        row |= flat(metric, entry)
                rows.append(row)
        for knob, strength, belief in settings(plan) if plan.predictions else ():
            values = ledger.values(_prediction_unit(plan, player, level, knob, strength, belief))
            row = {"table": "blind prediction", "level": level, "knob": knob, "strength": strength, "belief": belief}
            rows.append(row | (values or {}))
    return metrics, rows
