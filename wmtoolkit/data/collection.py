"""Collecting: many episodes of a level, in several processes, into one Minari dataset.

Episode i of a dataset is reset by the level seed ``seed + i`` and acts by a random stream of (seed, i), so the result
does not depend on the number of workers, on the order they finish in, or on an interruption.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from wmtoolkit.data import hdf5
from wmtoolkit.data.datasets import DATASET_ID, PACKED, dataset_path, datasets_root, read_metadata, write_source
from wmtoolkit.data.files import only_one, read_json, whole_folder, write_json, writing
from wmtoolkit.data.metadata import dataset_metadata, write_card
from wmtoolkit.data.plan import EPISODE_SECONDS, POLICIES, CollectionPlan, behaviour_shares, check_plan
from wmtoolkit.data.shards import read_shard
from wmtoolkit.data.splits import SplitRule
from wmtoolkit.data.store import EpisodeStore, StoreWriter
from wmtoolkit.data.workers import MakeAgent, record_shards, shards
from wmtoolkit.errors import UserError
from wmtoolkit.interrupts import repeated_interrupts


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
    seconds: float = EPISODE_SECONDS,
    resume: bool = False,
    overwrite: bool = False,
    make_agent: MakeAgent | None = None,
    weights: str | None = None,
    command: str | None = None,
) -> Path:
    """Record episodes of a level into a Minari dataset.

    Args:
        level: a registered MiniGrid/BabyAI id, or ``module:Id``.
        episodes: how many; episode i is reset by the level seed ``seed + i``.
        policy: ``mix``, one of bot, noisy, random, tour, or an agent's name that ``make_agent`` knows.
        seed: first level seed, and seed of all that is drawn.
        workers: processes; the result is the same whatever their number. With more than one, a script calls this
            under ``if __name__ == "__main__":``, and ``make_agent`` is a function of an importable module.
        out: Minari id or folder; by default ``wmtoolkit/<Level>/<behaviour>-v0`` under ``MINARI_DATASETS_PATH``.
        shares: shares of the behaviours, adding up to 1; by default ``DEFAULT_MIX``, or 1 of ``agent`` where the
            policy is an agent's name.
        split: how episodes are divided; by default 90/5/5 by the level seed.
        max_steps: cut episodes after so many actions; None for the level's own limit.
        seconds: wall-clock limit of one episode; one that takes longer is counted and left out.
        resume: go on with an interrupted collection into ``out``.
        overwrite: replace a dataset that is there.
        make_agent: makes the agent of another policy: ``make_agent(name, env)``.
        weights: sha256 of what the agent was loaded from, to be written down; a resumed collection must have the same.
        command: what to write down as the command that made the dataset.

    Returns:
        The dataset's folder.

    Raises:
        UserError: a wrong argument, an output that is taken or cannot be written, or an interrupted collection of
            other arguments.
    """
    plan = CollectionPlan(
        level=level,
        episodes=episodes,
        shares=behaviour_shares(policy, shares),
        seed=seed,
        agent=None if policy in POLICIES else policy,
        weights=weights,
        max_steps=max_steps,
        seconds=seconds,
        split=split or SplitRule(),
    )
    return collect_plan(
        plan, out, workers=workers, resume=resume, overwrite=overwrite, make_agent=make_agent, command=command
    )


def collect_plan(
    plan: CollectionPlan,
    out: str | Path | None = None,
    *,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    make_agent: MakeAgent | None = None,
    command: str | None = None,
) -> Path:
    """``collect`` with its plan made beforehand; arguments, result and errors are the same."""
    if workers < 1:
        raise UserError(f"{workers} workers: give at least 1")
    check_plan(plan)
    name = plan.dataset_id if out is None else out
    path = dataset_path(name)
    if resume and _is_complete(path, plan):
        return path
    check_target(path, overwrite=overwrite)
    work = path.with_name(f".{path.name}.collecting")
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    with only_one(work / ".lock", wait=False):
        try:
            _prepare(work, plan, resume, overwrite)
            found = record_shards(work, plan, workers, make_agent)
            dataset_id = _dataset_id(name, path, plan)
            with repeated_interrupts() as check, writing(path), contextlib.closing(found):
                _assemble(found, check, path, plan, dataset_id, overwrite, command or _command_line())
            shutil.rmtree(work)
        except KeyboardInterrupt:
            done = len(list(work.glob("shard-*.npz")))
            raise KeyboardInterrupt(
                f"interrupted; {done} of {len(list(shards(plan)))} shards are kept in {work}, go on with --resume"
            ) from None
        finally:
            if work.is_dir() and not any(work.glob("shard-*.npz")):
                shutil.rmtree(work)
    return path


def _command_line() -> str:
    return shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "wmtool"), *sys.argv[1:]])


def check_target(path: Path, *, overwrite: bool) -> None:
    """``UserError`` unless a dataset may be written to ``path``; only a dataset is ever overwritten."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; give a folder or a dataset id")
    if path.is_dir() and any(path.iterdir()):
        if not (path / "data" / "metadata.json").is_file():
            raise UserError(f"{path} is not empty and holds no dataset; choose another --out")
        if not overwrite:
            raise UserError(f"{path} holds a dataset; choose another --out or add --overwrite to replace it")


def _is_complete(path: Path, plan: CollectionPlan) -> bool:
    try:
        return read_metadata(path)["wmtoolkit"]["plan"] == plan.document()
    except (UserError, KeyError):
        return False


def _prepare(work: Path, plan: CollectionPlan, resume: bool, overwrite: bool) -> None:
    """Leave the work folder with this plan and only those shards that belong to it."""
    found = work / "plan.json"
    if any(work.glob("shard-*.npz")) and not overwrite:
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


def _dataset_id(name: str | Path, path: Path, plan: CollectionPlan) -> str:
    """The id by which the dataset will be known: the one asked for, or the default one in a folder of one's own."""
    text = str(name)
    return text if DATASET_ID.fullmatch(text) and path == datasets_root() / text else plan.dataset_id


def _assemble(
    found: Iterator[Path],
    check: Callable[[], None],
    path: Path,
    plan: CollectionPlan,
    dataset_id: str,
    overwrite: bool,
    command: str,
) -> None:
    """Turn the shards, as they come, into the dataset: HDF5 file, packed store, metadata and card.

    ``check`` is called before every shard and behind the last.
    """
    errors: Counter[str] = Counter()
    with whole_folder(path, overwrite=overwrite) as folder:
        (folder / "data").mkdir()
        (folder / PACKED).mkdir()
        source = folder / "data" / hdf5.FILE_NAME
        with hdf5.EpisodeWriter(source) as writer, StoreWriter(folder / PACKED) as packed:
            for shard in found:
                check()
                trajectories, shard_errors = read_shard(shard)
                errors.update(shard_errors)
                for trajectory in trajectories:
                    trajectory.validate(f"{path}: episode of level seed {trajectory.seed}")
                    split = plan.split.assign(trajectory.seed, trajectory.mission)
                    packed.add(trajectory, split, writer.episodes)
                    writer.add(trajectory, split)
            check()
            if not writer.episodes:
                counts = ", ".join(f"{name} {count}" for name, count in errors.items())
                raise UserError(
                    f"none of {plan.episodes} episodes of {plan.level} could be recorded ({counts}); "
                    "start anew with a longer --time-limit and --overwrite"
                )
        write_source(folder / PACKED, source)
        facts = {
            "plan": plan.document(),
            "level": plan.level_id,
            "split": plan.split.document(),
            "errors": dict(sorted(errors.items())),
            "fingerprint": packed.fingerprint,
            "command": command,
        }
        megabytes = source.stat().st_size / 1e6
        metadata = dataset_metadata(dataset_id, plan.level, writer.episodes, writer.steps, facts, megabytes)
        write_json(folder / "data" / "metadata.json", metadata)
        write_card(folder, metadata, EpisodeStore(folder / PACKED))
