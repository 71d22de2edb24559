"""Minari's HDF5 layout: episodes as groups, read with checks and written several times faster than Minari writes.

``main_data.hdf5`` holds one group ``episode_<i>`` each, with ``observations/{image,direction,mission}`` of T+1 rows,
``actions``, ``rewards``, ``terminations`` and ``truncations`` of T rows, and attributes id, seed, total_steps; ours
add behaviour and split. The low-level interface of h5py is used, and arrays equal in many episodes (the
mission's T+1 copies, flags that are all false) are one array with many names, because thousands of short episodes
otherwise cost more to write than to play.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5o, h5p, h5s, h5t

from wmtoolkit.data.splits import SPLITS
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import BEHAVIOURS, Trajectory

FILE_NAME = "main_data.hdf5"
_SHARED_ARRAYS = 4000
"""Arrays kept at hand for sharing; open handles cost memory."""
_COMPACT_BYTES = 60_000
"""Arrays up to this size lie in their own header, which saves a write each; HDF5 allows 64 KiB for all of a header."""
_SCALAR = h5s.create(h5s.SCALAR)
_COMPACT = h5p.create(h5p.DATASET_CREATE)
_COMPACT.set_layout(h5d.COMPACT)
_space = lru_cache(10_000)(h5s.create_simple)


@cache
def _kind(dtype: np.dtype) -> h5t.TypeID:
    return h5t.py_create(dtype, logical=True)


class _OutputFile(io.FileIO):
    """The file below HDF5. HDF5 cannot cope with a full disk, so the first error is kept for the writer to raise."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                view = memoryview(data).cast("B")
                while len(view):
                    view = view[super().write(view) :]
            except OSError as error:
                self.error = error
        return len(data)


class EpisodeWriter:
    """Writes episodes one after the other into a new file; a context manager.

    Raises:
        OSError: from ``add`` or at the end, if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._output = _OutputFile(path, "w+")
        self._file = h5py.File(self._output, "w", libver=("v108", "v108"))
        self._shared: dict[tuple[Any, ...], h5d.DatasetID] = {}
        self.episodes = 0
        self.steps = 0

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._shared.clear()
        try:
            self._file.close()
            self._output.close()
        finally:
            self._check()

    def _check(self) -> None:
        if self._output.error is not None:
            raise self._output.error

    def add(self, trajectory: Trajectory, split: int) -> None:
        """Append an episode; ``split`` is its index in ``SPLITS``."""
        self._check()
        steps = len(trajectory)
        group = h5g.create(self._file.id, f"episode_{self.episodes}".encode())
        _attribute(group, "id", self.episodes)
        _attribute(group, "total_steps", steps)
        if trajectory.seed is not None:
            _attribute(group, "seed", trajectory.seed)
        _attribute(group, "behaviour", trajectory.behaviour)
        _attribute(group, "split", SPLITS[split])
        observations = h5g.create(group, b"observations")
        _array(observations, "image", trajectory.images)
        _array(observations, "direction", trajectory.directions)
        mission = trajectory.mission.encode()
        self._constant(observations, "mission", np.full(steps + 1, mission, dtype=f"S{max(1, len(mission))}"))
        _array(group, "actions", trajectory.actions)
        for name in ("rewards", "terminations", "truncations"):
            values = getattr(trajectory, name)
            if values.any():
                _array(group, name, values)
            else:
                self._constant(group, name, values)
        self.episodes += 1
        self.steps += steps

    def _constant(self, group: Any, name: str, values: np.ndarray) -> None:
        key = (values.dtype.str, len(values), values[:1].tobytes())
        if len(self._shared) > _SHARED_ARRAYS:
            self._shared.clear()
        if key in self._shared:
            h5o.link(self._shared[key], group, name.encode())
        else:
            self._shared[key] = _array(group, name, values)


def _array(group: Any, name: str, values: np.ndarray) -> h5d.DatasetID:
    values = np.ascontiguousarray(values)
    layout = _COMPACT if values.nbytes <= _COMPACT_BYTES else None
    dataset = h5d.create(group, name.encode(), _kind(values.dtype), _space(values.shape), layout)
    if values.size:
        dataset.write(h5s.ALL, h5s.ALL, values)
    return dataset


def _attribute(group: Any, name: str, value: int | str) -> None:
    scalar = np.array(value.encode() if isinstance(value, str) else np.int64(value))
    h5a.create(group, name.encode(), _kind(scalar.dtype), _SCALAR).write(scalar)


def read_episodes(
    path: Path, episodes: int, *, behaviour: str, level: str | None
) -> Iterator[tuple[Trajectory, str | None]]:
    """Read every episode of a Minari HDF5 file, checked, with the split written in it (None if there is none).

    Args:
        path: the ``main_data.hdf5``.
        episodes: how many the metadata promises.
        behaviour, level: for episodes that do not say.

    Raises:
        UserError: names the file or the episode that is cut off, of other spaces, or out of range.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is cut off or is not HDF5 ({error}); collect or copy it again") from None
    with file:
        for index in range(episodes):
            where = f"{path}: episode {index}"
            try:
                trajectory, split = _read(file[f"episode_{index}"], behaviour, level, where)
            except UserError:
                raise
            except KeyError as error:
                raise UserError(f"{where} is missing or incomplete ({error.args[0]})") from None
            except (OSError, ValueError, TypeError, RuntimeError, AttributeError) as error:
                raise UserError(f"{where} cannot be read ({error})") from None
            yield trajectory.validate(where), split


def _read(group: h5py.Group, behaviour: str, level: str | None, where: str) -> tuple[Trajectory, str | None]:
    attributes = dict(group.attrs)
    observations = group["observations"]
    missing = {"image", "direction", "mission"} - set(observations)
    if missing:
        raise UserError(f"{where} has no observation {', '.join(sorted(missing))}; BabyAI's symbolic dict is needed")
    image = observations["image"]
    if image.dtype.kind not in "ui" or image.shape[1:] != (7, 7, 3):
        raise UserError(
            f"{where} has images {image.dtype}{list(image.shape[1:])}, but MiniGrid's view uint8[7, 7, 3] is needed"
        )
    images = image[()]
    if images.size and (images.min() < 0 or images.max() > 255):
        raise UserError(f"{where} has image values outside 0..255")
    missions = {_text(value) for value in np.unique(observations["mission"][()]).tolist()}
    if len(missions) != 1:
        raise UserError(f"{where} has {len(missions)} different missions; one is needed")
    integers = {"directions": observations["direction"], "actions": group["actions"]}
    for name, values in integers.items():
        if values.dtype.kind not in "ui":
            raise UserError(f"{where}: {name} are {values.dtype}, not integers")
    seed = attributes.get("seed")
    split = attributes.get("split")
    trajectory = Trajectory(
        mission=missions.pop(),
        images=images.astype(np.uint8),
        directions=integers["directions"][()].astype(np.int64),
        actions=integers["actions"][()].astype(np.int64),
        rewards=group["rewards"][()].astype(np.float32),
        terminations=group["terminations"][()].astype(bool),
        truncations=group["truncations"][()].astype(bool),
        behaviour=_text(attributes.get("behaviour", behaviour)),
        level=_text(attributes["level"]) if "level" in attributes else level,
        seed=int(seed) if seed is not None else None,
    )
    for name in ("terminations", "truncations"):
        if getattr(trajectory, name)[:-1].any():
            raise UserError(f"{where}: {name} are set before the last step")
    if split is not None and _text(split) not in SPLITS:
        raise UserError(f"{where}: split {_text(split)!r} is not one of {', '.join(SPLITS)}")
    if trajectory.behaviour not in BEHAVIOURS:
        raise UserError(f"{where}: behaviour {trajectory.behaviour!r} is not one of {', '.join(BEHAVIOURS)}")
    return trajectory, None if split is None else _text(split)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
