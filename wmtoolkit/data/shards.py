"""Shards: what a collecting process hands over. A file of some hundred episodes, there whole or not at all."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wmtoolkit.data.files import whole_file
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Trajectory

_FRAMES = ("images", "directions")
_STEPS = ("actions", "rewards", "terminations", "truncations")


def write_shard(path: Path, trajectories: Sequence[Trajectory], errors: dict[str, int]) -> None:
    """Write episodes and the count of each error met while recording them."""
    arrays = {}
    for name in (*_FRAMES, *_STEPS):
        parts = [getattr(trajectory, name) for trajectory in trajectories]
        arrays[name] = np.concatenate(parts) if parts else np.zeros(0)
    episodes = [
        [trajectory.mission, len(trajectory), trajectory.behaviour, trajectory.level, trajectory.seed]
        for trajectory in trajectories
    ]
    notes = json.dumps({"episodes": episodes, "errors": errors}).encode()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, notes=np.frombuffer(notes, np.uint8), **arrays)  # type: ignore[arg-type]


def read_shard(path: Path) -> tuple[list[Trajectory], dict[str, int]]:
    """Read a shard back; ``UserError`` names the file if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_FRAMES, *_STEPS)}
            notes = json.loads(file["notes"].tobytes())
        return list(_cut(arrays, notes["episodes"])), notes["errors"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and go on with --resume") from None


def _cut(arrays: dict[str, np.ndarray], episodes: list) -> Iterator[Trajectory]:
    frame = step = 0
    for mission, length, behaviour, level, seed in episodes:
        parts = {name: arrays[name][frame : frame + length + 1] for name in _FRAMES}
        parts |= {name: arrays[name][step : step + length] for name in _STEPS}
        yield Trajectory(mission=mission, behaviour=behaviour, level=level, seed=seed, **parts)
        frame, step = frame + length + 1, step + length
