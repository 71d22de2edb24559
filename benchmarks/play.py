"""Episodes of agents under conditions: which level, real or imagined, how badly seen, with or without belief."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from wmtoolkit.agents import Agent, make_agent
from wmtoolkit.agents.registry import SAVED, needs
from wmtoolkit.benchmarks.baselines.acting import FITTED, config_of, fitted_agent
from wmtoolkit.benchmarks.baselines.convolutional import CloningAgent, load_cloning
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.lanes import AGENTS, LANES, run_lanes
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import AgentSpec, fingerprint
from wmtoolkit.benchmarks.rollouts import IMAGINED, EpisodeResult, check_perfect, counts, run_episode, saved_hash
from wmtoolkit.data import open_store
from wmtoolkit.data.splits import in_ranges
from wmtoolkit.envs.belief import BeliefCompletion
from wmtoolkit.envs.observability import PartialObservability
from wmtoolkit.envs.real import make_real_env
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.held_out import check_store, training_record
from wmtoolkit.evaluation.intervals import Tally, bootstrap_mean, wilson
from wmtoolkit.progress import Bar
from wmtoolkit.world.checkpoint import checkpoint_hash
from wmtoolkit.world.model import AnyOrderWorldModel

CLONING = "cloning:"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Condition:
    """Under what an agent plays.

    Attributes:
        level: id of the level; agent: who acts.
        imagined: in the world model instead of the level; temperature: of what is imagined. What was never seen has to
            be drawn: the likeliest view of what lies behind a door is an empty one; start: where imagination begins,
            see ``envs.starts``.
        corruption: options of ``PartialObservability``; empty: the agent sees what the level shows.
        belief: the world model fills in what is hidden before the agent sees it.
    """

    level: str
    agent: AgentSpec
    imagined: bool = False
    temperature: float = 1.0
    start: str = "level"
    corruption: Mapping[str, Any] = field(default_factory=dict)
    belief: bool = False


class Player:
    """Plays conditions with one checkpoint, which is loaded when it is first needed.

    Args:
        checkpoint: folder; None for the packaged one.
        folder: of the suites, where fitted baselines are kept.
    """

    def __init__(self, checkpoint: Path | None = None, folder: Path = Path("bench")) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        self._hashes: dict[str, str | None] = {}

    @cached_property
    def model(self) -> AnyOrderWorldModel:
        """The world model."""
        return AnyOrderWorldModel.from_pretrained(self.checkpoint)

    @cached_property
    def train_seeds(self) -> Mapping[str, Any] | None:
        """Ranges of level seeds that the checkpoint was trained on, by level; None if that is not recorded."""
        record = training_record(self.model)
        return record["train_seeds"] if record else None

    @cached_property
    def identity(self) -> dict[str, str]:
        """Path and hash of the checkpoint."""
        assert self.model.path is not None
        return {"path": str(self.checkpoint or "packaged"), "sha256": checkpoint_hash(self.model.path)}

    def uses_model(self, condition: Condition) -> bool:
        """Whether the condition's outcome depends on the checkpoint."""
        name = condition.agent.agent
        apart = name in FITTED or name.startswith(CLONING)
        acts_by_it = not apart and "world_model" in needs(name)
        return condition.imagined or condition.belief or acts_by_it

    def unit(self, condition: Condition, seed: int) -> dict[str, Any]:
        """What names an episode in a ledger: with the checkpoint's hash, a fitted agent's config's or a saved agent's
        file's, where that matters."""
        spec = condition.agent
        fitted = fingerprint(config_of(spec.settings)) if spec.agent in FITTED else None
        return {
            "level": condition.level,
            "agent": spec.agent,
            "settings": dict(spec.settings),
            "imagined": condition.imagined,
            **({"temperature": condition.temperature} if condition.imagined else {}),
            **({"start": condition.start} if condition.imagined and condition.start != "level" else {}),
            "corruption": dict(condition.corruption),
            "belief": condition.belief,
            "checkpoint": self.identity["sha256"] if self.uses_model(condition) else None,
            **({"config": fitted} if fitted else {}),
            **({"file": self._saved(spec.agent)} if spec.agent.startswith((f"{SAVED}:", CLONING)) else {}),
            "seed": seed,
        }

    def _saved(self, agent: str) -> str | None:
        if agent not in self._hashes:
            self._hashes[agent] = saved_hash(agent)
        return self._hashes[agent]

    def play(self, condition: Condition, seeds: Sequence[int], ledger: Ledger, bar: Bar) -> None:
        """Play the episodes that the ledger does not hold yet.

        An agent or a level that cannot be made fails the first of them; a level that raises, that episode alone.
        """
        units = [self.unit(condition, seed) for seed in seeds]
        todo = [(seed, unit) for seed, unit in zip(seeds, units, strict=True) if not ledger.done(unit)]
        bar.advance(len(seeds) - len(todo))
        if not todo:
            return
        if condition.imagined and condition.agent.agent in AGENTS and not (condition.belief or condition.corruption):
            batches = [todo[first : first + LANES] for first in range(0, len(todo), LANES)]
            todo = [left for batch in batches for left in self._play_lanes(condition, batch, ledger, bar)]
            if not todo:
                return
        with contextlib.ExitStack() as stack:
            try:
                env = stack.enter_context(self.environment(condition))
                agent = self.agent(condition, env)
            except Exception as error:
                ledger.fail(todo[0][1], error)
                return
            for seed, unit in todo:
                ledger.do(unit, partial(_episode, agent, env, seed))
                bar.advance(info=f"{condition.level}: {condition.agent.name}")

    def _play_lanes(
        self, condition: Condition, todo: Sequence[tuple[int, dict[str, Any]]], ledger: Ledger, bar: Bar
    ) -> list[tuple[int, dict[str, Any]]]:
        """Play imagined episodes at once; returns those that are left where anything was raised: one by one, it can be
        told whose they were."""
        units, started = dict(todo), time.perf_counter()
        try:
            env: Any = gymnasium.make_vec(
                IMAGINED,
                num_envs=len(units),
                level=condition.level,
                checkpoint=self.model,
                start=condition.start,
                temperature=condition.temperature,
                autoreset_mode=AutoresetMode.DISABLED,
            )
            with contextlib.closing(env):
                spec = condition.agent
                agents = [make_agent(spec.agent, spec.settings, world_model=self.model) for _ in units]
                for result in run_lanes(agents, env, list(units)):
                    now = time.perf_counter()
                    ledger.write(units.pop(result.seed), _values(result), now - started)
                    started = now
                    bar.advance(info=f"{condition.level}: {condition.agent.name}")
        except Exception as error:
            _log.debug("episodes at once: %d are left to be played one by one", len(units), exc_info=error)
        return list(units.items())

    def agent(self, condition: Condition, env: gymnasium.Env) -> Agent:
        """The condition's agent, for its environment: by name, one of ``FITTED``, or ``cloning:FILE``."""
        name = condition.agent.agent
        check_perfect(name, imagined=condition.imagined, masked=bool(condition.corruption))
        if name in FITTED:
            return fitted_agent(name, condition.agent.settings, self.folder)
        if name.startswith(CLONING):
            return CloningAgent(load_cloning(Path(name.removeprefix(CLONING))), **condition.agent.settings)
        model = self.model if self.uses_model(condition) else None
        return make_agent(name, condition.agent.settings, world_model=model, env=env)

    @contextlib.contextmanager
    def environment(self, condition: Condition) -> Iterator[gymnasium.Env]:
        """The environment that a condition describes."""
        env: gymnasium.Env
        if condition.imagined:
            env = gymnasium.make(
                IMAGINED,
                level=condition.level,
                checkpoint=self.model,
                start=condition.start,
                temperature=condition.temperature,
                disable_env_checker=True,
            )
        else:
            env = make_real_env(condition.level)
        try:
            if condition.corruption:
                env = PartialObservability(env, **condition.corruption)
            if condition.belief:
                env = BeliefCompletion(env, self.model)
            yield env
        finally:
            env.close()

    def fresh_data(self, level: str, seed: int) -> Path:
        """Fresh episodes of a level below the suites' folder.

        Raises:
            UserError: the checkpoint was trained on level seeds of their test split.
        """
        path = fresh_data(level, self.folder / "data", seed=seed)
        if record := training_record(self.model):
            check_store(open_store([path], "test"), record)
        return path

    def seeds(self, level: str, first: int, count: int) -> list[int]:
        """``count`` level seeds from ``first`` on, without those that the checkpoint was trained on."""
        trained = (self.train_seeds or {}).get(level, [])
        return [seed for seed in range(first, first + count) if not in_ranges(seed, trained)]


def _episode(agent: Agent, env: gymnasium.Env, seed: int) -> dict[str, Any]:
    return _values(run_episode(agent, env, seed))


def _values(result: EpisodeResult) -> dict[str, Any]:
    return {key: value for key, value in asdict(result).items() if key != "seed"}


def left_out(seeds: Sequence[int], count: int) -> dict[str, str]:
    """A remark for a row of which seeds were left out; empty if none was."""
    missing = count - len(seeds)
    return {"note": f"{missing} of {count} seeds were trained on and left out"} if missing else {}


def episodes(player: Player, condition: Condition, seeds: Sequence[int], ledger: Ledger) -> list[dict[str, Any]]:
    """Finished episodes of a condition in order of their seeds; those not played are missing."""
    found = []
    for seed in seeds:
        values = ledger.values(player.unit(condition, seed))
        if values is not None:
            found.append({"seed": seed, **values})
    return found


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Flat summary of episodes: success rate with its Wilson interval, mean return and length with bootstrap ones."""
    if not found:
        return {"n": 0}
    success = np.array([item["success"] for item in found])
    low, high = wilson(int(success.sum()), len(success))
    row: dict[str, Any] = {
        "n": len(found),
        "success_rate": float(success.mean()),
        "success_rate_low": low,
        "success_rate_high": high,
    }
    for name, key in (("mean_return", "episode_return"), ("mean_episode_length", "length")):
        values = np.array([item[key] for item in found if counts(name, item["error"])], dtype=np.float64)
        row |= dict.fromkeys((name, f"{name}_low", f"{name}_high"))
        if len(values):
            low, high = bootstrap_mean(values, np.random.default_rng(0))
            row |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    decisions = sum(item["decisions"] for item in found)
    row["milliseconds_per_decision"] = 1000 * sum(item["seconds"] for item in found) / max(decisions, 1)
    row["slowest_decision_milliseconds"] = 1000 * max(item["slowest"] for item in found)
    passes, each = (np.array([item[key] for item in found]) for key in ("forward_passes", "decisions"))
    row["forward_passes_per_decision"] = float(passes.sum() / max(decisions, 1))
    if decisions:
        low, high = Tally("mean", passes.astype(np.float64), each.astype(np.float64), each).interval()
        row |= {"forward_passes_per_decision_low": low, "forward_passes_per_decision_high": high}
    row["forward_passes_per_episode"] = float(passes.mean())
    errors = [item["error"] for item in found if item["error"]]
    row |= {"errors": len(errors), "error": errors[0] if errors else None}
    return row


def played_everywhere(
    agent: AgentSpec,
    levels: Sequence[str],
    seeds: Sequence[int],
    player: Player,
    make: Callable[[Condition, gymnasium.Env], Agent] | None = None,
) -> dict[str, Any]:
    """Summary of an agent's episodes on the same seeds of each level, and in ``levels`` one of each.

    An agent that cannot play in a level, as a ``UserError`` says, plays none there, and ``left_out`` says why.

    Args:
        make: makes the agent; ``player`` by default.
    """
    each: dict[str, list[dict[str, Any]]] = {}
    left_out: list[str] = []
    for level in levels:
        condition = Condition(level, agent)
        each[level] = []
        try:
            with player.environment(condition) as env:
                acting = (make or player.agent)(condition, env)
                each[level] = [asdict(run_episode(acting, env, seed)) for seed in seeds]
        except UserError as error:
            left_out.append(f"{level}: {error}")
    whole = summary([item for own in each.values() for item in own])
    return {**whole, "left_out": left_out, "levels": {level: summary(own) for level, own in each.items()}}


def flat(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Value and interval of a metric as entries of a flat row."""
    low, high = entry["ci95"] or (None, None)
    return {name: entry["value"], f"{name}_low": low, f"{name}_high": high}
