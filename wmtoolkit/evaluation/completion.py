"""Completion under full attention: masked cells and attributes by mask ratio, belief, and inverse dynamics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.prediction import CHUNK, inverse_by_bayes
from wmtoolkit.evaluation.transitions import all_steps, looks_changed
from wmtoolkit.world import grid, windows
from wmtoolkit.world.batching import full_attention_batch
from wmtoolkit.world.decoding import block_log_probs
from wmtoolkit.world.masks import Masks
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import ACTION, BLOCK, FIRST_CELL, WorldTokenizer

_TOKENIZER = WorldTokenizer()
LEVELS = ("cell", "attribute")
RATIOS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
BELIEF_RATIO = 0.3


def draw_masks(level: str, ratio: float, shape: tuple[int, int], rng: np.random.Generator, slots: bool = True) -> Masks:
    """Hide each token (``cell``) or each attribute and slot (``attribute``) with probability ``ratio``.

    Args:
        slots: whether actions, outcomes and headings are hidden too.
    """
    hidden = rng.random((*shape, grid.CELLS, 3 if level == "attribute" else 1)) < ratio
    visible = rng.random((*shape, FIRST_CELL)) >= (ratio if slots else 0.0)
    return Masks(visible, np.broadcast_to(~hidden, (*shape, grid.CELLS, 3)), np.zeros(shape, np.int64))


@torch.inference_mode()
def _scores(
    model: AnyOrderWorldModel, window: windows.Window, drawn: Masks
) -> tuple[list[tuple[int, torch.Tensor]], np.ndarray]:
    """Log-probabilities over what each slot of the windows' frames may hold, (B * n, slots, choices), and the truth."""
    network, device = model.network, model.network.device
    batch = full_attention_batch(window, drawn, np.zeros(window.valid.shape, bool), network.world)
    attention = batch.attention(device)
    hidden = network(batch.tokens.tensors(device), attention, keep=batch.tokens.length - batch.first)
    hidden = hidden.reshape(-1, BLOCK, hidden.shape[-1])
    return block_log_probs(network, hidden, batch.given.reshape(-1, BLOCK)), batch.target


def completion_tallies(
    model: AnyOrderWorldModel,
    frames: windows.Frames,
    target: np.ndarray,
    level: str,
    ratio: float,
    rng: np.random.Generator,
    *,
    belief: bool = False,
) -> dict[str, Tally]:
    """Fill hidden cells of windows of ``recent + 1`` frames, of which ``target`` (N,) is the last, in one round.

    Windows at an episode's start are shorter. The pose of a window's first frame is given: it is where the past led.
    ``accuracy`` is the share of hidden cells (of hidden attributes at level ``attribute``) filled right, ``nll`` nats
    a hidden cell (attribute). With ``belief`` only cells are hidden and those of the last frame are scored: what an
    agent asks for when it sees badly.
    """
    size = model.network.world.recent + 1
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    local = target - frames.offsets[episode]
    right, nll, owner, weight = [], [], [], []
    completions = model.network.completions.numpy(force=True)
    for low in range(0, len(target), CHUNK):
        part = slice(low, low + CHUNK)
        start = np.maximum(0, local[part] - size + 1)
        place = (local[part] - start)[:, None]
        window = windows.cut(frames, episode[part], start, size, model.network.world)
        window.valid &= np.arange(size) <= place  # what comes after is not known yet
        drawn = draw_masks(level, ratio, window.valid.shape, rng, slots=not belief)
        scored, true = _scores(model, window, drawn)
        cells = scored[-1][1].reshape(*true.shape[:2], grid.CELLS, -1)
        wanted = torch.as_tensor(true[..., FIRST_CELL:], device=cells.device)
        index = model.network.completion_index(wanted)
        lost = -cells.gather(-1, index[..., None])[..., 0].numpy(force=True)
        said = completions[cells.argmax(-1).numpy(force=True)]
        last = np.arange(size) == place if belief else window.valid
        hidden = ~drawn.cells & (last & window.valid)[..., None, None]
        if level == "cell":
            counted = hidden.any(-1)
            hits = (said == true[..., FIRST_CELL:]) & counted
        else:
            counted = hidden.sum(-1)
            equal = _TOKENIZER.cell_attributes(said) == _TOKENIZER.cell_attributes(true[..., FIRST_CELL:])
            hits = (equal & hidden).sum(-1)
        nll.append((lost * (counted > 0)).sum((1, 2)))
        right.append(hits.sum((1, 2)))
        weight.append(counted.sum((1, 2)))
        owner.append(episode[part])
    count, group = np.concatenate(weight), np.concatenate(owner)
    return {
        "accuracy": _tally("share", np.concatenate(right), count, group),
        "nll": _tally("mean", np.concatenate(nll), count, group),
    }


def _tally(kind: str, totals: np.ndarray, counts: np.ndarray, episode: np.ndarray) -> Tally:
    """Tally of sums over windows."""
    _, place = np.unique(episode, return_inverse=True)
    total, count = np.bincount(place, weights=totals), np.bincount(place, weights=counts)
    return Tally(kind, total, count, count.astype(np.int64))


def completion_curves(
    model: AnyOrderWorldModel, frames: windows.Frames, count: int, rng: np.random.Generator
) -> dict[tuple[str, float], dict[str, Tally]]:
    """``completion_tallies`` of ``count`` windows at each masking level and ratio."""
    target = rng.permutation(all_steps(frames))[:count]
    return {
        (level, ratio): completion_tallies(model, frames, target, level, ratio, rng)
        for level in LEVELS
        for ratio in RATIOS
    }


def belief_accuracy(model: AnyOrderWorldModel, frames: windows.Frames, count: int, rng: np.random.Generator) -> Tally:
    """Share of hidden cells of the newest frame filled right, where 0.3 of the cells of every frame are hidden."""
    target = rng.permutation(all_steps(frames))[:count]
    return completion_tallies(model, frames, target, "cell", BELIEF_RATIO, rng, belief=True)["accuracy"]


@torch.inference_mode()
def inverse_probabilities(model: AnyOrderWorldModel, frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """P(action) (N, 7) that led to frames ``target`` (N,), given all the rest: ``infer_action`` in batches."""
    span = model.network.world.span
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    found = []
    for low in range(0, len(target), CHUNK // 4):
        part = slice(low, low + CHUNK // 4)
        place = step[part] % (span - 1)  # ``complete`` fills window by window, which share a frame
        window = windows.cut(frames, episode[part], step[part] - place, span, model.network.world)
        shape = window.valid.shape
        slots = np.ones((*shape, FIRST_CELL), bool)
        rows = np.arange(len(place))
        slots[rows, place + 1, ACTION] = False
        everything = Masks(slots, np.ones((*shape, grid.CELLS, 3), bool), np.zeros(shape, np.int64))
        scored, _ = _scores(model, window, everything)
        actions = scored[ACTION][1][:, 0].exp().numpy(force=True).reshape(*shape, -1)
        found.append(actions[rows, place + 1])
    return np.concatenate(found)


def inverse_tallies(
    model: AnyOrderWorldModel, frames: windows.Frames, count: int, rng: np.random.Generator
) -> dict[str, Tally]:
    """``inverse_accuracy`` over all steps, and over those that changed what is seen: where nothing changed, a bump, a
    vain pick-up, drop or toggle cannot be told apart. ``inverse_bayes_changed`` are the latter by Bayes' rule."""
    target = rng.permutation(all_steps(frames))[:count]
    right = inverse_probabilities(model, frames, target).argmax(-1) == np.asarray(frames.actions)[target]
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    changed = looks_changed(frames, target)
    found: dict[str, Any] = {"inverse_accuracy": Tally.of("share", right, episode)}
    if changed.any():
        found["inverse_accuracy_changed"] = Tally.of("share", right[changed], episode[changed])
        target, episode = target[changed], episode[changed]
        right = inverse_by_bayes(model, frames, target).argmax(-1) == np.asarray(frames.actions)[target]
        found["inverse_bayes_changed"] = Tally.of("share", right, episode)
    return found
