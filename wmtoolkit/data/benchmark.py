"""How fast collecting and reading are, against the raw environment in the same run."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data.collection import collect_plan
from wmtoolkit.data.datasets import open_store
from wmtoolkit.data.levels import DEFAULT_LEVEL, make_level, reset_level
from wmtoolkit.data.plan import DEFAULT_MIX, CollectionPlan
from wmtoolkit.data.store import EpisodeStore
from wmtoolkit.data.workers import ShardRecorder
from wmtoolkit.world import grid


def measure_data(
    level: str = DEFAULT_LEVEL, *, episodes: int = 1000, workers: int = 2, window: int = 5, seed: int = 0
) -> dict[str, Any]:
    """Measure collection and reading on this machine.

    Args:
        level: id.
        episodes: for each measurement.
        workers: compared with one.
        window: frames read at a time.
        seed: first level seed.

    Returns:
        ``raw_steps_per_second``: MiniGrid itself, random actions, resets included;
        ``random_steps_per_second``: recording random behaviour in one process, up to the written shard;
        ``random_share_of_raw``: their ratio, 1 is as fast as the raw environment;
        ``mix_episodes_per_second``, ``mix_steps_per_second``: the default mix, one process, up to the dataset;
        ``speedup``: of ``workers`` processes over one;
        ``read_frames_per_second``: windows drawn at random from the store, one process;
        ``anonymous_megabytes``: memory of this process that is not a mapped file, after reading.
    """
    random = CollectionPlan(level, episodes, {"random": 1.0}, seed=seed)
    mix = CollectionPlan(level, episodes, DEFAULT_MIX, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        raw = _raw_steps_per_second(level, episodes, seed)
        recorder = ShardRecorder(random, None)
        start = time.perf_counter()
        steps = recorder.record(range(episodes), work / "shard.npz")
        recorded = steps / (time.perf_counter() - start)
        start = time.perf_counter()
        store = open_store([collect_plan(mix, work / "one")])
        alone = time.perf_counter() - start
        start = time.perf_counter()
        collect_plan(mix, work / "many", workers=workers)
        together = time.perf_counter() - start
        return {
            "level": level,
            "episodes": episodes,
            "raw_steps_per_second": round(raw),
            "random_steps_per_second": round(recorded),
            "random_share_of_raw": round(recorded / raw, 2),
            "mix_episodes_per_second": round(episodes / alone),
            "mix_steps_per_second": round(store.num_steps / alone),
            "workers": workers,
            "speedup": round(alone / together, 2),
            "read_frames_per_second": round(read_frames_per_second(store, window)),
            "anonymous_megabytes": round(anonymous_memory() / 1e6),
        }


def _raw_steps_per_second(level: str, episodes: int, seed: int) -> float:
    env = make_level(level, fast=False)
    rng = np.random.default_rng(seed)
    steps = 0
    start = time.perf_counter()
    for episode in range(episodes):
        reset_level(env, seed + episode)
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(int(rng.integers(len(grid.ACTIONS))))
            ended = terminated or truncated
            steps += 1
    return steps / (time.perf_counter() - start)


def read_frames_per_second(store: EpisodeStore, window: int = 5, batch: int = 64, batches: int = 200) -> float:
    """Speed of gathering random windows of whole frames from the store."""
    rng = np.random.default_rng(0)
    span = np.arange(min(window, store.num_frames))
    start = time.perf_counter()
    for _ in range(batches):
        frames = rng.integers(0, store.num_frames - len(span) + 1, batch)[:, None] + span
        for array in (store.images, store.directions, store.actions, store.outcomes):
            array[frames]
    return batch * len(span) * batches / (time.perf_counter() - start)


def anonymous_memory() -> int:
    """Bytes this process holds outside mapped files; 0 where the system does not tell."""
    status = Path(f"/proc/{os.getpid()}/status")
    if not status.exists():
        return 0
    lines = [line.split() for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return int(lines[0][1]) * 1024 if lines else 0
