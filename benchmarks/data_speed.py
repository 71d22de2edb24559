"""Speed of the data path: collecting against the raw environment, two workers, the loader against training, memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wmtoolkit.benchmarks.speed import Amount, Comparison
from wmtoolkit.data import collect, open_store
from wmtoolkit.data.levels import DEFAULT_LEVEL, make_level, reset_level
from wmtoolkit.data.plan import DEFAULT_MIX, CollectionPlan
from wmtoolkit.data.shards import read_shard
from wmtoolkit.data.workers import ShardRecorder
from wmtoolkit.training.batches import draw_batch
from wmtoolkit.training.config import Config, load_config
from wmtoolkit.training.loop import make_optimizers, make_sampler
from wmtoolkit.training.objective import MaskedReconstruction, weigh
from wmtoolkit.training.start import starting_network
from wmtoolkit.world import windows
from wmtoolkit.world.network import native_bf16

RAW = "raw environment"
FLAT = 60.0
"""Megabytes of memory that fifty times the episodes may take: a few columns of numbers, not the views."""
SMALL_LEVEL, SMALL_STEPS = "MiniGrid-Empty-5x5-v0", 16


def comparisons(*, quick: bool = False, seed: int = 0) -> Iterator[Comparison | Amount]:
    """What is compared; the targets are those of the issue that asked for the data path."""
    few, many, stored, steps = (10, 200, 50, 1) if quick else (200, 2400, 1000, 5)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        yield _collecting(CollectionPlan(DEFAULT_LEVEL, few, {"random": 1.0}, seed=seed), work, {"recorded": 0.7})
        yield _collecting(CollectionPlan(DEFAULT_LEVEL, few, DEFAULT_MIX, seed=seed), work, {})
        yield _workers(work, many, seed)
        yield _loading(open_store([collect(DEFAULT_LEVEL, stored, seed=seed, out=work / "stored")]), steps, seed, quick)
        if not quick:  # nothing can be told from few episodes, and many take minutes
            sizes = (1_000, 50_000)
            yield Amount("memory", "MB", {f"{size:,} episodes": _memory(size) for size in sizes}, most=FLAT)


def _collecting(plan: CollectionPlan, work: Path, targets: dict[str, float]) -> Comparison:
    """The same episodes, stepped by MiniGrid alone with their actions known, and recorded into a shard."""
    recorder, shard, env = ShardRecorder(plan, None), work / "shard.npz", make_level(plan.level, fast=False)
    episodes = range(plan.episodes)
    steps = recorder.record(episodes, shard)
    played = [(trajectory.seed, trajectory.actions.tolist()) for trajectory in read_shard(shard)[0]]

    def raw() -> None:
        for seed, actions in played:
            reset_level(env, seed)
            for action in actions:
                env.step(action)

    variants = {RAW: raw, "recorded": lambda: recorder.record(episodes, shard)}
    return Comparison(
        "collecting",
        "steps",
        {name: {"+".join(plan.shares): (steps, call)} for name, call in variants.items()},
        also={"episodes": plan.episodes / steps},
        targets=targets,
    )


def _workers(work: Path, episodes: int, seed: int) -> Comparison:
    """The default mix, from nothing to the dataset. After the first round the fork server is there."""
    number = count()

    def call(workers: int) -> Callable[[], Any]:
        return lambda: collect(DEFAULT_LEVEL, episodes, seed=seed, workers=workers, out=work / f"w{next(number)}")

    steps = open_store([call(1)()]).num_steps
    variants = {f"{workers} workers": {"collect": (steps, call(workers))} for workers in (1, 2)}
    also = {"episodes": episodes / steps}
    return Comparison("workers", "steps", variants, also=also, targets={"2 workers": 1.7}, clock="wall")


def _loading(store: Any, steps: int, seed: int, quick: bool) -> Comparison:
    """Batches of the compact config: drawn, and trained on when they are there already."""
    config, frames = load_config("compact"), windows.Frames.from_store(store)
    sampler = make_sampler(config)

    def load() -> list[Any]:
        return [draw_batch(frames, sampler, config.world, seed, step) for step in range(steps)]

    batches = load()
    tokens = sum(batch.tokens.ids.size for batch in batches)
    train = _training(config, batches, seed, compiled=config.training.compile and not quick)
    variants = {"training consumes": train, "loader gives": load}
    return Comparison(
        "loading",
        "tokens",
        {name: {"compact": (tokens, call)} for name, call in variants.items()},
        targets={"loader gives": 20.0},
    )


def _training(config: Config, batches: list[Any], seed: int, *, compiled: bool) -> Callable[[], None]:
    """Steps of the training loop without its loader, its log and its checkpoints."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, _ = starting_network(config, None)
    if compiled:
        network.llada2.model.compile(dynamic=False)
    module, optimizers = MaskedReconstruction(network), make_optimizers(network, config)
    weights = [weigh(batch, config.loss) for batch in batches]

    def train() -> None:
        for batch, weight in zip(batches, weights, strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=native_bf16("cpu")):
                loss = module(batch, weight)[0] / weight.total
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.training.gradient_clip)
            for optimizer in optimizers.values():
                optimizer.step()
            network.zero_grad(set_to_none=True)

    return train


def _memory(episodes: int) -> Callable[[], float]:
    code = f"from wmtoolkit.benchmarks.data_speed import peak_megabytes; print(peak_megabytes({episodes}))"
    command = [sys.executable, "-P", "-c", code]
    return lambda: float(subprocess.check_output(command, text=True))


def peak_megabytes(episodes: int, batches: int = 50) -> float:
    """Most memory that this process holds outside mapped files while it collects and then draws batches, in MB."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, _anonymous_megabytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = collect(
                SMALL_LEVEL, episodes, policy="random", max_steps=SMALL_STEPS, workers=2, out=Path(folder) / "data"
            )
            config, frames = load_config("compact"), windows.Frames.from_store(open_store([path], "train"))
            for step in range(batches):
                draw_batch(frames, make_sampler(config), config.world, 0, step)
    finally:
        done.set()
        watcher.join()
    return peak


def _anonymous_megabytes() -> float:
    """Of this process, without mapped files; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), np.nan)
