"""How far imagination that goes on alone drifts from what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data import open_store
from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.world import geometry, windows
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import WorldTokenizer

_CHUNK = 32
_MEASURES = ("known_cell_accuracy", "known_frame_exact", "direction_accuracy", "outcome_accuracy")


def open_loop(
    model: AnyOrderWorldModel,
    data: Sequence[Path],
    branches: int,
    horizon: int,
    seed: int = 0,
    decoding_steps: int = 1,
) -> dict[str, Any]:
    """Branch from recorded episodes of the test split and imagine on, under the recorded actions.

    Imagination starts at a random step of an episode, from all that was seen until then, goes on for ``horizon`` steps
    or to the episode's end, and is never shown reality again. A cell is known if its place was seen before the branch:
    nothing else can be held against it.

    Args:
        decoding_steps: rounds in which each frame is filled in, the most confident tokens first.

    Returns:
        ``steps``: a row for each horizon h with ``n`` branches that lasted so long, ``_MEASURES`` with intervals; and
        ``divergence``: ``survival``, the chance of no error up to each horizon (Kaplan and Meier 1958: a branch whose
        episode ends counts as far as it went), its ``median``, and the share of branches ``without_error``.
    """
    rng = np.random.default_rng(seed)
    store = open_store(data, "test")
    frames = windows.Frames.from_store(store)
    steps = frames.lengths - 1
    episode = rng.permutation(np.flatnonzero(steps > 0))[:branches]
    start = rng.integers(0, steps[episode])
    last = np.minimum(steps[episode] - start, horizon)
    # right[branch, h, measure] and how much each weighs; nothing after a branch has ended.
    right = np.zeros((len(episode), horizon, len(_MEASURES)))
    weight = np.zeros_like(right)
    for low in range(0, len(episode), _CHUNK):
        part = np.arange(low, min(low + _CHUNK, len(episode)))
        _imagine(model, store, frames, episode, start, last, part, right, weight, decoding_steps)
    rows = []
    for index in range(horizon):
        there = np.flatnonzero(weight[:, index, 1])
        if not len(there):
            break
        row: dict[str, Any] = {"horizon": index + 1, "n": len(there)}
        for measure, name in enumerate(_MEASURES):
            amount = weight[there, index, measure]
            tally = Tally("share", right[there, index, measure], amount, amount.astype(np.int64))
            if amount.sum():
                low_end, high_end = tally.interval()
                row |= {name: tally.value, f"{name}_low": low_end, f"{name}_high": high_end}
        rows.append(row)
    return {"steps": rows, "divergence": _divergence(right, weight, last)}


def _imagine(
    model: AnyOrderWorldModel,
    store: Any,
    frames: windows.Frames,
    episode: np.ndarray,
    start: np.ndarray,
    last: np.ndarray,
    part: np.ndarray,
    right: np.ndarray,
    weight: np.ndarray,
    decoding_steps: int,
) -> None:
    """Imagine the branches ``part``; ``right`` and ``weight`` are written in place."""
    tokens = WorldTokenizer()
    seen = windows.last_seen(frames, episode[part], start[part])
    state = model.rollout_state([store.trajectory(int(episode[item])).prefix(int(start[item])) for item in part])
    lanes = np.arange(len(part))
    for index in range(int(last[part].max())):
        going = last[part[lanes]] > index
        if not going.all():
            lanes = lanes[going]
            state, seen = state.select(np.flatnonzero(going)), seen.select(np.flatnonzero(going))
        own = part[lanes]
        target = frames.offsets[episode[own]] + start[own] + index + 1
        state = state.step(np.asarray(frames.actions[target], dtype=np.int64), steps=decoding_steps)
        headings = np.asarray(frames.directions[target], dtype=np.int64)
        world = geometry.world_cells(frames.positions[target], headings)
        known = (seen.look_up(world)[1] >= 0).reshape(len(own), -1)
        cells = tokens.cell_ids(np.asarray(frames.images[target])).reshape(len(own), -1)
        equal = tokens.cell_ids(state.images).reshape(len(own), -1) == cells
        right[own, index, 0], weight[own, index, 0] = (equal & known).sum(-1), known.sum(-1)
        right[own, index, 1] = (equal | ~known).all(-1)
        right[own, index, 2] = state.directions == headings
        right[own, index, 3] = state.sampled_outcomes == np.asarray(frames.outcomes[target])
        weight[own, index, 1:] = 1


def _divergence(right: np.ndarray, weight: np.ndarray, last: np.ndarray) -> dict[str, Any]:
    """When the first known cell or heading went wrong; branches that ended before count as far as they went."""
    wrong = (weight[..., 1] > 0) & ((right[..., 1] < 1) | (right[..., 2] < 1))
    ever = wrong.any(axis=1)
    first = np.where(ever, wrong.argmax(axis=1) + 1, last + 1)
    # Kaplan-Meier: the chance to last beyond h, where branches drop out as their episodes end.
    survival, steps = 1.0, []
    for horizon in range(1, int(last.max()) + 1):
        at_risk = int((first >= horizon).sum() - ((first == horizon) & ~ever).sum())
        failed = int(((first == horizon) & ever).sum())
        if at_risk:
            survival *= 1 - failed / at_risk
        steps.append(survival)
    below = np.flatnonzero(np.array(steps) <= 0.5)
    return {
        "branches": len(first),
        "without_error": float(1 - ever.mean()),
        "median": int(below[0] + 1) if len(below) else None,
        "survival": [round(value, 4) for value in steps],
    }
