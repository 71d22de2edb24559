"""Suites that train: ablations, and success against the amount of data. One row a finished run, several seeds each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wmtoolkit.benchmarks.baselines.acting import FITTED
from wmtoolkit.benchmarks.drift import open_loop
from wmtoolkit.benchmarks.fresh import EPISODES, check_fresh, fresh_data, own_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import FIRST_SEED, AgentSpec, fingerprint, seeded, slug
from wmtoolkit.benchmarks.play import Player, played_everywhere
from wmtoolkit.benchmarks.reporting.sections import short
from wmtoolkit.benchmarks.reporting.trainings import DRIFT
from wmtoolkit.data.plan import behaviour_shares
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.evaluate import evaluate
from wmtoolkit.progress import Bar
from wmtoolkit.training.config import Config, load_config

BRANCHES, HORIZON = 64, 8
"""Episodes in which imagination goes on alone, for so many steps, where ways of decoding are compared."""


@dataclass(frozen=True)
class Variant:
    """A training: a config by name or file, and entries to change, each ``a.b=value``."""

    name: str = "base"
    config: str = "ablation/base"
    set: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingsPlan:
    """Trainings that are compared with the first of them.

    Attributes:
        variants: what is trained; set: entries to change in all of them.
        seeds: of the trainings, one run each.
        samples: steps of each level that ``wmtool evaluate`` predicts, on fresh episodes of the first variant's levels.
        decoding: in how many rounds frames are filled in when the trained model imagines ``HORIZON`` steps alone; each
            of the list is tried, so that decoding is compared as trainings are.
        agents: play ``episodes`` of each of these levels with the trained model; rivals that are fitted are fitted on
            each variant's own data and budget.
    """

    variants: list[Variant] = field(default_factory=lambda: [Variant()])
    set: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    samples: int = 500
    decoding: list[int] = field(default_factory=list)
    agents: list[AgentSpec] = field(default_factory=list)
    episodes: int = 0
    seed: int = FIRST_SEED


def _runs(plan: TrainingsPlan) -> Iterator[tuple[Variant, int, Config]]:
    """Every run; seeds outside, so that an interrupted suite has all variants with fewer seeds."""
    for seed in plan.seeds:
        for variant in plan.variants:
            yield variant, seed, load_config(variant.config, _changes(plan, variant, seed))


def _changes(plan: TrainingsPlan, variant: Variant, seed: int) -> list[str]:
    return seeded([*plan.set, *variant.set], seed)


def trained_parameters(network: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(value.numel() for value in network.parameters() if value.requires_grad)


def _unit(plan: TrainingsPlan, variant: Variant, seed: int, config: Config) -> dict[str, Any]:
    return {
        "variant": variant.name,
        "training_seed": seed,
        "config": fingerprint(config),
        "samples": plan.samples,
        **({"decoding": plan.decoding} if plan.decoding else {}),
        "agents": [asdict(agent) for agent in plan.agents],
        "episodes": plan.episodes if plan.agents else 0,
        "seed": plan.seed,
    }


def units(plan: TrainingsPlan, player: Player) -> Iterator[dict[str, Any]]:
    """Every run of the plan.

    Raises:
        UserError: one would be measured on level seeds that it is trained on.
    """
    levels = next(_runs(plan))[2].data.levels
    for variant, seed, config in _runs(plan):
        check_fresh(plan.seed, max(EPISODES, plan.episodes), levels, [config])
        yield _unit(plan, variant, seed, config)


def run(plan: TrainingsPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Train and measure what is missing; a run that was interrupted goes on from its newest checkpoint."""
    levels = next(_runs(plan))[2].data.levels
    for variant, seed, config in _runs(plan):
        unit = _unit(plan, variant, seed, config)

        def work(
            variant: Variant = variant, seed: int = seed, config: Config = config, unit: dict[str, Any] = unit
        ) -> dict[str, Any]:
            out = ledger.folder / "runs" / slug(f"{variant.name}-{seed}-{unit['config'][:8]}")
            data = own_data(config, ledger.folder.parent / "data")
            result = train_apart(variant.config, _changes(plan, variant, seed), data, out)
            return {**result, **_measured(plan, variant, seed, levels, out / "checkpoint", ledger)}

        ledger.do(unit, work)
        bar.advance(info=f"{variant.name}, seed {seed}")


def train_apart(config: str, changes: Sequence[str], data: Sequence[str], out: Path) -> dict[str, Any]:
    """``wmtool train`` in a process of its own, so that runs do not share memory; an interrupt reaches it first.

    Returns:
        ``steps``, ``training_seconds``, ``best_validation_nll``.

    Raises:
        UserError: with the line that the training failed with.
    """
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", "train", "--config", config, "--out", str(out), "--json"]
    command += [part for change in changes for part in ("--set", change)]
    command += [part for path in data for part in ("--data", path)]
    command += ["--resume"] if (out / "config.yaml").is_file() else []
    environment = {**os.environ, "NO_COLOR": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        text, errors = process.communicate()
    except KeyboardInterrupt:
        process.wait()  # it was interrupted too and saves its state
        raise
    if process.returncode == 130:
        raise KeyboardInterrupt(f"interrupted in {out}")
    if process.returncode:
        said = [line for line in errors.splitlines() if line.startswith("wmtool: ")]
        raise UserError(said[-1].removeprefix("wmtool: ") if said else f"training failed: {errors[-300:]}")
    result = json.loads(text)
    return {
        "steps": result["step"],
        "training_seconds": result["seconds"],
        "best_validation_nll": result["best_validation_nll"],
    }


def _measured(
    plan: TrainingsPlan, variant: Variant, seed: int, levels: Sequence[str], checkpoint: Path, ledger: Ledger
) -> dict[str, Any]:
    """Metrics of ``wmtool evaluate`` on fresh episodes, and success of the plan's agents over all levels."""
    folder, found = ledger.folder.parent / "data", {}
    data = [str(fresh_data(level, folder, seed=plan.seed)) for level in levels]
    if plan.samples:
        found = {"metrics": evaluate(checkpoint, data, samples=plan.samples)["metrics"]}
    player = Player(checkpoint, ledger.folder.parent)
    for rounds in plan.decoding:
        drift = open_loop(player.model, [Path(one) for one in data], BRANCHES, HORIZON, plan.seed, rounds)["steps"]
        found[f"decoding/{rounds}"] = drift[-1]
    for agent in plan.agents:
        # A rival that is fitted gets the variant's own data, budget and seed.
        fitted = {"config": variant.config, "set": [*plan.set, *variant.set], "seed": seed}
        spec = replace(agent, settings={**(fitted if agent.agent in FITTED else {}), **agent.settings})
        seeds = range(plan.seed, plan.seed + plan.episodes)
        found[f"play/{agent.name}"] = played_everywhere(spec, levels, seeds, player)
    return {**found, "parameters": trained_parameters(player.model.network), "checkpoint": player.identity["sha256"]}


def success_entries(agent: str, played: Mapping[str, Any]) -> dict[str, Any]:
    """Success of ``played_everywhere`` as entries of a flat row: over all levels, and in each."""
    parts = {agent: played} | {f"{agent}, {short(level)}": own for level, own in played.get("levels", {}).items()}
    row: dict[str, Any] = {}
    for name, own in parts.items():
        for key in ("success_rate", "success_rate_low", "success_rate_high", "mean_episode_length"):
            if key in own:
                metric, _, end = key.partition("_rate")
                row[f"success_rate/{name}{end}" if metric == "success" else f"{key}/{name}"] = own[key]
    return row


def report(plan: TrainingsPlan, player: Player, ledger: Ledger) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rows: table ``runs`` a run, and ``variants`` a variant: each metric's mean over its seeds.

    The interval of a mean is the range over seeds where there are several, and the run's own where there is one.
    """
    runs: list[dict[str, Any]] = []
    for variant, seed, config in _runs(plan):
        values = ledger.values(_unit(plan, variant, seed, config))
        if values is None:
            continue
        row = {"table": "runs", "variant": variant.name, "training_seed": seed, "data_episodes": config.data.episodes}
        recorded = config.data.episodes * len(config.data.levels)
        shown = recorded * behaviour_shares(config.data.policy).get("bot", 0.0)
        row |= {"real_episodes": recorded, "demonstrations": shown}
        row |= {name: values[name] for name in ("parameters", "steps", "training_seconds", "best_validation_nll")}
        for name, entry in values.get("metrics", {}).items():
            low, high = entry["ci95"]
            row |= {name: entry["value"], f"{name}_low": low, f"{name}_high": high}
        for rounds in plan.decoding:
            drift = values[f"decoding/{rounds}"]
            name = f"{DRIFT}{drift['horizon']}/{rounds}"
            row |= {f"{name}{end}": drift[f"known_frame_exact{end}"] for end in ("", "_low", "_high")}
        row |= {"checkpoint": values["checkpoint"]} if "checkpoint" in values else {}
        for agent in plan.agents:
            row |= success_entries(agent.name, values[f"play/{agent.name}"])
        if notes := [note for agent in plan.agents if (note := raised(agent.name, values[f"play/{agent.name}"]))]:
            row["note"] = "; ".join(notes)
        runs.append(row)
    rows = list(runs)
    for variant in plan.variants:
        own = [row for row in runs if row["variant"] == variant.name]
        if own:
            rows.append({"table": "variants", "variant": variant.name, "seeds": len(own), **mean_over_seeds(own)})
    return {}, rows


def raised(agent: str, played: Mapping[str, Any]) -> str:
    """A remark on an agent that raised in some of its episodes, which count as failed, or could not play in some
    level; empty if it did neither."""
    said = [f"could not play in {why}" for why in played.get("left_out", [])]
    if played.get("errors"):
        said.append(f"raised in {played['errors']} of {played['n']} episodes: {played['error']}")
    return f"{agent} {', '.join(said)}" if said else ""


def mean_over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each metric's mean over runs; its interval is their range, or a single run's own."""
    row: dict[str, Any] = {}
    skipped = ("table", "variant", "training_seed", "checkpoint", "note")
    if notes := [run["note"] for run in runs if "note" in run]:
        row["note"] = "; ".join(notes)
    for name in dict.fromkeys(name for run in runs for name in run):
        own = [run for run in runs if run.get(name) is not None]
        if name in skipped or name.endswith(("_low", "_high")) or not own:
            continue
        values = np.array([run[name] for run in own], dtype=np.float64)
        row[name] = float(values.mean())
        if len(own) > 1:
            row |= {f"{name}_low": float(values.min()), f"{name}_high": float(values.max())}
        elif f"{name}_low" in own[0]:
            row |= {f"{name}_low": own[0][f"{name}_low"], f"{name}_high": own[0][f"{name}_high"]}
    return row
