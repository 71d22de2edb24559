"""Recording a plan's shards, here or in several processes. Shards that are there already are left as they are."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data.behaviours import Actor
from wmtoolkit.data.files import writing
from wmtoolkit.data.levels import make_level
from wmtoolkit.data.plan import CollectionPlan
from wmtoolkit.data.recording import record_episode
from wmtoolkit.data.shards import read_shard, write_shard
from wmtoolkit.errors import UserError
from wmtoolkit.progress import progress

SHARD_EPISODES = 100

MakeAgent = Callable[[str, Any], Any]
"""(agent name, the level it will act in) -> an object with ``reset(seed)`` and ``act(observation) -> int``."""


def shards(plan: CollectionPlan) -> Iterator[tuple[int, range]]:
    """Number and episodes of each shard; they do not depend on the number of workers."""
    for number, first in enumerate(range(0, plan.episodes, SHARD_EPISODES)):
        yield number, range(first, min(first + SHARD_EPISODES, plan.episodes))


def shard_path(work: Path, number: int) -> Path:
    """File of a shard in a collection's work folder."""
    return work / f"shard-{number:06d}.npz"


class ShardRecorder:
    """Holds the level, and the agent if there is one, through all shards that a process records."""

    def __init__(self, plan: CollectionPlan, make_agent: MakeAgent | None) -> None:
        self.plan = plan
        self._env: Any = make_level(plan.level)
        self._agent = None
        if plan.agent is not None:
            if make_agent is None:
                raise UserError(f"policy {plan.agent!r} is unknown, and no make_agent was given")
            self._agent = make_agent(plan.agent, self._env)

    def record(self, part: range, path: Path, advance: Callable[[float], None] = lambda episodes: None) -> int:
        """Record the episodes ``part`` of the plan and write them as one shard; returns the number of steps."""
        plan = self.plan
        behaviours, shares = list(plan.shares), list(plan.shares.values())
        trajectories = []
        errors: Counter[str] = Counter()
        for index in part:
            rng = np.random.default_rng([plan.seed, index])
            behaviour = behaviours[rng.choice(len(behaviours), p=shares)]
            seed = plan.seed + index
            recording = record_episode(
                self._env,
                seed,
                behaviour,
                rng,
                make_actor=partial(_agent_actor, self._agent, seed) if behaviour == "agent" else None,
                level=plan.level_id,
                max_steps=plan.max_steps,
                seconds=plan.seconds,
            )
            if recording.error is not None:
                errors[f"{behaviour}: {recording.error}"] += 1
            if recording.trajectory is not None:
                trajectories.append(recording.trajectory)
            advance(1)
        with writing(path):
            write_shard(path, trajectories, dict(errors))
        return sum(len(trajectory) for trajectory in trajectories)


def _agent_actor(agent: Any, seed: int, env: Any, rng: np.random.Generator) -> Actor:
    agent.reset(seed)
    return lambda observation, previous: int(agent.act(observation))


def record_shards(work: Path, plan: CollectionPlan, workers: int, make_agent: MakeAgent | None) -> Generator[Path]:
    """Record every shard that is not in the work folder yet; yields each shard, in order, as soon as it is there.

    Closing the generator stops the work; shards that are being recorded are finished.

    Raises:
        UserError: a file cannot be written, or a process died.
    """
    missing = [(number, part) for number, part in shards(plan) if not _is_whole(shard_path(work, number))]
    todo = sum(len(part) for _, part in missing)
    with progress(f"collecting {plan.level_id}", plan.episodes, plan.episodes - todo) as bar:
        if workers == 1 or len(missing) < 2:
            finished = _record_here(work, plan, missing, make_agent, bar.advance)
        else:
            finished = _record_in_processes(work, plan, missing, workers, make_agent, bar.advance)
        absent = {number for number, _ in missing}
        with contextlib.closing(finished):
            for number, _ in shards(plan):
                while number in absent:
                    absent.discard(next(finished))
                yield shard_path(work, number)


def _is_whole(path: Path) -> bool:
    try:
        read_shard(path)
    except UserError:
        path.unlink(missing_ok=True)
        return False
    return True


def _record_here(
    work: Path,
    plan: CollectionPlan,
    missing: list[tuple[int, range]],
    make_agent: MakeAgent | None,
    advance: Callable[[float], None],
) -> Generator[int]:
    recorder = ShardRecorder(plan, make_agent) if missing else None
    for number, part in missing:
        assert recorder is not None
        recorder.record(part, shard_path(work, number), advance)
        yield number


def _record_in_processes(
    work: Path,
    plan: CollectionPlan,
    missing: list[tuple[int, range]],
    workers: int,
    make_agent: MakeAgent | None,
    advance: Callable[[float], None],
) -> Generator[int]:
    pool = ProcessPoolExecutor(min(workers, len(missing)), _context(), _follow_parent)
    try:
        waiting: dict[Future[int], tuple[int, range]] = {
            pool.submit(_record_in_worker, plan, part, shard_path(work, number), make_agent): (number, part)
            for number, part in missing
        }
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                future.result()
                number, part = waiting.pop(future)
                advance(len(part))
                yield number
    except BrokenProcessPool:
        raise UserError(
            f"a collecting process died (killed, or out of memory); finished shards are kept in {work}, "
            "go on with --resume"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How worker processes start: never by a fork of this one, which may hang where torch has started threads.

    A fork server that has read this module already starts them in milliseconds, also for the next level.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _follow_parent() -> None:
    """In a worker: leave interrupts to the parent, which keeps what is finished, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


_recorder: ShardRecorder | None = None
"""A worker process's recorder, kept from shard to shard."""


def _record_in_worker(plan: CollectionPlan, part: range, path: Path, make_agent: MakeAgent | None) -> int:
    global _recorder
    if _recorder is None or _recorder.plan != plan:
        _recorder = ShardRecorder(plan, make_agent)
    return _recorder.record(part, path)
