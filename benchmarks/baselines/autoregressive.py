"""The autoregressive rival: the same LLaDA2 network and front-end under a causal mask, trained to tell the next token.

A sequence is ``[mission][memory][frame][frame]...``; what comes before the frames is seen by all, frames are seen from
left to right, and the state at each token is scored on the token behind it: action, outcome, heading, then the cells
column by column. One pass supervises every token of a window.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from wmtoolkit.evaluation.prediction import StepPredictions
from wmtoolkit.llada2 import BlockCache
from wmtoolkit.training.config import LossConfig
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.batching import expected_frames, placed_frames
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import ACTION, BEHAVIOUR, BLOCK, DIRECTION, FIRST_CELL, OUTCOME, WorldTokenizer
from wmtoolkit.world.tokens import EACH, Tokens, joined, reckon, told
from wmtoolkit.world.trajectory import BEHAVIOURS, Trajectory

_TOKENIZER = WorldTokenizer()
_ACTIONS = range(_TOKENIZER.actions.start, _TOKENIZER.bos)
_KINDS = {ACTION: _ACTIONS, OUTCOME: _TOKENIZER.outcomes, DIRECTION: _TOKENIZER.directions}
BOT = BEHAVIOURS.index("bot")
_CHUNK = 64


@dataclass
class Sequence:
    """Windows as sequences.

    Attributes:
        tokens: (B, C + n·52); context: C, how many come before the frames.
        attention: (B, 1, S, S) bool, True = attend.
        target: (B, n, 52) the frames' ids; valid: (B, n) bool, False for frames that are not there.
    """

    tokens: Tokens
    context: int
    attention: np.ndarray
    target: np.ndarray
    valid: np.ndarray


def sequences(window: windows.Window, network: WorldNetwork) -> Sequence:
    """Lay windows out from left to right."""
    pose = (window.position, window.heading, None) if network.world.egomotion else None
    frames = placed_frames(window.ids, window.time, pose, window.valid, _expected_next(window, network))
    before = window.context(network.world)
    tokens = told(joined(before, frames), network.world, window.start, window.time[:, 0])
    context = before.length
    order = np.maximum(np.arange(tokens.length) - context, -1)
    causal = order[:, None] >= order[None, :]
    return Sequence(tokens, context, (causal & tokens.valid[:, None, :])[:, None], window.ids, window.valid)


def _expected_next(window: windows.Window, network: WorldNetwork) -> np.ndarray | None:
    """Codes (B, n, 52) of what memory expects of the token after each, if the network's option says so."""
    if not network.world.expectation or window.seen is None:
        return None
    hidden = masks.hide(window.ids, masks.only("forward", window.valid.shape))
    pose = (window.position, window.heading, window.valid)
    codes = expected_frames(window.seen, hidden, window.time, pose, window.valid, window.ids)
    return np.concatenate([codes[..., 1:], np.zeros_like(codes[..., :1])], axis=-1)


def next_token_loss(
    network: WorldNetwork, window: windows.Window, bot: np.ndarray, weights: LossConfig
) -> tuple[torch.Tensor, float]:
    """Weighted sum of cross-entropies in nats of every token but those that begin an episode, and the sum of weights.

    Args:
        bot: (B,) bool, whose actions count in full; the others' count ``weights.other_behaviour`` times as much.
    """
    sequence = sequences(window, network)
    device = network.device
    hidden = network(sequence.tokens.tensors(device), torch.as_tensor(sequence.attention, device=device))
    hidden = hidden[:, sequence.context - 1 : -1].reshape(
        *sequence.target.shape, -1
    )  # what was known before each token
    weight = np.full(sequence.target.shape, weights.cell, np.float32) * sequence.valid[..., None]
    for slot, value in ((ACTION, weights.action), (OUTCOME, weights.outcome), (DIRECTION, weights.direction)):
        weight[..., slot] *= value / weights.cell
    weight[..., ACTION] *= np.where(bot, 1.0, weights.other_behaviour)[:, None]
    weight[..., [ACTION, OUTCOME]] *= (sequence.target[..., ACTION] != _TOKENIZER.bos)[..., None]
    target = torch.as_tensor(sequence.target, device=device)
    scale = torch.as_tensor(weight, device=device)
    total = hidden.sum() * 0.0
    for slot, kind in _KINDS.items():
        logits = network.logits(hidden[:, :, slot], kind)
        wanted = (target[..., slot] - kind.start).clamp(0, len(kind) - 1)
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        total = total + (losses * scale[..., slot].flatten()).sum()
    cells = hidden[:, :, FIRST_CELL:].flatten(0, 2)
    masked = torch.full((len(cells),), _TOKENIZER.masked_cell, device=device)
    wanted = network.completion_index(target[..., FIRST_CELL:].flatten().clamp(min=_TOKENIZER.cells.start))
    losses = F.cross_entropy(network.cell_logits(cells, masked), wanted.clamp(min=0), reduction="none")
    total = total + (losses * scale[..., FIRST_CELL:].flatten()).sum()
    return total, float(weight.sum())


@torch.inference_mode()
def continued(network: WorldNetwork, frames: windows.Frames, target: np.ndarray) -> StepPredictions:
    """What the model says of the steps to frames ``target`` (N,): the rest of the step, token after token, greedily."""
    parts = []
    for low in range(0, len(target), _CHUNK):
        window = _pair(network, frames, target[low : low + _CHUNK])
        given = np.broadcast_to(np.arange(BLOCK) == ACTION, (len(window.ids), BLOCK))
        ids, log_probs = _tell(network, window, given)
        parts.append((ids, np.exp(log_probs), *_teach(network, window)))
    ids, confidence, truth, visible = (np.concatenate(column) for column in zip(*parts, strict=True))
    return StepPredictions(
        cells=ids[:, FIRST_CELL:],
        headings=ids[:, DIRECTION] - _TOKENIZER.directions.start,
        outcomes=ids[:, OUTCOME] - _TOKENIZER.outcomes.start,
        confidence=confidence[:, FIRST_CELL:],
        log_probs=truth,
        visible=visible,
    )


@torch.inference_mode()
def chain(network: WorldNetwork, frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """-log p of outcome, heading and cells of frames ``target`` (N,) given past and action, (N, 52) nats by token: one
    pass."""
    parts = []
    for low in range(0, len(target), _CHUNK):
        truth, _ = _teach(network, _pair(network, frames, target[low : low + _CHUNK]))
        parts.append(np.where(np.arange(BLOCK) >= OUTCOME, -truth.astype(np.float64), 0.0))
    return np.concatenate(parts)


@torch.inference_mode()
def policy(network: WorldNetwork, frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """Probabilities (N, 7) of the action that led to frames ``target`` (N,), as the bot's, from the past alone."""
    parts = []
    for low in range(0, len(target), _CHUNK):
        window = _pair(network, frames, target[low : low + _CHUNK])
        window.mission.ids[:, BEHAVIOUR] = _TOKENIZER.behaviours.start + BOT
        hidden, _, _ = _read(network, window)
        parts.append(_choices(network, hidden, ACTION).exp().numpy(force=True))
    return np.concatenate(parts)


@torch.inference_mode()
def filled(network: WorldNetwork, frames: windows.Frames, target: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Frames ``target`` (N,) with what is not ``given`` (N, 52) told in its turn, from left to right: (N, 52) ids."""
    parts = []
    for low in range(0, len(target), _CHUNK):
        part = slice(low, low + _CHUNK)
        parts.append(_tell(network, _pair(network, frames, target[part]), given[part])[0])
    return np.concatenate(parts)


@torch.inference_mode()
def inverse(network: WorldNetwork, frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """P(action) (N, 7) that led to frames ``target`` (N,), by Bayes' rule: all that a model from left to right can say
    of it, at the price of seven passes."""
    parts = []
    for low in range(0, len(target), _CHUNK):
        window = _pair(network, frames, target[low : low + _CHUNK])
        scores = []
        for action in _ACTIONS:
            window.ids[:, 1, ACTION] = action
            scores.append(_teach(network, _reckoned(window))[0].sum(-1))
        parts.append(torch.tensor(np.stack(scores, axis=-1)).softmax(-1).numpy())
    return np.concatenate(parts)


def _pair(network: WorldNetwork, frames: windows.Frames, target: np.ndarray) -> windows.Window:
    """Windows of the frames ``target`` and the ones before; who acts is hidden, for what happens is not its doing."""
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    window = windows.cut(frames, episode, step, 2, network.world)
    window.mission.ids[:, BEHAVIOUR] = _TOKENIZER.mask
    return _reckoned(window)


def _reckoned(window: windows.Window) -> windows.Window:
    """The window with the second frame's pose as its action and the first frame give it; changed in place."""
    position, heading, _ = reckon(window.ids[:, 1], window.ids[:, 0], window.position[:, 0], window.heading[:, 0])
    window.position[:, 1], window.heading[:, 1] = position, heading
    return window


def _teach(network: WorldNetwork, window: windows.Window) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability (B, 52) of each token of the second frame, all before it given, and (B, 49) that each cell is
    seen at all: one pass."""
    sequence = sequences(window, network)
    device = network.device
    hidden = network(sequence.tokens.tensors(device), torch.as_tensor(sequence.attention, device=device))
    hidden = hidden[:, sequence.context + BLOCK - 1 : -1]
    scores = [_choices(network, hidden[:, slot], slot) for slot in range(BLOCK)]
    truth = [_chosen(network, scores[slot], window.ids[:, 1, slot], slot) for slot in range(BLOCK)]
    objects = _TOKENIZER.cell_attributes(network.completions.numpy(force=True))[:, 0]
    seen = torch.as_tensor(objects != grid.UNSEEN, device=device)
    visible = [part[:, seen].logsumexp(-1).numpy(force=True) for part in scores[FIRST_CELL:]]
    return np.stack(truth, axis=-1), np.stack(visible, axis=-1)


def _tell(network: WorldNetwork, window: windows.Window, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell the second frame of windows but for the tokens that are ``given`` (B, 52): 52 passes of one token.

    Returns:
        ids (B, 52), and log-probability (B, 52) of each.
    """
    device = network.device
    hidden, seen, cache = _read(network, window)
    pose = (window.position, window.heading, None) if network.world.egomotion else None
    expected = _expected_next(window, network)
    ids, log_probs = window.ids[:, 1].copy(), np.zeros((len(window.ids), BLOCK), np.float32)
    for slot in range(BLOCK):
        scores = _choices(network, hidden, slot)
        best = scores.argmax(-1).numpy(force=True)
        best = best + _KINDS[slot].start if slot in _KINDS else network.completions.numpy(force=True)[best]
        ids[:, slot] = np.where(given[:, slot], ids[:, slot], best)
        log_probs[:, slot] = _chosen(network, scores, ids[:, slot], slot)
        if slot + 1 < BLOCK:
            # The features of a token follow from the tokens up to it, so the frame is laid out anew as it grows.
            grown = np.concatenate([window.ids[:, :1], ids[:, None]], axis=1)
            frame = placed_frames(grown, window.time, pose, window.valid, expected)
            last = slice(BLOCK + slot, BLOCK + slot + 1)
            own = Tokens(**{name: getattr(frame, name)[:, last] for name in EACH}, words=window.mission.words)
            seen = np.concatenate([seen, own.valid], axis=1)
            mask = torch.as_tensor(seen, device=device)[:, None, None, :]
            own = told(own, network.world, window.start, window.time[:, 0])
            hidden = network(own.tensors(device), mask, cache)[:, 0]
    return ids, log_probs


def _read(network: WorldNetwork, window: windows.Window) -> tuple[torch.Tensor, np.ndarray, BlockCache]:
    """Read the first frame of windows: the state (B, H) behind it, which tokens (B, S) there are, and the cache."""
    sequence = sequences(replace(window, **{name: getattr(window, name)[:, :1] for name in _OF_FRAMES}), network)
    cache, device = BlockCache(), network.device
    hidden = network(sequence.tokens.tensors(device), torch.as_tensor(sequence.attention, device=device), cache)
    return hidden[:, -1], sequence.tokens.valid, cache


class LeftToRight:
    """What an agent asks of a model of its policy: ``PolicyAgent`` acts on it."""

    def __init__(self, network: WorldNetwork) -> None:
        self._network = network

    @property
    def forward_passes(self) -> int:
        """Passes of the network so far."""
        return self._network.forward_passes

    def policy(self, histories: Iterable[Trajectory]) -> np.ndarray:
        """Probabilities (B, 7) of the bot's next action after histories."""
        # The last frame is only a place for what comes next: ``policy`` does not read it.
        longer = [history.extended(0, history.observation()) for history in histories]
        frames = windows.Frames.from_trajectories(longer)
        return policy(self._network, frames, frames.offsets[1:] - 1)


_OF_FRAMES = ("ids", "time", "position", "heading", "valid", "frame")


def _choices(network: WorldNetwork, hidden: torch.Tensor, slot: int) -> torch.Tensor:
    """Log-probabilities (B, choices) of the token of a slot."""
    if slot in _KINDS:
        return network.logits(hidden, _KINDS[slot]).log_softmax(-1)
    masked = torch.full((len(hidden),), _TOKENIZER.masked_cell, device=hidden.device)
    return network.cell_logits(hidden, masked).log_softmax(-1)


def _chosen(network: WorldNetwork, scores: torch.Tensor, ids: np.ndarray, slot: int) -> np.ndarray:
    """Log-probabilities (B,) of given ids."""
    wanted = torch.as_tensor(ids, device=scores.device)
    index = wanted - _KINDS[slot].start if slot in _KINDS else network.completion_index(wanted)
    return scores.gather(-1, index[:, None])[:, 0].numpy(force=True)
