"""Collecting: many episodes of a level, in several processes, into one Minari dataset.

Episode i of a dataset is reset by the level seed ``seed + i`` and acts by a random stream of (seed, i), so the result
does not depend on the number of workers, on the order they finish in, or on an interruption.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data import hdf5
from wmtoolkit.data.behaviours import Actor, has_bot
from wmtoolkit.data.datasets import DATASET_ID, PACKED, dataset_path, datasets_root, read_metadata, write_source
from wmtoolkit.data.files import only_one, read_json, whole_folder, write_json
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.data.metadata import dataset_metadata, write_card
from wmtoolkit.data.recording import record_episode
from wmtoolkit.data.shards import read_shard, write_shard
from wmtoolkit.data.splits import SplitRule
from wmtoolkit.data.store import StoreWriter
from wmtoolkit.data.views import speed_up
from wmtoolkit.errors import UserError
from wmtoolkit.progress import progress
from wmtoolkit.world.trajectory import BEHAVIOURS

DEFAULT_MIX: dict[str, float] = {"bot": 0.30, "noisy": 0.15, "random": 0.15, "tour": 0.40}
POLICIES: tuple[str, ...] = ("mix", "bot", "noisy", "random", "tour")
SHARD_EPISODES = 200

MakeAgent = Callable[[str, Any], Any]
"""(agent name, level) -> an object with ``reset(seed)`` and ``act(observation) -> int``."""


@dataclass(frozen=True)
class CollectionPlan:
    """All that determines a dataset's content."""

    level: str
    episodes: int
    shares: dict[str, float]
    seed: int = 0
    agent: str | None = None
    max_steps: int | None = None
    seconds: float = 30.0
    split: SplitRule = field(default_factory=SplitRule)

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UserError(f"{self.episodes} episodes: collect at least 1")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: give a number from 0 on")
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps {self.max_steps}: give at least 1")
        unknown = set(self.shares) - set(BEHAVIOURS)
        if unknown:
            raise UserError(f"unknown behaviour {', '.join(sorted(unknown))}; known: {', '.join(BEHAVIOURS)}")
        if min(self.shares.values()) < 0 or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise UserError(f"behaviour shares {self.shares}: give numbers from 0 to 1 that add up to 1")

    def document(self) -> dict[str, Any]:
        """The plan as written down in the dataset."""
        return {**asdict(self), "split": self.split.document()}


def behaviour_shares(policy: str, shares: Mapping[str, float] | None = None) -> dict[str, float]:
    """Behaviour shares that a policy name stands for; ``shares`` replaces the default mix."""
    if policy == "mix":
        return dict(shares or DEFAULT_MIX)
    if shares:
        raise UserError(f"behaviour shares go with the policy mix, not with {policy!r}")
    return {policy if policy in POLICIES else "agent": 1.0}


def default_dataset_id(level: str, policy: str) -> str:
    """Minari id of a level's dataset, e.g. ``wmtoolkit/BabyAI-GoToLocal/mixed-v0``."""
    name = level.rpartition(":")[2].rpartition("/")[2]
    stem, _, version = name.rpartition("-v")
    kind = "mixed" if policy == "mix" else policy if policy in POLICIES else "agent"
    return f"wmtoolkit/{stem if version.isdigit() else name}/{kind}-v0"


def collect(
    level: str,
    episodes: int,
    *,
    policy: str = "mix",
    seed: int = 0,
    workers: int = 1,
    out: str | Path | None = None,
    shares: Mapping[str, float] | None = None,
    split: SplitRule | None = None,
    max_steps: int | None = None,
    seconds: float = 30.0,
    resume: bool = False,
    overwrite: bool = False,
    make_agent: MakeAgent | None = None,
    command: str | None = None,
) -> Path:
    """Record episodes of a level into a Minari dataset.

    Args:
        level: a registered MiniGrid/BabyAI id, or ``module:Id``.
        episodes: how many; episode i is reset by the level seed ``seed + i``.
        policy: ``mix``, one of bot, noisy, random, tour, or an agent's name that ``make_agent`` knows.
        seed: first level seed, and seed of all that is drawn.
        workers: processes; the result is the same whatever their number. With more than one, ``make_agent`` must be
            a function of an importable module.
        out: Minari id or folder; by default ``wmtoolkit/<Level>/<behaviour>-v0`` under ``MINARI_DATASETS_PATH``.
        shares: shares of the behaviours in ``mix``, adding up to 1; default ``DEFAULT_MIX``.
        split: how episodes are divided; by default 90/5/5 by the level seed.
        max_steps: cut episodes after so many actions; None for the level's own limit.
        seconds: wall-clock limit of one episode; one that takes longer is counted and left out.
        resume: go on with an interrupted collection into ``out``.
        overwrite: replace a dataset that is there.
        make_agent: makes the agent of another policy: ``make_agent(name, level)``.
        command: what to write down as the command that made the dataset.

    Returns:
        The dataset's folder.

    Raises:
        UserError: a wrong argument, an output that is taken, or a collection that belongs to other arguments.
    """
    plan = CollectionPlan(
        level=level,
        episodes=episodes,
        shares=behaviour_shares(policy, shares),
        seed=seed,
        agent=None if policy in POLICIES else policy,
        max_steps=max_steps,
        seconds=seconds,
        split=split or SplitRule(),
    )
    if plan.agent is not None and make_agent is None:
        raise UserError(f"policy {policy!r} is not one of {', '.join(POLICIES)}, and no make_agent was given")
    if workers < 1:
        raise UserError(f"{workers} workers: give at least 1")
    check_plan(plan)
    name = out if out is not None else default_dataset_id(level, policy)
    path = dataset_path(name)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give a folder or a dataset id")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        if resume and _is_complete(path, plan):
            return path
        raise UserError(f"{path} is not empty; choose another --out or add --overwrite to replace it")
    work = path.with_name(f".{path.name}.collecting")
    work.mkdir(parents=True, exist_ok=True)
    with only_one(work, "collecting"):
        _prepare(work, plan, resume, overwrite)
        _record(work, plan, workers, make_agent)
        _assemble(work, path, plan, name, overwrite, command)
        shutil.rmtree(work)
    return path


def check_plan(plan: CollectionPlan) -> None:
    """Make the level once; ``UserError`` if it is unknown, has other observations, or no bot can play it."""
    env = make_level(plan.level)
    needs_bot = plan.shares.get("bot", 0) + plan.shares.get("noisy", 0) > 0
    if needs_bot:
        reset_level(env, plan.seed)
        if not has_bot(env):
            raise UserError(
                f"level {plan.level!r} has neither a BabyAI instruction nor a goal square, so no bot plays it; "
                "collect with --policy random or tour"
            )
    env.close()


def _is_complete(path: Path, plan: CollectionPlan) -> bool:
    try:
        return read_metadata(path)["wmtoolkit"]["plan"] == plan.document()
    except (UserError, KeyError):
        return False


def _prepare(work: Path, plan: CollectionPlan, resume: bool, overwrite: bool) -> None:
    """Leave the work folder with this plan and only those shards that belong to it."""
    found = work / "plan.json"
    if found.exists() and not overwrite:
        if not resume:
            raise UserError(
                f"{work} holds an interrupted collection; add --resume to go on or --overwrite to start anew"
            )
        if read_json(found) != plan.document():
            raise UserError(f"{work} holds a collection of other arguments; add --overwrite to start anew")
        return
    for shard in work.glob("shard-*"):
        shard.unlink()
    write_json(found, plan.document())


def _shards(plan: CollectionPlan) -> Iterator[tuple[int, range]]:
    for number, first in enumerate(range(0, plan.episodes, SHARD_EPISODES)):
        yield number, range(first, min(first + SHARD_EPISODES, plan.episodes))


def _shard_path(work: Path, number: int) -> Path:
    return work / f"shard-{number:06d}.npz"


def _is_whole(path: Path) -> bool:
    try:
        read_shard(path)
    except UserError:
        path.unlink(missing_ok=True)
        return False
    return True


def _record(work: Path, plan: CollectionPlan, workers: int, make_agent: MakeAgent | None) -> None:
    """Record every shard that is not there yet."""
    missing = [(number, part) for number, part in _shards(plan) if not _is_whole(_shard_path(work, number))]
    todo = sum(len(part) for _, part in missing)
    with progress(f"collecting {plan.level}", plan.episodes, plan.episodes - todo) as bar:
        try:
            if workers == 1 or len(missing) < 2:
                for number, part in missing:
                    record_shard(plan, part, _shard_path(work, number), make_agent, bar.advance)
            else:
                _record_in_processes(work, plan, missing, workers, make_agent, bar.advance)
        except KeyboardInterrupt:
            done = len(list(work.glob("shard-*.npz")))
            raise KeyboardInterrupt(
                f"interrupted; {done} of {len(list(_shards(plan)))} shards are kept in {work}, go on with --resume"
            ) from None


def _record_in_processes(
    work: Path,
    plan: CollectionPlan,
    missing: list[tuple[int, range]],
    workers: int,
    make_agent: MakeAgent | None,
    advance: Callable[[float], None],
) -> None:
    # spawn: a fork of a process that has torch's threads may hang
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=get_context("spawn")) as pool:
        waiting: dict[Future[None], int] = {
            pool.submit(record_shard, plan, part, _shard_path(work, number), make_agent): len(part)
            for number, part in missing
        }
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    future.result()
                    advance(waiting.pop(future))
        except BrokenProcessPool:
            raise UserError(
                f"a collecting process died (killed, or out of memory); finished shards are kept in {work}, "
                "go on with --resume"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def record_shard(
    plan: CollectionPlan,
    part: range,
    path: Path,
    make_agent: MakeAgent | None = None,
    advance: Callable[[float], None] = lambda episodes: None,
) -> None:
    """Record the episodes of one shard and write its file."""
    env: Any = make_level(plan.level)
    speed_up(env)
    level = plan.level.rpartition(":")[2]
    agent = make_agent(plan.agent, plan.level) if make_agent is not None and plan.agent is not None else None
    behaviours, shares = list(plan.shares), list(plan.shares.values())
    trajectories = []
    errors: Counter[str] = Counter()
    for index in part:
        seed = plan.seed + index
        rng = np.random.default_rng([plan.seed, index])
        behaviour = behaviours[rng.choice(len(behaviours), p=shares)]
        recording = record_episode(
            env,
            seed,
            behaviour,
            rng,
            make_actor=None if agent is None else lambda env, rng, seed=seed: _agent_actor(agent, seed),
            level=level,
            max_steps=plan.max_steps,
            seconds=plan.seconds,
        )
        if recording.error is not None:
            errors[f"{behaviour}: {recording.error}"] += 1
        if recording.trajectory is not None:
            trajectories.append(recording.trajectory)
        advance(1)
    env.close()
    write_shard(path, trajectories, dict(errors))


def _agent_actor(agent: Any, seed: int) -> Actor:
    agent.reset(seed)
    return lambda observation, previous: int(agent.act(observation))


def _assemble(
    work: Path, path: Path, plan: CollectionPlan, name: str | Path, overwrite: bool, command: str | None
) -> None:
    """Turn the shards into the dataset: HDF5 file, metadata, packed store and card."""
    errors: Counter[str] = Counter()
    dataset_id = str(name)
    if not DATASET_ID.fullmatch(dataset_id) or path != datasets_root() / dataset_id:
        kind = "mixed" if len(plan.shares) > 1 else next(iter(plan.shares))
        dataset_id = default_dataset_id(plan.level, "mix" if kind == "mixed" else kind)
    with whole_folder(path, overwrite=overwrite) as folder:
        (folder / "data").mkdir()
        (folder / PACKED).mkdir()
        source = folder / "data" / hdf5.FILE_NAME
        with hdf5.EpisodeWriter(source) as writer, StoreWriter(folder / PACKED) as packed:
            for number, _ in _shards(plan):
                trajectories, shard_errors = read_shard(_shard_path(work, number))
                errors.update(shard_errors)
                for trajectory in trajectories:
                    where = f"{path}: episode of level seed {trajectory.seed}"
                    trajectory.validate(where)
                    split = plan.split.assign(trajectory.seed, trajectory.mission)
                    packed.add(trajectory, split, writer.episodes)
                    writer.add(trajectory, split)
            if not writer.episodes:
                raise UserError(
                    f"not one of {plan.episodes} episodes of {plan.level} could be recorded: {dict(errors)}"
                )
        write_source(folder / PACKED, source)
        facts = {
            "plan": plan.document(),
            "level": plan.level.rpartition(":")[2],
            "split": plan.split.document(),
            "errors": dict(sorted(errors.items())),
            "fingerprint": packed.fingerprint,
            "command": command or " ".join(sys.argv),
        }
        metadata = dataset_metadata(
            dataset_id, plan.level, writer.episodes, writer.steps, facts, source.stat().st_size / 1e6
        )
        write_json(folder / "data" / "metadata.json", metadata)
        write_card(folder, metadata)
