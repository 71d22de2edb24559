"""The packed store: every episode of some datasets in a few flat integer arrays on disk, memory-mapped.

Training reads slices of these arrays and parses nothing; the memory in use does not grow with the data. A store is
built once, in a folder beside its dataset, and fingerprinted: equal content gives an equal fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wmtoolkit.data.files import read_json, write_json
from wmtoolkit.data.splits import SPLITS, seed_ranges, split_index
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, Trajectory

SCHEMA = 1
FRAME_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "images": ("|u1", (7, 7, 3)),
    "directions": ("|u1", ()),
    "actions": ("|i1", ()),
    "outcomes": ("|u1", ()),
    "rewards": ("<f4", ()),
}
EPISODE_ARRAYS: dict[str, str] = {
    "truncated": "|b1",
    "behaviours": "|u1",
    "missions": "<i4",
    "levels": "<i4",
    "seeds": "<i8",
    "episode_ids": "<i8",
}
NO_SEED = -1


class EpisodeStore:
    """Episodes in flat arrays; all of them read-only memory maps.

    Attributes (N frames, E episodes; an episode of T actions has T+1 frames):
        images: (N, 7, 7, 3) uint8.
        directions: (N,) uint8, heading 0-3.
        actions: (N,) int8, the action that led to the frame; -1 at an episode's first frame.
        outcomes: (N,) uint8 of ``Outcome``; START at an episode's first frame.
        rewards: (N,) float32, of the step that led to the frame; 0 at the first.
        offsets: (E+1,) int64; frames of episode i are ``offsets[i]:offsets[i + 1]``.
        truncated: (E,) bool, the episode ended by a time limit.
        behaviours: (E,) uint8, index into ``BEHAVIOURS``.
        missions: (E,) int32, index into ``mission_texts``.
        levels: (E,) int32, index into ``level_ids``.
        seeds: (E,) int64, the seed that reset the level; -1 if unknown.
        episode_ids: (E,) int64, the episode's number in its dataset.
        splits: (E,) uint8, index into ``SPLITS``.
        mission_texts, level_ids: lists of str; an unknown level is "".
        fingerprint: sha256 of the whole store's content, of which this may be one split.
    """

    images: np.ndarray
    directions: np.ndarray
    actions: np.ndarray
    outcomes: np.ndarray
    rewards: np.ndarray
    offsets: np.ndarray
    truncated: np.ndarray
    behaviours: np.ndarray
    missions: np.ndarray
    levels: np.ndarray
    seeds: np.ndarray
    episode_ids: np.ndarray
    splits: np.ndarray

    def __init__(self, folder: Path, split: str | None = None) -> None:
        """Open a store folder, or one split of it (a contiguous part, so nothing is copied).

        Raises:
            UserError: names the file that is missing, cut off, or not of this version.
        """
        self.folder = folder
        index = read_index(folder)
        self.fingerprint: str = index["fingerprint"]
        self.mission_texts: list[str] = index["mission_texts"]
        self.level_ids: list[str] = index["level_ids"]
        bounds: list[int] = index["split_episodes"]
        chosen = range(len(SPLITS)) if split is None else [split_index(split)]
        first, last = bounds[chosen[0]], bounds[chosen[-1] + 1]
        offsets = _open(folder, "offsets", index)
        start, stop = int(offsets[first]), int(offsets[last])
        self.offsets = np.asarray(offsets[first : last + 1]) - start
        for name in FRAME_ARRAYS:
            setattr(self, name, _open(folder, name, index)[start:stop])
        for name in EPISODE_ARRAYS:
            setattr(self, name, _open(folder, name, index)[first:last])
        self.splits = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), np.diff(bounds))[first:last]

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.offsets) - 1

    @property
    def num_frames(self) -> int:
        """Number of observations, N."""
        return len(self.images)

    @property
    def num_steps(self) -> int:
        """Number of actions, N - E."""
        return self.num_frames - len(self)

    @property
    def lengths(self) -> np.ndarray:
        """(E,) int64: actions of each episode."""
        return np.diff(self.offsets) - 1

    def trajectory(self, episode: int) -> Trajectory:
        """One episode as a Trajectory, in arrays of its own."""
        frames = slice(int(self.offsets[episode]), int(self.offsets[episode + 1]))
        outcomes = self.outcomes[frames][1:]
        truncations = np.zeros(len(outcomes), dtype=bool)
        if len(outcomes):
            truncations[-1] = self.truncated[episode]
        seed = int(self.seeds[episode])
        return Trajectory(
            mission=self.mission_texts[self.missions[episode]],
            images=np.array(self.images[frames]),
            directions=self.directions[frames].astype(np.int64),
            actions=self.actions[frames][1:].astype(np.int64),
            rewards=np.array(self.rewards[frames][1:]),
            terminations=(outcomes == Outcome.SUCCESS) | (outcomes == Outcome.FAILURE),
            truncations=truncations,
            behaviour=BEHAVIOURS[self.behaviours[episode]],
            level=self.level_ids[self.levels[episode]] or None,
            seed=None if seed == NO_SEED else seed,
        )

    def document(self) -> dict[str, Any]:
        """JSON-able summary for a run's ``dataset.json``: fingerprint, sizes, and each level's training seeds.

        ``train_seeds`` maps a level id to inclusive ranges of seeds in the training split of the part opened here.
        """
        training = (self.splits == SPLITS.index("train")) & (self.seeds != NO_SEED)
        seeds = {
            level: seed_ranges(np.asarray(self.seeds)[training & (self.levels == index)].tolist())
            for index, level in enumerate(self.level_ids)
        }
        return {
            "fingerprint": self.fingerprint,
            "episodes": len(self),
            "steps": self.num_steps,
            "levels": list(self.level_ids),
            "splits": {name: int((self.splits == index).sum()) for index, name in enumerate(SPLITS)},
            "train_seeds": {level: ranges for level, ranges in seeds.items() if ranges},
        }


def read_index(folder: Path) -> dict[str, Any]:
    """The store's ``index.json``; ``UserError`` if it is missing, broken or of another version."""
    index = read_json(folder / "index.json")
    if index.get("schema") != SCHEMA:
        raise UserError(f"{folder}: packed store of version {index.get('schema')}, this is {SCHEMA}; delete the folder")
    missing = {"fingerprint", "shapes", "mission_texts", "level_ids", "split_episodes", "sha256"} - set(index)
    if missing:
        raise UserError(f"{folder / 'index.json'} lacks {', '.join(sorted(missing))}; delete {folder} to build it anew")
    return index


def _open(folder: Path, name: str, index: dict[str, Any]) -> np.ndarray:
    path = folder / f"{name}.npy"
    shape = tuple(index["shapes"][name])
    try:
        array = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is missing or cut off ({error}); delete {folder} to build it anew") from None
    if array.shape != shape:
        raise UserError(f"{path} has shape {array.shape}, its index says {shape}; delete {folder} to build it anew")
    return array


def verify(folder: Path) -> None:
    """Read the whole store and compare it with its fingerprint; ``UserError`` if it differs."""
    index = read_index(folder)
    for name, digest in index["sha256"].items():
        if _digest(_open(folder, name, index)) != digest:
            raise UserError(f"{folder / name}.npy does not hold what was written; delete {folder} to build it anew")


def _digest(array: np.ndarray) -> str:
    """sha256 of an array's values, read in parts."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for first in range(0, len(array), 1 << 16):
        digest.update(np.ascontiguousarray(array[first : first + (1 << 16)]).data)
    return digest.hexdigest()


class StoreWriter:
    """Builds a store in a folder, episode by episode, with memory that does not grow; a context manager.

    Episodes of one split come to lie together, in the order they are added. The folder is a store only when the
    block has ended without an error, since the index is written last.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = contextlib.ExitStack()
        self._frames: list[dict[str, BinaryIO]] = [
            {name: self._files.enter_context(self._part(name, split).open("wb")) for name in FRAME_ARRAYS}
            for split in range(len(SPLITS))
        ]
        self._episodes: list[dict[str, list[int]]] = [
            {name: [] for name in ("lengths", *EPISODE_ARRAYS)} for _ in SPLITS
        ]
        self._missions: dict[str, int] = {}
        self._levels: dict[str, int] = {}
        self.fingerprint = ""

    def _part(self, name: str, split: int) -> Path:
        return self._folder / f".{name}.{split}"

    def add(self, trajectory: Trajectory, split: int, episode_id: int) -> None:
        """Append an episode to a split, given as index into ``SPLITS``."""
        frames = {
            "images": trajectory.images,
            "directions": trajectory.directions,
            "actions": np.append(-1, trajectory.actions),
            "outcomes": trajectory.outcomes,
            "rewards": np.append(0, trajectory.rewards),
        }
        for name, (dtype, _) in FRAME_ARRAYS.items():
            self._frames[split][name].write(np.ascontiguousarray(frames[name], dtype=dtype).tobytes())
        columns = {
            "lengths": len(trajectory.images),
            "truncated": bool(trajectory.truncations.any()),
            "behaviours": BEHAVIOURS.index(trajectory.behaviour),
            "missions": self._missions.setdefault(trajectory.mission, len(self._missions)),
            "levels": self._levels.setdefault(trajectory.level or "", len(self._levels)),
            "seeds": NO_SEED if trajectory.seed is None else trajectory.seed,
            "episode_ids": episode_id,
        }
        for name, value in columns.items():
            self._episodes[split][name].append(value)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._files.close()
        if kind is None:
            self._finish()

    def _finish(self) -> None:
        lengths = [length for part in self._episodes for length in part["lengths"]]
        shapes: dict[str, list[int]] = {}
        for name, (dtype, inner) in FRAME_ARRAYS.items():
            shape = (sum(lengths), *inner)
            shapes[name] = list(shape)
            with (self._folder / f"{name}.npy").open("wb") as file:
                header = {"descr": dtype, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for split in range(len(SPLITS)):
                    part = self._part(name, split)
                    with part.open("rb") as source:
                        while block := source.read(1 << 24):
                            file.write(block)
                    part.unlink()
        arrays = {
            name: np.array([value for part in self._episodes for value in part[name]], dtype=dtype)
            for name, dtype in EPISODE_ARRAYS.items()
        }
        arrays["offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype("<i8")
        for name, array in arrays.items():
            shapes[name] = list(array.shape)
            np.save(self._folder / f"{name}.npy", array, allow_pickle=False)
        digests = {name: _digest(_open(self._folder, name, {"shapes": shapes})) for name in sorted(shapes)}
        counts = [0, *np.cumsum([len(part["lengths"]) for part in self._episodes]).tolist()]
        content = {
            "mission_texts": list(self._missions),
            "level_ids": list(self._levels),
            "split_episodes": counts,
            "sha256": digests,
        }
        self.fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        index = {"schema": SCHEMA, "fingerprint": self.fingerprint, "shapes": shapes, **content}
        write_json(self._folder / "index.json", index)


def merge_stores(stores: Sequence[EpisodeStore], folder: Path) -> str:
    """Write the episodes of several stores, in order, into a new store; returns its fingerprint."""
    with StoreWriter(folder) as writer:
        for store in stores:
            for episode in range(len(store)):
                writer.add(store.trajectory(episode), int(store.splits[episode]), int(store.episode_ids[episode]))
    return writer.fingerprint
