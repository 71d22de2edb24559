"""Baselines beside the world model: trained on the same data and budget, measured alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from torch import nn

from wmtoolkit.agents import Agent, make_agent
from wmtoolkit.benchmarks.baselines import acting, fitting, measure
from wmtoolkit.benchmarks.baselines.convolutional import CloningAgent, save_cloning
from wmtoolkit.benchmarks.baselines.measure import Predictor
from wmtoolkit.benchmarks.fresh import EPISODES, check_fresh, fresh_data, own_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec, fingerprint, seeded, slug
from wmtoolkit.benchmarks.play import Condition, Player, played_everywhere
from wmtoolkit.benchmarks.rollouts import saved_hash
from wmtoolkit.benchmarks.trainings import mean_over_seeds, raised, success_entries, train_apart, trained_parameters
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.held_out import held_out_frames
from wmtoolkit.evaluation.prediction import BASELINES
from wmtoolkit.progress import Bar
from wmtoolkit.training.config import Config, load_config
from wmtoolkit.world.checkpoint import checkpoint_hash

UNTRAINED = tuple(BASELINES)
_COUNTED = 20_000
"""Training steps that the empirical prior counts."""
MODEL_FREE = "model-free PPO"
NAMES = (
    "any-order",
    *UNTRAINED,
    "empirical prior",
    "autoregressive",
    "fixed ratio",
    "convolutional",
    "cloning",
    MODEL_FREE,
)


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
            config = load_config(plan.fixed_ratio if name == "fixed ratio" else plan.config, seeded(plan.set, seed))
            unit = {
                "baseline": name,
                "training_seed": seed,
                "config": fingerprint(config),
                "samples": plan.samples,
                "episodes": plan.episodes,
                "seed": plan.seed,
            }
            yield unit, config


def units(plan: BaselinesPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every baseline and seed.

    Raises:
        UserError: one would be measured on level seeds that it is trained on.
    """
    for unit, config in _works(plan):
        check_fresh(plan.seed, max(EPISODES, plan.episodes), config.data.levels, [config])
        yield unit


def run(plan: BaselinesPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Train and measure what is missing."""
    for unit, config in _works(plan):
        ledger.do(unit, lambda unit=unit, config=config: _trained_and_measured(plan, unit, config, ledger))  # type: ignore[misc]
        bar.advance(info=unit["baseline"])


@dataclass(frozen=True)
class _Rival:
    """A predictor, if there is one, with the network behind it, if it has one, the hash of its file or folder, if it is
    kept, and who acts by it, if anyone can."""

    predictor: Predictor | None
    network: nn.Module | None = None
    agent: Callable[[Condition, gymnasium.Env], Agent] | None = None
    sha256: str | None = None


def _trained_and_measured(plan: BaselinesPlan, unit: dict[str, Any], config: Config, ledger: Ledger) -> dict[str, Any]:
    folder, levels = ledger.folder.parent / "data", config.data.levels
    data = own_data(config, folder)
    fresh = [str(fresh_data(level, folder, seed=plan.seed)) for level in levels]
    started = time.perf_counter()
    rival = _trained(plan, unit, config, data, ledger)
    values: dict[str, Any] = {
        "training_seconds": time.perf_counter() - started,
        "parameters": 0 if rival.network is None else trained_parameters(rival.network),
        **({"checkpoint": rival.sha256} if rival.sha256 else {}),
        "metrics": {}
        if rival.predictor is None
        else measure.measure(rival.predictor, held_out_frames(fresh), plan.samples),
    }
    if plan.episodes and rival.agent is not None:
        seeds = range(plan.seed, plan.seed + plan.episodes)
        values["play"] = played_everywhere(AgentSpec("policy"), levels, seeds, Player(), rival.agent)
    return values


def _trained(plan: BaselinesPlan, unit: dict[str, Any], config: Config, data: list[str], ledger: Ledger) -> _Rival:
    name, seed = unit["baseline"], unit["training_seed"]
    if name in ("any-order", "fixed ratio"):
        out = ledger.folder / "runs" / slug(f"{name}-{seed}-{unit['config'][:8]}")
        train_apart(plan.fixed_ratio if name == "fixed ratio" else plan.config, seeded(plan.set, seed), data, out)
        player = Player(out / "checkpoint")
        return _Rival(measure.any_order(player.model), player.model.network, player.agent, player.identity["sha256"])
    if name in UNTRAINED:
        return _Rival(measure.untrained(name))
    if name == MODEL_FREE:
        return _model_free(unit, config, data, ledger)
    frames = fitting.training_frames(data)
    if name == "empirical prior":
        return _Rival(measure.frequencies(frames, _COUNTED, np.random.default_rng(seed)))
    if name == "autoregressive":
        network, path = fitting.fit_autoregressive(config, frames), acting.place(name, config, ledger.folder.parent)
        acting.save_autoregressive(network, path)
        agent = acting.left_to_right(network)
        return _Rival(measure.left_to_right(network), network, lambda condition, env: agent, checkpoint_hash(path))
    if name == "convolutional":
        stepping = fitting.fit_steps(config, frames)
        return _Rival(measure.one_step(stepping), stepping)
    cloned, path = fitting.fit_cloning(config, frames), acting.place(name, config, ledger.folder.parent)
    save_cloning(cloned, path)
    agent = CloningAgent(cloned)
    return _Rival(measure.cloning(cloned), cloned, lambda condition, env: agent, saved_hash(f"cloning:{path}"))


def _model_free(unit: dict[str, Any], config: Config, data: list[str], ledger: Ledger) -> _Rival:
    """PPO in each real level for as many steps as the others' data hold of it; it predicts nothing, it only acts."""
    # Stable-Baselines3 is an extra, which no other baseline needs.
    from wmtoolkit.agents.policy_plan import PolicyTraining
    from wmtoolkit.agents.sb3_files import load_policy
    from wmtoolkit.agents.sb3_training import train_policy

    runs: dict[str, Path] = {}
    for level, path in zip(config.data.levels, data, strict=True):
        steps = int((fitting.training_frames([path]).lengths - 1).sum())
        runs[level] = ledger.folder / "runs" / slug(f"ppo-{level}-{unit['training_seed']}-{unit['config'][:8]}")
        training = PolicyTraining(
            level=level, mode="real", steps=steps, every=steps, episodes=1, seed=unit["training_seed"]
        )
        train_policy(training, runs[level], resume=True)
    network, _ = load_policy(runs[config.data.levels[0]])
    return _Rival(None, network, lambda condition, env: make_agent(f"sb3:{runs[condition.level]}", env=env))


def report(plan: BaselinesPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows: table ``runs`` a baseline and seed, ``variants`` the mean over seeds of each, ``not planned`` who is
    not among them."""
    runs: list[dict[str, Any]] = []
    for unit, _ in _works(plan):
        values = ledger.values(unit)
        if values is None:
            continue
        row = {"table": "runs", "variant": unit["baseline"], "training_seed": unit["training_seed"]}
        row |= {key: values[key] for key in ("parameters", "training_seconds", "checkpoint") if key in values}
        for name, entry in values["metrics"].items():
            low, high = entry["ci95"]
            row |= {name: entry["value"], f"{name}_low": low, f"{name}_high": high}
        if "play" in values:
            row |= success_entries("policy", values["play"])
            if note := raised("policy", values["play"]):
                row["note"] = note
        runs.append(row)
    means = [
        {"table": "variants", "variant": name, "seeds": len(own), **mean_over_seeds(own)}
        for name in plan.baselines
        if (own := [row for row in runs if row["variant"] == name])
    ]
    unplanned = [{"table": "not planned", "variant": name} for name in NAMES if name not in plan.baselines]
    return {}, [*runs, *means, *unplanned]
