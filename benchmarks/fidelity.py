"""Is imagination like reality: drift by horizon, and success imagined against success real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.baselines.acting import check_unfitted
from wmtoolkit.benchmarks.comparison_films import film, film_rows, film_units
from wmtoolkit.benchmarks.drift import open_loop
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player, episodes, flat, left_out, summary
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.envs.starts import FRESH
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.aggregates import correlation, mean_gap, rank_agreement
from wmtoolkit.progress import Bar


@dataclass(frozen=True)
class FidelityPlan:
    """Each agent plays each level for real and in imagination, from the same first observations.

    Attributes:
        checkpoints: further checkpoints whose imagination, and whose agents, are compared too; paths from where the
            command runs.
        films: agent of whom each level's first episode is filmed, reality beside imagination; empty: no films.
        episodes: of each, episode i takes level seed ``seed + i``.
        temperature: of what is imagined in them; 0: the likeliest frame always.
        start: where imagination begins: ``level``, the first real view, or ``look_around``, where the model is also
            shown what a turn on the spot shows, so that less has to be made up.
        branches: episodes of each level in which imagination goes on alone; horizon: for so many steps.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    agents: list[AgentSpec] = field(default_factory=lambda: [AgentSpec("policy")])
    checkpoints: list[str] = field(default_factory=list)
    films: str = ""
    episodes: int = 50
    temperature: float = 1.0
    start: str = "level"
    branches: int = 64
    horizon: int = 64
    seed: int = FIRST_SEED

    def __post_init__(self) -> None:
        if self.start not in FRESH:
            raise UserError(f"plan fidelity: start is {self.start!r}, not one of {', '.join(FRESH)}")
        if self.films and self.start != "level":
            raise UserError("plan fidelity: films show imagination that begins with one view: leave out films or start")


def players(plan: FidelityPlan, player: Player) -> dict[str, Player]:
    """The checkpoint under test by the name "", and the further ones by those of their folders; equal names are told
    apart by their hashes.

    Raises:
        UserError: one checkpoint twice.
    """
    found = [player, *(Player(Path(path), player.folder) for path in plan.checkpoints)]
    by_hash: dict[str, str] = {}
    for own in found:
        path, sha = own.identity["path"], own.identity["sha256"]
        if sha in by_hash:
            raise UserError(f"plan fidelity: checkpoints: {path} is the same model as {by_hash[sha]}; name each once")
        by_hash[sha] = path
    names = [_name(Path(path)) for path in plan.checkpoints]
    told = [
        f"{name} ({own.identity['sha256'][:8]})" if names.count(name) > 1 else name
        for name, own in zip(names, found[1:], strict=True)
    ]
    return dict(zip(["", *told], found, strict=True))


def _name(path: Path) -> str:
    path = path.resolve()
    return path.parent.name if path.name == "checkpoint" else path.name


def pairs(plan: FidelityPlan) -> Iterator[tuple[Condition, Condition]]:
    """Real and imagined, level by level."""
    for level in plan.levels:
        for agent in plan.agents:
            imagined = Condition(level, agent, imagined=True, temperature=plan.temperature, start=plan.start)
            yield Condition(level, agent), imagined


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
    check_unfitted(plan.seed, plan.episodes, plan.levels, plan.agents)
    for level in plan.levels:
        yield _drift_unit(plan, player, level)
    for own in players(plan, player).values():
        for pair in pairs(plan):
            for condition in pair:
                if own is player or own.uses_model(condition):
                    for seed in own.seeds(condition.level, plan.seed, plan.episodes):
                        yield own.unit(condition, seed)
    yield from film_units(plan, player)


def run(plan: FidelityPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Do what is missing."""
    for level in plan.levels:

        def work(level: str = level) -> dict[str, Any]:
            path = player.fresh_data(level, plan.seed)
            return open_loop(player.model, [path], plan.branches, plan.horizon, seed=plan.seed)

        ledger.do(_drift_unit(plan, player, level), work)
        bar.advance(info=f"{level}: drift")
    for own in players(plan, player).values():
        for pair in pairs(plan):
            for condition in pair:
                if own is player or own.uses_model(condition):
                    own.play(condition, own.seeds(condition.level, plan.seed, plan.episodes), ledger, bar)
    film(plan, player, ledger, bar)


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
    points, ranked = [], dict[str, list[tuple[tuple[int, ...], np.ndarray]]]()
    everyone = [(name, own, pair) for name, own in players(plan, player).items() for pair in pairs(plan)]
    for checkpoint, own, (real, imagined) in everyone:
        seeds = own.seeds(real.level, plan.seed, plan.episodes)
        played = [episodes(own, condition, seeds, ledger) for condition in (imagined, real)]
        name = f"{real.agent.name}, {checkpoint}" if checkpoint else real.agent.name
        row: dict[str, Any] = {"table": "fidelity", "level": real.level, "agent": name}
        row |= left_out(seeds, plan.episodes)
        for side, part in zip(("imagined", "real"), map(summary, played), strict=True):
            row |= {
                f"{side}_{key}": part.get(key)
                for key in ("n", "success_rate", "success_rate_low", "success_rate_high", "error")
            }
        rows.append(row)
        if seeds and all(len(part) == len(seeds) for part in played):
            points.append(row)
            successes = np.array([[item["success"] for item in part] for part in played], dtype=np.float64)
            ranked.setdefault(real.level, []).append((tuple(seeds), successes))
    metrics: dict[str, Any] = {}
    if len(points) > 2:
        real_rates, imagined_rates = ([row[f"{name}_success_rate"] for row in points] for name in ("real", "imagined"))
        levels = [row["level"] for row in points]
        metrics["fidelity_pearson"] = correlation(imagined_rates, real_rates, "pearson", levels)
        metrics["fidelity_spearman"] = correlation(imagined_rates, real_rates, "spearman", levels)
        metrics["fidelity_gap"] = mean_gap(imagined_rates, real_rates, levels)
    together = []
    for level, agents in ranked.items():
        if len(agents) > 2 and len({own for own, _ in agents}) == 1:  # ranked on the same seeds, or not at all
            scores = np.stack([successes for _, successes in agents])
            together.append(scores)
            rows.append(
                {
                    "table": "ranking",
                    "level": level,
                    "agents": len(agents),
                    **flat("spearman", rank_agreement([scores])),
                }
            )
    if together and len(together) == len(plan.levels) and len({len(scores) for scores in together}) == 1:
        metrics["ranking_spearman"] = rank_agreement(together)
    return metrics, rows + film_rows(plan, player, ledger)
