"""Looking into a dataset: sizes, success, actions, events, missions, duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data.datasets import find_datasets, open_store, packed_store, read_metadata
from wmtoolkit.data.events import EVENTS, revealed_cells, step_events
from wmtoolkit.data.splits import SPLITS
from wmtoolkit.data.store import EpisodeStore, verify
from wmtoolkit.progress import progress
from wmtoolkit.world import grid
from wmtoolkit.world.missions import named_objects
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, mission_words

_AT_A_TIME = 200
"""Episodes looked at together: fast, and a few megabytes."""


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
    named = np.stack([named_objects(mission) for mission in store.mission_texts])
    with progress("looking", len(store)) as bar:
        for first in range(0, len(store), _AT_A_TIME):
            part = range(first, min(first + _AT_A_TIME, len(store)))
            events += np.bincount(_events(store, part, named), minlength=len(EVENTS))
            new, seen = revealed_cells(store, part)
            revealed, visible = revealed + new, visible + seen
            bar.advance(len(part))
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


def _events(store: EpisodeStore, episodes: range, named: np.ndarray) -> np.ndarray:
    """(S,) what each step of successive episodes did, as index into ``EVENTS``; ``named``: objects of each mission."""
    first, last = store.offsets[episodes.start], store.offsets[episodes.stop]
    images, actions = np.asarray(store.images[first:last]), np.asarray(store.actions[first:last])
    after = np.flatnonzero(actions >= 0)
    meant = np.repeat(store.missions[episodes.start : episodes.stop], store.lengths[episodes.start : episodes.stop])
    return step_events(images[after - 1], images[after], actions[after], named[meant])


def _share(flags: np.ndarray) -> float:
    return round(float(np.mean(flags)), 4) if len(flags) else 0.0


def duplicates(store: EpisodeStore) -> dict[str, int]:
    """Equal episodes, and what of the test is in the training split too although its level seeds are not.

    Returns:
        ``episodes``: episodes equal to an earlier one in mission, views and actions;
        ``starts``: distinct pairs of mission and first view;
        ``test_episodes``: episodes of the test split;
        ``test_starts_in_training``: those whose mission and first view also begin a training episode;
        ``test_episodes_in_training``: those that equal a training episode from beginning to end.
    """
    starts, whole = [], []
    for episode in range(len(store)):
        first, last = int(store.offsets[episode]), int(store.offsets[episode + 1])
        digest = hashlib.sha256(store.mission_texts[store.missions[episode]].encode())
        digest.update(store.images[first].tobytes() + store.directions[first : first + 1].tobytes())
        starts.append(digest.digest())
        digest.update(store.images[first:last].tobytes() + store.actions[first:last].tobytes())
        whole.append(digest.digest())
    train, test = (np.flatnonzero(store.splits == SPLITS.index(name)).tolist() for name in ("train", "test"))

    def shared(digests: list[bytes]) -> int:
        trained = {digests[episode] for episode in train}
        return sum(digests[episode] in trained for episode in test)

    return {
        "episodes": len(whole) - len(set(whole)),
        "starts": len(set(starts)),
        "test_episodes": len(test),
        "test_starts_in_training": shared(starts),
        "test_episodes_in_training": shared(whole),
    }


def overlap_text(found: Mapping[str, int]) -> str:
    """What ``duplicates`` found between test and training, in sentences; empty if there is no test episode."""
    tests, starts = found["test_episodes"], found["test_starts_in_training"]
    if not tests:
        return ""
    text = (
        f"Of {tests:,} test episodes {starts:,} start with the mission and view of a training episode, and "
        f"{found['test_episodes_in_training']:,} equal one to the end."
    )
    if starts > tests / 2:
        text += (
            f" There are only {found['starts']:,} different starts: however new its seeds, the test asks for much that "
            "training has seen."
        )
    return text


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
        f"duplicates   {repeated['episodes']} episodes repeat an earlier one",
    ]
    if overlap := overlap_text(repeated):
        lines.append(f"             {overlap}")
    faults = [f"{name} {count}" for errors in document["errors"] for name, count in errors.items()]
    if faults:
        lines.append("went wrong   " + ", ".join(faults))
    return "\n".join(lines)
