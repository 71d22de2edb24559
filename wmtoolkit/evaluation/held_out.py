"""Held-out episodes, level by level, and the check that training has not seen them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data import open_store
from wmtoolkit.data.datasets import find_datasets, read_metadata
from wmtoolkit.data.files import read_json
from wmtoolkit.data.splits import check_unseen
from wmtoolkit.data.store import NO_SEED, EpisodeStore
from wmtoolkit.errors import UserError
from wmtoolkit.world import windows
from wmtoolkit.world.model import AnyOrderWorldModel

UNRECORDED = "not recorded with the checkpoint"
"""What results say of training seeds that nothing tells."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out episodes of one dataset, and the training episodes beside them.

    Attributes:
        name: level, and what is special about it.
        frames, store: the held-out episodes.
        training: of the training split, from which priors and baselines are fitted; None if it is empty.
    """

    name: str
    frames: windows.Frames
    store: EpisodeStore
    training: windows.Frames | None


def held_out(model: AnyOrderWorldModel, data: Sequence[str], split: str) -> list[HeldOut]:
    """The held-out episodes of each dataset.

    A dataset that keeps colour-object pairs for the test gives its test split as "unseen pairs" and its validation
    split, whose missions name pairs seen in training, beside it.

    Raises:
        UserError: no episode in the split, or episodes whose level seeds the model was trained on.
    """
    return held_out_frames(data, split, training_record(model))


def held_out_frames(data: Sequence[str], split: str = "test", record: Mapping[str, Any] | None = None) -> list[HeldOut]:
    """``held_out`` with the ``training_record`` of the model, if there is one."""
    parts = []
    paths = dict.fromkeys(path.resolve() for name in data for path in find_datasets(name))
    for path in paths:
        pairs = read_metadata(path).get("wmtoolkit", {}).get("split", {}).get("held_out", [])
        splits = {", unseen pairs": "test", ", seen pairs": "validation"} if pairs and split == "test" else {"": split}
        for suffix, chosen in splits.items():
            store = open_store([path], chosen)
            if not len(store):
                raise UserError(f"the {chosen} split of {path} holds no episode; collect more episodes")
            if record is not None:
                check_store(store, record)
            training = open_store([path], "train")
            name = ", ".join(sorted({store.level_ids[index] or path.name for index in np.unique(store.levels)}))
            parts.append(
                HeldOut(
                    f"{name}{suffix}",
                    windows.Frames.from_store(store),
                    store,
                    windows.Frames.from_store(training) if len(training) else None,
                )
            )
    return _told_apart(parts, [path.parent.name + "/" + path.name for path in paths])


def training_record(model: AnyOrderWorldModel) -> dict[str, Any] | None:
    """What is recorded of a model's training data: ``train_seeds`` by level; None if nothing is.

    It stands in the checkpoint's facts, or in ``dataset.json`` in its folder or the run's.
    """
    if "train_seeds" in model.facts:
        return model.facts
    if model.path is not None:
        folder = Path(model.path).resolve()
        for place in (folder, folder.parent, folder.parent.parent):
            if (place / "dataset.json").is_file():
                record = read_json(place / "dataset.json")
                if "train_seeds" in record:
                    return record
    return None


def check_store(store: EpisodeStore, record: Mapping[str, Any]) -> None:
    """Raise ``UserError`` if a model of this ``training_record`` was trained on level seeds of these episodes."""
    for level, seeds in _seeds(store):
        check_unseen(seeds, record, level)


def _seeds(store: EpisodeStore) -> Iterator[tuple[str, list[int]]]:
    seeds, levels = np.asarray(store.seeds), np.asarray(store.levels)
    for index in np.unique(levels):
        known = seeds[(levels == index) & (seeds != NO_SEED)]
        yield store.level_ids[index], known.tolist()


def _told_apart(parts: list[HeldOut], names: list[str]) -> list[HeldOut]:
    """Two datasets of one level are named with their folders."""
    titles = [part.name for part in parts]
    if len(set(titles)) == len(titles):
        return parts
    if len(parts) != len(names):
        raise UserError("two datasets of one level, one of them with unseen pairs: evaluate them one at a time")
    return [replace(part, name=f"{part.name} ({name})") for part, name in zip(parts, names, strict=True)]
