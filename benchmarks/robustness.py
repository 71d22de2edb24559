"""How success and prediction hold up when the agent sees badly, with and without the model's belief completion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.baselines.acting import check_unfitted
from wmtoolkit.benchmarks.blind_prediction import predict_blindly
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player, episodes, flat, left_out, summary
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.aggregates import paired_difference, retention, robustness_curve
from wmtoolkit.evaluation.evaluate import MODEL
from wmtoolkit.evaluation.prediction import BASELINES
from wmtoolkit.progress import Bar

DROPOUT = "cell_dropout"
KEPT_AT = 0.3
"""Share of hidden cells at which is asked how much is kept."""


@dataclass(frozen=True)
class RobustnessPlan:
    """Every agent under every strength of every knob.

    Attributes:
        knobs: options of ``PartialObservability`` and their strengths; those of ``cell_dropout`` begin with 0, which
            is the clear view that everything is compared with.
        baselines: agents that the others are compared with; they see what is shown and get no belief.
        belief: whether the model fills in what is hidden; each of the list is tried, for agents and predictions alike.
        episodes: a condition; episode i takes level seed ``seed + i``.
        predictions: steps of each level predicted from badly seen histories; predictors: of
            ``evaluation.prediction.BASELINES``, who predict the same steps from the same histories.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    agents: list[AgentSpec] = field(default_factory=lambda: [AgentSpec("policy")])
    baselines: list[AgentSpec] = field(default_factory=list)
    knobs: dict[str, list[float]] = field(default_factory=lambda: {DROPOUT: [0.0, 0.3]})
    belief: list[bool] = field(default_factory=lambda: [False, True])
    episodes: int = 50
    predictions: int = 200
    predictors: list[str] = field(default_factory=list)
    seed: int = FIRST_SEED

    def __post_init__(self) -> None:
        if unknown := set(self.predictors) - set(BASELINES):
            raise UserError(f"plan robustness: no predictor {min(unknown)!r}; there are {', '.join(BASELINES)}")


def settings(plan: RobustnessPlan, believes: bool = True) -> Iterator[tuple[str, float, bool]]:
    """Knob, strength and belief of who can be given one, or of who cannot; the clear view comes once and needs none."""
    for knob, strengths in plan.knobs.items():
        for strength in strengths:
            clear = knob == DROPOUT and strength == 0
            for belief in plan.belief if believes and not clear else [False]:
                yield knob, strength, belief


def conditions(plan: RobustnessPlan) -> Iterator[Condition]:
    """Level by level, agent by agent."""
    for level in plan.levels:
        for agent in [*plan.agents, *plan.baselines]:
            for knob, strength, belief in settings(plan, agent not in plan.baselines):
                yield condition(level, agent, knob, strength, belief)


def condition(level: str, agent: AgentSpec, knob: str, strength: float, belief: bool) -> Condition:
    """An agent under one strength of one knob."""
    value = int(strength) if knob == "view_size" else strength
    clear = knob == DROPOUT and strength == 0
    return Condition(level, agent, corruption={} if clear else {knob: value}, belief=belief)


def _prediction_unit(
    plan: RobustnessPlan, player: Player, level: str, knob: str, strength: float, belief: bool, predictor: str | None
) -> dict:
    return {
        **({"predictor": predictor} if predictor else {}),
        "predictions": plan.predictions,
        "level": level,
        "corruption": {knob: strength},
        "belief": belief,
        "checkpoint": None if predictor else player.identity["sha256"],
        "seed": plan.seed,
    }


def _predictions(plan: RobustnessPlan) -> Iterator[tuple[str, float, bool, str | None]]:
    """Knob, strength, belief and predictor, None for the world model; the others have no belief."""
    if plan.predictions:
        for predictor in (None, *plan.predictors):
            for knob, strength, belief in settings(plan, predictor is None):
                yield knob, strength, belief, predictor


def units(plan: RobustnessPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every episode, and every prediction setting, of the plan."""
    check_unfitted(plan.seed, plan.episodes, plan.levels, [*plan.agents, *plan.baselines])
    for item in conditions(plan):
        for seed in player.seeds(item.level, plan.seed, plan.episodes):
            yield player.unit(item, seed)
    for level in plan.levels:
        for asked in _predictions(plan):
            yield _prediction_unit(plan, player, level, *asked)


def run(plan: RobustnessPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Do what is missing."""
    for level in plan.levels:
        for knob, strength, belief, predictor in _predictions(plan):
            unit = _prediction_unit(plan, player, level, knob, strength, belief, predictor)
            change = condition(level, AgentSpec(), knob, strength, belief).corruption

            def work(
                level: str = level, change: Any = change, belief: bool = belief, predictor: str | None = predictor
            ) -> dict[str, Any]:
                path = player.fresh_data(level, plan.seed)
                return predict_blindly(player.model, path, change, belief, plan.predictions, plan.seed, predictor)

            ledger.do(unit, work)
            bar.advance(info=f"{level}: predictions")
    for item in conditions(plan):
        player.play(item, player.seeds(item.level, plan.seed, plan.episodes), ledger, bar)


Curve = dict[float, np.ndarray]
"""Successes and returns (2, n) on the same level seeds by share of hidden cells."""


def report(plan: RobustnessPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Metrics and rows: table ``robustness`` a condition, ``retention`` an agent and level, ``gain`` a condition with
    belief and what it is compared with, ``blind prediction``."""
    rows: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {}
    for level in plan.levels:
        seeds = player.seeds(level, plan.seed, plan.episodes)
        scores: dict[tuple[str, str, float, bool], np.ndarray] = {}
        for agent in [*plan.agents, *plan.baselines]:
            for knob, strength, belief in settings(plan, agent not in plan.baselines):
                found = episodes(player, condition(level, agent, knob, strength, belief), seeds, ledger)
                row = {"table": "robustness", "level": level, "agent": agent.name, "knob": knob, "strength": strength}
                rows.append({**row, "belief": belief, **summary(found), **left_out(seeds, plan.episodes)})
                if found and len(found) == len(seeds):
                    both = [[entry["success"], entry["episode_return"]] for entry in found]
                    scores[agent.name, knob, strength, belief] = np.array(both, float).T
            for belief in [False] if agent in plan.baselines else plan.belief:
                curve = {
                    strength: own
                    for (name, knob, strength, filled), own in scores.items()
                    if name == agent.name and knob == DROPOUT and filled == (belief and strength > 0)
                }
                planned = sorted(plan.knobs.get(DROPOUT, []))
                if 0.0 in planned and len(planned) > 1:
                    row = {"table": "retention", "level": level, "agent": agent.name, "belief": belief}
                    for metric, entry in _kept(curve, planned).items():
                        metrics[f"{metric}/{level}/{agent.name}/{'belief' if belief else 'as seen'}"] = entry
                        row |= flat(metric, entry)
                    rows.append(row)
        rows += _gains(plan, level, scores)
        for knob, strength, belief, predictor in _predictions(plan):
            values = ledger.values(_prediction_unit(plan, player, level, knob, strength, belief, predictor))
            row = {"table": "blind prediction", "level": level, "predictor": predictor or MODEL}
            rows.append(row | {"knob": knob, "strength": strength, "belief": belief} | (values or {}))
    return metrics, rows


def _kept(curve: Curve, planned: Sequence[float]) -> dict[str, Any]:
    """What is kept of success and return; without a value where a strength that it takes is not played to the end."""
    found: dict[str, Any] = {}
    for place, prefix in enumerate(("", "return_")):
        scores = {strength: own[place] for strength, own in curve.items()}
        hole = {"value": None, "ci95": None, "n": 0}
        whole = scores.keys() >= set(planned)
        found[f"{prefix}robustness_auc"] = (
            robustness_curve(planned, [scores[strength] for strength in planned]) if whole else hole
        )
        if KEPT_AT in planned:
            both = scores.keys() >= {0.0, KEPT_AT}
            found[f"{prefix}retention_0.3"] = retention(scores[0.0], scores[KEPT_AT]) if both else hole
    return found


def _gains(
    plan: RobustnessPlan, level: str, scores: Mapping[tuple[str, str, float, bool], np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Each agent with belief against itself as it sees, and at 30 % hidden cells against the baselines, on the same
    level seeds."""
    for agent in plan.agents:
        for knob, strength, belief in settings(plan):
            ours = scores.get((agent.name, knob, strength, True))
            if not belief or ours is None:
                continue
            beside = plan.baselines if (knob, strength) == (DROPOUT, KEPT_AT) else []
            for name, over in [(agent.name, "itself, as seen"), *((item.name, item.name) for item in beside)]:
                theirs = scores.get((name, knob, strength, False))
                if theirs is not None:
                    row = {"table": "gain", "level": level, "agent": agent.name, "knob": knob, "strength": strength}
                    for place, score in enumerate(("success", "return")):
                        row |= flat(f"{score}_difference", paired_difference([ours[place]], [theirs[place]]))
                    yield {**row, "over": over, "episodes": ours.shape[1]}
