"""One-step prediction on held-out episodes: how good is the next imagined step, where something can be known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from wmtoolkit.evaluation.intervals import bootstrap_mean
from wmtoolkit.progress import progress
from wmtoolkit.world import geometry, grid, masks, windows
from wmtoolkit.world.batching import block_causal_batch
from wmtoolkit.world.decoding import block_log_probs
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import ACTION, BEHAVIOUR, BLOCK, DIRECTION, OUTCOME, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, Trajectory

_TOKENIZER = WorldTokenizer()
_CHUNK = 128


@dataclass
class Transitions:
    """N steps o_t, a_t -> o_{t+1} of held-out episodes, and what could be known of o_{t+1} beforehand.

    Attributes:
        frames: the episodes; episode: (N,); step: (N,) t.
        cells: (N, 49) ids of o_{t+1}; headings, outcomes, actions: (N,) of the step.
        before: (N, 49) ids of o_t in the same place of the view (copy-last-frame).
        remembered: (N, 49) ids last seen at the same place in the world, "empty" where nothing was.
        known: (N, 49) bool, the place in the world was seen in o_0..o_t.
        revealed: (N, 49) bool, seen in o_{t+1} for the first time.
        changed: (N, 49) bool, seen again with other content than when last seen.
    """

    frames: windows.Frames
    episode: np.ndarray
    step: np.ndarray
    cells: np.ndarray
    headings: np.ndarray
    outcomes: np.ndarray
    actions: np.ndarray
    before: np.ndarray
    remembered: np.ndarray
    known: np.ndarray
    revealed: np.ndarray
    changed: np.ndarray


@dataclass
class StepPredictions:
    """What a predictor says of N steps: cells (N, 49) ids, headings and outcomes (N,), cell confidence or None."""

    cells: np.ndarray
    headings: np.ndarray
    outcomes: np.ndarray
    cell_confidence: np.ndarray | None = None


def transitions(trajectories: Sequence[Trajectory], limit: int | None = None, seed: int = 0) -> Transitions:
    """All steps of some episodes, or ``limit`` of them drawn at random."""
    frames = windows.Frames.from_trajectories(trajectories)
    target = np.flatnonzero(frames.outcomes != Outcome.START)
    if limit is not None and limit < len(target):
        target = np.sort(np.random.default_rng(seed).choice(target, limit, replace=False))
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    headings = np.asarray(frames.directions[target], dtype=np.int64)
    images = np.asarray(frames.images[target])
    cells = _TOKENIZER.cell_ids(images).reshape(-1, grid.CELLS)
    world = geometry.world_cells(frames.positions[target], headings).reshape(-1, grid.CELLS, 2)
    empty = _TOKENIZER.cell_ids(np.array([grid.EMPTY, 0, 0]))
    last, times = [], []
    for low in range(0, len(target), _CHUNK):
        part = slice(low, low + _CHUNK)
        seen = windows.last_seen(frames, episode[part], step[part])
        ids, when = seen.look_up(world[part])
        last.append(ids)
        times.append(when)
    remembered, known = np.concatenate(last).astype(np.int64), np.concatenate(times) >= 0
    visible = images[..., 0].reshape(-1, grid.CELLS) != grid.UNSEEN
    return Transitions(
        frames=frames,
        episode=episode,
        step=step,
        cells=cells,
        headings=headings,
        outcomes=np.asarray(frames.outcomes[target], dtype=np.int64),
        actions=np.asarray(frames.actions[target], dtype=np.int64),
        before=_TOKENIZER.cell_ids(np.asarray(frames.images[target - 1])).reshape(-1, grid.CELLS),
        remembered=np.where(known, remembered, empty),
        known=known,
        revealed=visible & ~known,
        changed=visible & known & (remembered != cells),
    )


@torch.inference_mode()
def model_predictions(model: AnyOrderWorldModel, steps: Transitions) -> StepPredictions:
    """The world model's most likely next step, filled in one pass, as a rollout does it."""
    network, device = model.network, model.network.device
    cells, headings, outcomes, confidence = [], [], [], []
    with progress("predict", len(steps.episode)) as bar:
        for low in range(0, len(steps.episode), _CHUNK):
            part = slice(low, low + _CHUNK)
            window = windows.cut(steps.frames, steps.episode[part], steps.step[part], 2, network.world)
            # A rollout never knows who acted: it asks as if the bot did.
            window.context.ids[:, BEHAVIOUR] = _TOKENIZER.behaviours.start + BEHAVIOURS.index("bot")
            drawn = masks.only("forward", (len(window.ids), 1))
            batch = block_causal_batch(window, drawn, np.zeros((len(window.ids), 2), bool), network.world)
            hidden = network(batch.tokens.tensors(device), torch.as_tensor(batch.attention, device=device))
            scored = block_log_probs(network, hidden[:, batch.first : batch.first + BLOCK], batch.given[:, 0])
            best = scored[-1][1].max(-1)
            cells.append(network.completions.to(device)[best.indices].numpy(force=True))
            confidence.append(best.values.exp().numpy(force=True))
            outcomes.append(scored[OUTCOME][1][:, 0].argmax(-1).numpy(force=True))
            headings.append(scored[DIRECTION][1][:, 0].argmax(-1).numpy(force=True))
            bar.advance(len(window.ids))
    return StepPredictions(
        np.concatenate(cells), np.concatenate(headings), np.concatenate(outcomes), np.concatenate(confidence)
    )


def copy_last_frame(steps: Transitions) -> StepPredictions:
    """Baseline: nothing ever changes."""
    previous = np.asarray(steps.frames.directions[steps.frames.offsets[steps.episode] + steps.step], dtype=np.int64)
    return StepPredictions(steps.before, previous, np.full_like(steps.outcomes, Outcome.CONTINUE))


def dead_reckoned_map(steps: Transitions) -> StepPredictions:
    """Baseline: no learning, only the prior knowledge of the ``egomotion`` option: what was last seen is still there,
    and what was never seen is empty."""
    previous = np.asarray(steps.frames.directions[steps.frames.offsets[steps.episode] + steps.step], dtype=np.int64)
    turned = geometry.turned(previous, steps.actions)
    return StepPredictions(steps.remembered, turned, np.full_like(steps.outcomes, Outcome.CONTINUE))


BASELINES: dict[str, Callable[[Transitions], StepPredictions]] = {
    "copy-last-frame": copy_last_frame,
    "dead-reckoned map": dead_reckoned_map,
}


def prediction_metrics(steps: Transitions, said: StepPredictions, seed: int = 0) -> dict[str, dict[str, object]]:
    """The prediction metrics by name: value, 95 % bootstrap interval over episodes' steps, and n.

    ``known_cell_accuracy`` scores the cells whose place was seen before, ``revealed_cell_accuracy`` those seen for the
    first time, ``changed_cell_accuracy`` those that look otherwise than when last seen, ``known_frame_exact`` the
    share of frames whose known cells are all right. A name is missing when nothing of its kind occurs.
    """
    rng = np.random.default_rng(seed)
    right = said.cells == steps.cells
    found: dict[str, dict[str, object]] = {}

    def add(name: str, values: np.ndarray) -> None:
        if len(values):
            found[name] = {
                "value": float(np.mean(values)),
                "ci95": list(bootstrap_mean(values, rng, samples=500)),
                "n": len(values),
            }

    add("cell_accuracy", right.mean(axis=1))
    for name, chosen in (("known", steps.known), ("revealed", steps.revealed), ("changed", steps.changed)):
        add(f"{name}_cell_accuracy", right[chosen].astype(np.float64))
    add("frame_exact", right.all(axis=1).astype(np.float64))
    add("known_frame_exact", (right | ~steps.known).all(axis=1).astype(np.float64))
    add("direction_accuracy", (said.headings == steps.headings).astype(np.float64))
    found |= outcome_metrics(said.outcomes, steps.outcomes)
    if said.cell_confidence is not None:
        error = calibration_error(said.cell_confidence.ravel(), right.ravel())
        found["ece"] = {"value": error, "ci95": None, "n": right.size}
    return found


def outcome_metrics(said: np.ndarray, true: np.ndarray) -> dict[str, dict[str, object]]:
    """Precision, recall and F1 of SUCCESS; said, true: (N,) outcomes. Empty where there is no success at all."""
    hits = int(((said == Outcome.SUCCESS) & (true == Outcome.SUCCESS)).sum())
    claimed, real = int((said == Outcome.SUCCESS).sum()), int((true == Outcome.SUCCESS).sum())
    if not real:
        return {}
    precision, recall = hits / max(claimed, 1), hits / real
    f1 = 2 * hits / (claimed + real)
    values = {"outcome_precision": precision, "outcome_recall": recall, "outcome_f1": f1}
    return {name: {"value": value, "ci95": None, "n": real} for name, value in values.items()}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599): confidence and right are (N,)."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.bincount(place, weights=confidence, minlength=bins) - np.bincount(place, weights=right, minlength=bins)
    return float(np.abs(gap).sum() / max(count.sum(), 1))


@torch.inference_mode()
def action_accuracy(model: AnyOrderWorldModel, trajectories: Sequence[Trajectory]) -> dict[str, object] | None:
    """Share of the bot's choices that the model's policy makes too; None where no episode is the bot's."""
    by_bot = [trajectory for trajectory in trajectories if trajectory.behaviour == "bot" and len(trajectory)]
    if not by_bot:
        return None
    frames = windows.Frames.from_trajectories(by_bot)
    lengths = frames.lengths - 1
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.concatenate([np.arange(count) for count in lengths])
    network, device = model.network, model.network.device
    right = []
    for low in range(0, len(episode), _CHUNK):
        part = slice(low, low + _CHUNK)
        window = windows.cut(frames, episode[part], step[part], 2, network.world)
        drawn = masks.only("policy", (len(window.ids), 1))
        batch = block_causal_batch(window, drawn, np.ones((len(window.ids), 2), bool), network.world)
        hidden = network(batch.tokens.tensors(device), torch.as_tensor(batch.attention, device=device))
        said = network.logits(hidden[:, -1], _TOKENIZER.actions).argmax(-1).numpy(force=True)
        right.append(said == batch.target[:, 0, ACTION] - _TOKENIZER.actions.start)
    values = np.concatenate(right).astype(np.float64)
    interval = list(bootstrap_mean(values, np.random.default_rng(0), samples=500))
    return {"value": float(values.mean()), "ci95": interval, "n": len(values)}


@torch.inference_mode()
def mission_swap(model: AnyOrderWorldModel, trajectories: Sequence[Trajectory]) -> dict[str, object] | None:
    """Is the outcome grounded in the mission: median P(SUCCESS) at successes, with the true and with another mission.

    The other mission is one of the given trajectories' that names something else. None where that does not occur.
    """
    done = [trajectory for trajectory in trajectories if trajectory.success]
    missions = sorted({trajectory.mission for trajectory in done})
    if len(missions) < 2:
        return None

    values = []
    for swapped in (False, True):
        histories = []
        for index, trajectory in enumerate(done):
            others = [text for text in missions if text != trajectory.mission]
            mission = others[index % len(others)] if swapped else trajectory.mission
            histories.append(replace(trajectory.prefix(len(trajectory) - 1), mission=mission))
        actions = np.array([trajectory.actions[-1] for trajectory in done])
        found = [
            model.predict(histories[low : low + _CHUNK], actions[low : low + _CHUNK]).outcome_probabilities
            for low in range(0, len(done), _CHUNK)
        ]
        values.append(float(np.median(np.concatenate(found)[:, Outcome.SUCCESS])))
    return {"true_mission": values[0], "other_mission": values[1], "n": len(done)}


__all__ = [
    "BASELINES",
    "StepPredictions",
    "Transitions",
    "action_accuracy",
    "calibration_error",
    "mission_swap",
    "model_predictions",
    "outcome_metrics",
    "prediction_metrics",
    "transitions",
]
