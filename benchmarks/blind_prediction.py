"""Prediction from badly seen histories, as they are or after the model's belief has filled them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.data import open_store
from wmtoolkit.envs.observability import Corruption, ObservationFilter
from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.prediction import BASELINES
from wmtoolkit.evaluation.transitions import all_steps, transitions
from wmtoolkit.world import windows
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import Visibility, WorldTokenizer
from wmtoolkit.world.trajectory import Trajectory

HISTORY = 12
"""Frames of the past that the model is shown."""
_CHUNK = 32


def predict_blindly(
    model: AnyOrderWorldModel,
    data: Path,
    corruption: Mapping[str, Any],
    belief: bool,
    count: int,
    seed: int = 0,
    predictor: str | None = None,
) -> dict[str, Any]:
    """Predict ``count`` steps of the test split from histories seen through a ``Corruption``.

    Args:
        predictor: name of one of ``BASELINES`` that predicts in place of the model, from the same histories; it has no
            belief.

    Returns:
        ``known_cell_accuracy`` and ``known_frame_exact`` with intervals, flat: the truth is the clear next view, known
        is what a clear view of the same history would have shown.
    """
    rng = np.random.default_rng(seed)
    store = open_store([data], "test")
    frames = windows.Frames.from_store(store)
    target = rng.permutation(all_steps(frames))[:count]
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    last = target - frames.offsets[episode]
    clear = [_slice(store.trajectory(int(item)), int(end)) for item, end in zip(episode, last, strict=True)]
    shown, visible = zip(*(_seen(item, Corruption(**corruption), rng) for item in clear), strict=True)
    cells = []
    if predictor is not None:
        # Of what is asked about, the last frame, a baseline reads the action alone.
        asked = [
            replace(seen, images=np.append(seen.images[:-1], item.images[-1:], axis=0))
            for seen, item in zip(shown, clear, strict=True)
        ]
        bad = windows.Frames.from_trajectories(asked)
        cells.append(BASELINES[predictor](transitions(bad, bad.offsets[1:] - 1)).cells)
    for low in range(0, len(clear) if predictor is None else 0, _CHUNK):
        part = slice(low, low + _CHUNK)
        histories = [item.prefix(len(item) - 1) for item in shown[part]]
        if belief:
            known = [
                replace(Visibility.full(len(item)), images=seen[:-1])
                for item, seen in zip(histories, visible[part], strict=True)
            ]
            histories = [item.trajectory for item in model.belief(histories, known)]
        actions = np.array([item.actions[-1] for item in clear[part]])
        images = model.predict(histories, actions).images
        cells.append(WorldTokenizer().cell_ids(images).reshape(len(images), -1))
    truth = windows.Frames.from_trajectories(clear)
    steps = transitions(truth, truth.offsets[1:] - 1)
    right = np.concatenate(cells) == steps.cells
    owner = np.broadcast_to(episode[:, None], right.shape)
    row: dict[str, Any] = {}
    for name, tally in (
        ("known_cell_accuracy", Tally.of("share", right[steps.known], owner[steps.known])),
        ("known_frame_exact", Tally.of("share", (right | ~steps.known).all(axis=1), episode)),
    ):
        ends = tally.interval()
        row |= {name: tally.value, f"{name}_low": ends[0], f"{name}_high": ends[1], f"{name}_n": int(tally.count.sum())}
    return row


def _slice(trajectory: Trajectory, last: int) -> Trajectory:
    """Frames up to ``last``, at most ``HISTORY`` before it."""
    first = max(0, last - HISTORY)
    arrays = {
        name: getattr(trajectory, name)[first:last] for name in ("actions", "rewards", "terminations", "truncations")
    }
    frames = {name: getattr(trajectory, name)[first : last + 1] for name in ("images", "directions")}
    return replace(trajectory, **arrays, **frames)


def _seen(trajectory: Trajectory, corruption: Corruption, rng: np.random.Generator) -> tuple[Trajectory, np.ndarray]:
    """The trajectory as it is shown, and what of its images is visible, (T+1, 7, 7, 3) bool."""
    own = ObservationFilter(corruption, rng)
    found = [own.first(trajectory.images[0]), *(own.next(image) for image in trajectory.images[1:])]
    images, visible = (np.stack(part) for part in zip(*found, strict=True))
    return replace(trajectory, images=images), visible
