"""Datasets by name: where they lie, what they say of themselves, and their episodes."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmtoolkit.data import hdf5
from wmtoolkit.data.files import only_one, read_json, sha256, whole_folder, write_json
from wmtoolkit.data.splits import SPLITS, SplitRule
from wmtoolkit.data.store import EpisodeStore, StoreWriter, merge_stores, read_index
from wmtoolkit.errors import UserError
from wmtoolkit.progress import progress
from wmtoolkit.world.trajectory import Trajectory

DATASET_ID = re.compile(r"(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+-v\d+")
PACKED = "packed"


def datasets_root() -> Path:
    """Minari's folder of datasets: ``MINARI_DATASETS_PATH``, or ``.minari/datasets`` in the home folder."""
    root = os.environ.get("MINARI_DATASETS_PATH")
    return Path(root) if root else Path.home() / ".minari" / "datasets"


def cache_root() -> Path:
    """Where merged stores lie: ``WMTOOLKIT_CACHE``, or ``wmtoolkit`` in the user's cache folder."""
    root = os.environ.get("WMTOOLKIT_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wmtoolkit"


def dataset_path(name: str | Path) -> Path:
    """Folder that a dataset name stands for; it need not exist.

    A name such as ``wmtoolkit/BabyAI-GoToLocal/mixed-v0`` is a Minari id under ``datasets_root()``, unless it is a
    folder that exists or starts with ``.``, ``/`` or ``~``; any other name is a folder.

    Raises:
        UserError: an id that climbs out of the folder of datasets.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or path.is_dir():
        return path
    if ".." in path.parts:
        raise UserError(
            f"dataset {text!r} climbs out of its folder; give an id like wmtoolkit/Level/mixed-v0 or ./folder"
        )
    return datasets_root() / text if DATASET_ID.fullmatch(text) else path


def find_datasets(name: str | Path) -> list[Path]:
    """Folders of the datasets that a name stands for: one dataset, or every dataset somewhere below a folder.

    Raises:
        UserError: there is none.
    """
    path = dataset_path(name)
    if path.name == "data" and (path / "metadata.json").is_file():
        return [path.parent]
    if (path / "data" / "metadata.json").is_file():
        return [path]
    found = sorted(
        file.parent.parent
        for file in path.glob("**/data/metadata.json")
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        what = "holds no dataset" if path.is_dir() else "does not exist"
        raise UserError(f"dataset {os.fspath(name)!r}: {path} {what}; collect one with: wmtool collect --out {name}")
    return found


def read_metadata(path: Path) -> dict[str, Any]:
    """A dataset's ``data/metadata.json``.

    Raises:
        UserError: it is missing, cut off, or of another storage format than HDF5.
    """
    metadata = read_json(path / "data" / "metadata.json")
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise UserError(f"{path}: data format {metadata['data_format']!r}; only Minari's hdf5 format is read")
    if not isinstance(metadata.get("total_episodes"), int):
        raise UserError(f"{path / 'data' / 'metadata.json'} does not say how many episodes there are")
    if not isinstance(metadata.get("wmtoolkit", {}), dict):
        raise UserError(f"{path / 'data' / 'metadata.json'}: its wmtoolkit entry is damaged; copy it again")
    return metadata


def _foreign_facts(metadata: dict[str, Any]) -> tuple[str, str | None]:
    """Behaviour and level of a dataset that wmtoolkit did not write, from its metadata."""
    said = f"{metadata.get('dataset_id', '')} {metadata.get('algorithm_name', '')}".lower()
    behaviour = "bot" if re.search(r"optimal|expert|bot\b", said) else "random" if "random" in said else "agent"
    level = re.search(r'"id":\s*"([^"]+)"', str(metadata.get("env_spec", "")))
    return behaviour, level.group(1) if level else None


def packed_store(path: Path) -> Path:
    """Folder of a dataset's packed store; built from the HDF5 file if it is not there or no longer matches it.

    It lies in ``packed`` beside ``data``, or in the cache if the dataset's folder cannot be written to.
    """
    source = path / "data" / hdf5.FILE_NAME
    if not source.is_file():
        raise UserError(f"{source} is missing; collect or copy the dataset again")
    beside = path / PACKED
    writable = os.access(path, os.W_OK)
    named = hashlib.sha256(bytes(path.resolve())).hexdigest()
    folder = beside if writable else cache_root() / "packed" / named
    if not writable and _matches(beside, source):
        return beside
    if not _matches(folder, source):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one(folder.with_name(f".{folder.name}.lock"), wait=True):
            if not _matches(folder, source):
                _pack(path, folder)
    return folder


def _matches(folder: Path, source: Path) -> bool:
    """Whether a packed store is whole and was built from the HDF5 file as it is now."""
    try:
        read_index(folder)
        current = read_json(folder / "source.json")
        state = source.stat()
        return current["size"] == state.st_size and (
            current["modified"] == state.st_mtime_ns or current["sha256"] == sha256(source)
        )
    except (UserError, KeyError):
        return False


def _pack(path: Path, folder: Path) -> None:
    metadata = read_metadata(path)
    ours = metadata.get("wmtoolkit", {})
    try:
        rule = SplitRule.from_document(ours["split"]) if "split" in ours else SplitRule()
    except (KeyError, TypeError):
        raise UserError(f"{path / 'data' / 'metadata.json'}: its wmtoolkit entry is damaged; copy it again") from None
    behaviour, level = _foreign_facts(metadata)
    episodes = metadata["total_episodes"]
    source = path / "data" / hdf5.FILE_NAME
    with (
        whole_folder(folder, overwrite=True) as temporary,
        progress(f"reading {path.name}", episodes) as bar,
    ):
        found = hdf5.read_episodes(source, episodes, behaviour=behaviour, level=ours.get("level", level))
        with StoreWriter(temporary) as writer:
            for index, (trajectory, split) in enumerate(found):
                if split is None:
                    start = trajectory.images[0].tobytes() + bytes([int(trajectory.directions[0])])
                    split = SPLITS[rule.assign(trajectory.seed, trajectory.mission, start)]
                writer.add(trajectory, SPLITS.index(split), index)
                bar.advance()
        if ours.get("fingerprint", writer.fingerprint) != writer.fingerprint:
            raise UserError(
                f"{source} was changed after it was collected: it does not match the fingerprint in its metadata.json; "
                "collect or copy it again, or remove the fingerprint there to accept it"
            )
        write_source(temporary, source)


def write_source(folder: Path, source: Path) -> None:
    """Note in a store which HDF5 file it was built from."""
    state = source.stat()
    write_json(folder / "source.json", {"size": state.st_size, "modified": state.st_mtime_ns, "sha256": sha256(source)})


def open_store(datasets: Sequence[str | Path], split: str | None = None) -> EpisodeStore:
    """Open datasets for training or evaluation as one memory-mapped store.

    One dataset is read where it lies; several are first written into one store in the cache, once.

    Args:
        datasets: Minari ids or folders; a folder may hold several datasets.
        split: ``"train"``, ``"validation"`` or ``"test"``; None for all episodes.

    Raises:
        UserError: no such dataset or split, or an episode or file that is damaged or of another kind.
    """
    paths = [path for name in datasets for path in find_datasets(name)]
    folders = [packed_store(path) for path in dict.fromkeys(path.resolve() for path in paths)]
    if not folders:
        raise UserError("no dataset given; name one or more with --data")
    if len(folders) == 1:
        return EpisodeStore(folders[0], split)
    prints = [read_index(folder)["fingerprint"] for folder in folders]
    merged = cache_root() / "stores" / hashlib.sha256(" ".join(prints).encode()).hexdigest()
    if not (merged / "index.json").is_file():
        merged.parent.mkdir(parents=True, exist_ok=True)
        with only_one(merged.with_name(f".{merged.name}.lock"), wait=True):
            if not (merged / "index.json").is_file():
                with whole_folder(merged, overwrite=True) as temporary:
                    merge_stores([EpisodeStore(folder) for folder in folders], temporary)
    return EpisodeStore(merged, split)


def load_trajectories(name: str | Path, split: str | None = None) -> list[Trajectory]:
    """All episodes of a dataset in memory, for work at the scale of thousands; training uses ``open_store``.

    Args:
        name: a Minari id (``wmtoolkit/BabyAI-GoToLocal/mixed-v0``) or a folder.
        split: ``"train"``, ``"validation"`` or ``"test"``; None for all episodes.

    Raises:
        UserError: no such dataset or split, or an episode or file that is damaged or of another kind.
    """
    store = open_store([name], split)
    return [store.trajectory(episode) for episode in range(len(store))]
