"""Looking into a dataset: sizes, success, actions, events, missions, duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data.datasets import find_datasets, open_store, packed_store, read_metadata
from wmtoolkit.data.events import EVENTS, named_objects, revealed_cells, step_events
from wmtoolkit.data.splits import SPLITS
from wmtoolkit.data.store import EpisodeStore, verify
from wmtoolkit.progress import progress
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, mission_words


def inspect_dataset(
    name: str | Path,
    *,
    split: str | None = None,
    html: Path | None = None,
    films: int = 6,
    seed: int = 0,
    verify: bool = False,
) -> dict[str, Any]:
    """Tell what is in a dataset, as a JSON-able document with a ``text`` for people.

    Args:
        name: Minari id or folder, which may hold several datasets.
        split: look at one split only.
        html: also write a page with histograms and film strips.
        films: episodes on that page.
        seed: draws them.
        verify: compare every stored byte with the fingerprint first.

    Raises:
        UserError: no such dataset, or damage, naming the file or the episode.
    """
    paths = find_datasets(name)
    if verify:
        for path in paths:
            _verify(path)
    store = open_store([name], split)
    document = summary(store)
    metadata = [read_metadata(path) for path in paths]
    document = {
        "kind": "dataset",
        "datasets": [entry.get("dataset_id", str(path)) for entry, path in zip(metadata, paths, strict=True)],
        "commands": [entry.get("wmtoolkit", {}).get("command", "unknown") for entry in metadata],
        "errors": [entry.get("wmtoolkit", {}).get("errors", {}) for entry in metadata],
        **document,
    }
    if html is not None:
        from wmtoolkit.data.page import write_page

        write_page(html, document, store, films, seed)
        document["html"] = str(html)
    document["text"] = text_report(document)
    return document


def _verify(path: Path) -> None:
    verify(packed_store(path))


def summary(store: EpisodeStore) -> dict[str, Any]:
    """Counts and shares over a store's episodes."""
    ends = np.asarray(store.outcomes)[store.offsets[1:] - 1]
    lengths = store.lengths
    behaviours = np.asarray(store.behaviours)
    actions = np.asarray(store.actions)
    actions = actions[actions >= 0]
    events = np.zeros(len(EVENTS), dtype=np.int64)
    revealed = visible = 0
    named = [named_objects(mission) for mission in store.mission_texts]
    with progress("looking", len(store)) as bar:
        for episode in range(len(store)):
            frames = slice(int(store.offsets[episode]), int(store.offsets[episode + 1]))
            images = np.asarray(store.images[frames])
            steps = len(images) - 1
            meant = np.broadcast_to(named[store.missions[episode]], (steps, *named[0].shape))
            found = step_events(images[:-1], images[1:], np.asarray(store.actions[frames])[1:], meant)
            events += np.bincount(found, minlength=len(EVENTS))
            new, seen = revealed_cells(store, episode)
            revealed, visible = revealed + new, visible + seen
            bar.advance()
    words = Counter(
        word
        for mission, count in zip(*np.unique(store.missions, return_counts=True), strict=True)
        for word in mission_words(store.mission_texts[mission]) * int(count)
    )
    return {
        "fingerprint": store.fingerprint,
        "levels": store.level_ids,
        "episodes": len(store),
        "steps": store.num_steps,
        "splits": {name: int((store.splits == index).sum()) for index, name in enumerate(SPLITS)},
        "success_rate": _share(ends == Outcome.SUCCESS),
        "failure_rate": _share(ends == Outcome.FAILURE),
        "truncated_rate": _share(np.asarray(store.truncated)),
        "behaviours": {
            name: {
                "episodes": int((behaviours == index).sum()),
                "steps": int(lengths[behaviours == index].sum()),
                "success_rate": _share(ends[behaviours == index] == Outcome.SUCCESS),
            }
            for index, name in enumerate(BEHAVIOURS)
            if (behaviours == index).any()
        },
        "lengths": {
            "mean": round(float(lengths.mean()), 2) if len(lengths) else 0.0,
            **{
                f"p{share}": float(np.percentile(lengths, share)) if len(lengths) else 0.0
                for share in (0, 10, 50, 90, 100)
            },
        },
        "actions": dict(zip(grid.ACTIONS, np.bincount(actions, minlength=len(grid.ACTIONS)).tolist(), strict=True)),
        "events": dict(zip(EVENTS, events.tolist(), strict=True)),
        "revealed_cell_share": round(revealed / visible, 4) if visible else 0.0,
        "missions": len(np.unique(store.missions)),
        "mission_words": dict(words.most_common()),
        "duplicates": duplicates(store),
    }


def _share(flags: np.ndarray) -> float:
    return round(float(np.mean(flags)), 4) if len(flags) else 0.0


def duplicates(store: EpisodeStore) -> dict[str, int]:
    """Equal episodes, and equal starts that lie in different splits.

    Returns:
        ``episodes``: episodes equal to an earlier one in mission, views and actions;
        ``starts``: distinct pairs of mission and first view;
        ``test_starts_in_training``: test episodes whose mission and first view also begin a training episode.
    """
    seen: set[bytes] = set()
    starts: dict[bytes, set[int]] = {}
    begins: list[bytes] = []
    equal = 0
    for episode in range(len(store)):
        first, last = int(store.offsets[episode]), int(store.offsets[episode + 1])
        start = hashlib.sha256(
            store.mission_texts[store.missions[episode]].encode()
            + store.images[first].tobytes()
            + store.directions[first : first + 1].tobytes()
        )
        begins.append(start.digest())
        starts.setdefault(begins[-1], set()).add(int(store.splits[episode]))
        start.update(store.images[first:last].tobytes() + store.actions[first:last].tobytes())
        equal += start.digest() in seen
        seen.add(start.digest())
    train, test = SPLITS.index("train"), SPLITS.index("test")
    shared = sum(
        train in starts[start] for start, split in zip(begins, store.splits.tolist(), strict=True) if split == test
    )
    return {"episodes": equal, "starts": len(starts), "test_starts_in_training": shared}


def text_report(document: dict[str, Any]) -> str:
    """The document of ``inspect_dataset`` in lines for people."""
    total = max(1, document["steps"])
    lines = [
        f"{', '.join(document['datasets'])}  ({', '.join(document['levels'])})",
        f"fingerprint  {document['fingerprint']}",
        f"episodes     {document['episodes']}  "
        + ", ".join(f"{name} {count}" for name, count in document["splits"].items()),
        f"steps        {document['steps']}, an episode: mean {document['lengths']['mean']}, "
        f"median {document['lengths']['p50']:.0f}, longest {document['lengths']['p100']:.0f}",
        f"ends         success {document['success_rate']:.1%}, failure {document['failure_rate']:.1%}, "
        f"out of time {document['truncated_rate']:.1%}",
    ]
    for name, facts in document["behaviours"].items():
        lines.append(
            f"  {name:<10} {facts['episodes']:>7} episodes {facts['steps']:>9} steps, "
            f"success {facts['success_rate']:.1%}"
        )
    lines.append("actions      " + ", ".join(f"{name} {count}" for name, count in document["actions"].items()))
    lines.append("events")
    lines += [f"  {name:<31} {count:>9}  {count / total:.2%}" for name, count in document["events"].items() if count]
    repeated = document["duplicates"]
    lines += [
        f"revealed     {document['revealed_cell_share']:.1%} of the visible cells are seen for the first time",
        f"missions     {document['missions']}; words: "
        + ", ".join(f"{word} {count}" for word, count in document["mission_words"].items()),
        f"duplicates   {repeated['episodes']} episodes repeat an earlier one; "
        f"{repeated['test_starts_in_training']} test episodes start like a training one",
    ]
    for errors in document["errors"]:
        lines += [f"  {name}: {count}" for name, count in errors.items()]
    return "\n".join(lines)
