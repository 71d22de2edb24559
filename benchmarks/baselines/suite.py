"""Baselines beside the world model: trained on the same data and budget, measured alike."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from wmtoolkit.benchmarks.baselines import fitting, measure
from wmtoolkit.benchmarks.baselines.convolutional import CloningAgent, save_cloning
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player, summary
from wmtoolkit.benchmarks.rollouts import run_episode
from wmtoolkit.benchmarks.trainings import mean_over_seeds, own_data, train_apart
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.held_out import held_out_frames
from wmtoolkit.evaluation.prediction import BASELINES
from wmtoolkit.progress import Bar
from wmtoolkit.training.config import Config, load_config

UNTRAINED = tuple(BASELINES)
NAMES = ("any-order", *UNTRAINED, "empirical prior", "autoregressive", "fixed ratio", "convolutional", "cloning")


@dataclass(frozen=True)
class BaselinesPlan:
    """Rivals of one training.

    Attributes:
        config: of the world model; every rival gets its data and budget. set: entries to change in it.
        fixed_ratio: config of the masked model whose ratio never changes.
        baselines: of ``NAMES``; seeds: of the trainings.
        samples: steps of each level that are predicted, on fresh episodes.
        episodes: played in each level by those that can act by a policy.
    """

    config: str = "ablation/base"
    fixed_ratio: str = "ablation/mask_fixed"
    set: list[str] = field(default_factory=list)
    baselines: list[str] = field(default_factory=lambda: list(NAMES))
    seeds: list[int] = field(default_factory=lambda: [0])
    samples: int = 500
    episodes: int = 50
    seed: int = FIRST_SEED


def _works(plan: BaselinesPlan) -> Iterator[tuple[dict[str, Any], Config]]:
    """Units and the configs they stand for; what is not trained comes once."""
    if unknown := set(plan.baselines) - set(NAMES):
        raise UserError(f"unknown baseline {min(unknown)!r}; there are {', '.join(NAMES)}")
    for seed in plan.seeds:
        for name in plan.baselines:
            if seed != plan.seeds[0] and name in (*UNTRAINED, "empirical prior"):
                continue
            config = load_config(plan.fixed_ratio if name == "fixed ratio" else plan.config, _changes(plan, seed))
            document = json.dumps(asdict(config), sort_keys=True)
            unit = {
                "baseline": name,
                "training_seed": seed,
                "config": hashlib.sha256(document.encode()).hexdigest()[:16],
                "samples": plan.samples,
                "episodes": plan.episodes,
                "seed": plan.seed,
            }
            yield unit, config


def _changes(plan: BaselinesPlan, seed: int) -> list[str]:
    return [*plan.set, f"training.seed={seed}", "logging.trackers=[]"]


def units(plan: BaselinesPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every baseline and seed."""
    for unit, _ in _works(plan):
        yield unit


def run(plan: BaselinesPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Train and measure what is missing."""
    for unit, config in _works(plan):
        ledger.do(unit, lambda unit=unit, config=config: _trained_and_measured(plan, unit, config, ledger))  # type: ignore[misc]
        bar.advance(info=unit["baseline"])


def _trained_and_measured(plan: BaselinesPlan, unit: dict[str, Any], config: Config, ledger: Ledger) -> dict[str, Any]:
    folder, name, seed = ledger.folder.parent / "data", unit["baseline"], unit["training_seed"]
    data, levels = own_data(config, folder), config.data.levels
    parts = [part for level in levels for part in held_out_frames([str(fresh_data(level, folder, seed=plan.seed))])]
    started = time.perf_counter()
    agent: Callable[[], Any] | None = None
    player = Player(None)
    parameters = 0
    if name in ("any-order", "fixed ratio"):
        out = ledger.folder / "runs" / f"{name.replace(' ', '-')}-{seed}-{unit['config'][:8]}"
        train_apart(plan.fixed_ratio if name == "fixed ratio" else plan.config, _changes(plan, seed), data, out)
        player = Player(out / "checkpoint")
        predictor = measure.any_order(player.model)
        parameters = _count(player.model.network)
    elif name in UNTRAINED:
        predictor = measure.untrained(name)
    else:
        frames = fitting.training_frames(data)
        if name == "empirical prior":
            predictor = measure.frequencies(frames, 20_000, np.random.default_rng(seed))
        elif name == "autoregressive":
            network = fitting.fit_autoregressive(config, frames)
            predictor, parameters = measure.left_to_right(network), _count(network)
        elif name == "convolutional":
            stepping = fitting.fit_steps(config, frames)
            predictor, parameters = measure.one_step(stepping), _count(stepping)
        else:
            cloned = fitting.fit_cloning(config, frames)
            predictor, parameters = measure.cloning(cloned), _count(cloned)
            agent = lambda: CloningAgent(cloned)  # noqa: E731
            # for other suites, as the agent ``cloning:FILE``
            save_cloning(cloned, ledger.folder / "models" / f"cloning-{seed}.safetensors")
    seconds = time.perf_counter() - started
    values: dict[str, Any] = {"parameters": parameters, "training_seconds": seconds}
    values["metrics"] = measure.measure(predictor, parts, plan.samples)
    if plan.episodes and (agent is not None or name in ("any-order", "fixed ratio")):
        values["play"] = summary(_played(plan, levels, player, agent))
    return values


def _played(
    plan: BaselinesPlan, levels: list[str], player: Player, agent: Callable[[], Any] | None
) -> list[dict[str, Any]]:
    """Episodes of a policy on fresh levels: the given agent's, or the world model's own."""
    found = []
    for level in levels:
        condition = Condition(level, AgentSpec("policy"))
        with player.environment(condition) as env:
            acting = agent() if agent is not None else player.agent(condition, env)
            found += [asdict(run_episode(acting, env, plan.seed + index)) for index in range(plan.episodes)]
    return found


def _count(network: Any) -> int:
    return sum(value.numel() for value in network.parameters() if value.requires_grad)


def report(plan: BaselinesPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows: table ``runs`` a baseline and seed, ``baselines`` the mean over seeds of each."""
    runs: list[dict[str, Any]] = []
    for unit, _ in _works(plan):
        values = ledger.values(unit)
        if values is None:
            continue
        row = {"table": "runs", "variant": unit["baseline"], "training_seed": unit["training_seed"]}
        row |= {key: values[key] for key in ("parameters", "training_seconds")}
        for name, entry in values["metrics"].items():
            low, high = entry["ci95"]
            row |= {name: entry["value"], f"{name}_low": low, f"{name}_high": high}
        if "play" in values:
            row |= {f"success_rate/policy{end}": values["play"][f"success_rate{end}"] for end in ("", "_low", "_high")}
        runs.append(row)
    means = [
        {"table": "variants", "variant": name, "seeds": len(own), **mean_over_seeds(own)}
        for name in plan.baselines
        if (own := [row for row in runs if row["variant"] == name])
    ]
    return {}, [*runs, *means]
