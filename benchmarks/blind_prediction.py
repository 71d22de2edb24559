"""Prediction from badly seen histories, as they are or after the model's belief has filled them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    if predictor is None:
        chunks = [slice(low, low + _CHUNK) for low in range(0, len(shown), _CHUNK)]
        cells = np.concatenate([_by_model(model, shown[part], visible[part] if belief else None) for part in chunks])
    else:
        cells = _by_baseline(predictor, shown, clear)
    truth = windows.Frames.from_trajectories(clear)
    steps = transitions(truth, truth.offsets[1:] - 1)
    right = cells == steps.cells
    owner = np.broadcast_to(episode[:, None], right.shape)
    row: dict[str, Any] = {}
    for name, tally in (
        ("known_cell_accuracy", Tally.of("share", right[steps.known], owner[steps.known])),
        ("known_frame_exact", Tally.of("share", (right | ~steps.known).all(axis=1), episode)),
    ):
        ends = tally.interval()
        row |= {name: tally.value, f"{name}_low": ends[0], f"{name}_high": ends[1], f"{name}_n": int(tally.count.sum())}
    return row


def _by_model(
    model: AnyOrderWorldModel, shown: Sequence[Trajectory], visible: Sequence[np.ndarray] | None
) -> np.ndarray:
    """Cells (B, 49) that the model predicts of the last frames, from the rest as shown; with ``visible``, what of it
    was seen, from what the model believes of the rest."""
    histories = [item.prefix(len(item) - 1) for item in shown]
    if visible is not None:
        known = [
            replace(Visibility.full(len(item)), images=seen[:-1]) for item, seen in zip(histories, visible, strict=True)
        ]
        histories = [item.trajectory for item in model.belief(histories, known)]
    images = model.predict(histories, np.array([item.actions[-1] for item in shown])).images
    return WorldTokenizer().cell_ids(images).reshape(len(images), -1)


def _by_baseline(predictor: str, shown: Sequence[Trajectory], clear: Sequence[Trajectory]) -> np.ndarray:
    """Cells (B, 49) that a baseline predicts of the last frames; of these themselves it reads the action alone."""
    asked = [
        replace(seen, images=np.append(seen.images[:-1], item.images[-1:], axis=0))
        for seen, item in zip(shown, clear, strict=True)
    ]
    frames = windows.Frames.from_trajectories(asked)
    return BASELINES[predictor](transitions(frames, frames.offsets[1:] - 1)).cells


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
