"""Likelihood of trajectories under the block-causal model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from wmtoolkit.world import masks, windows
from wmtoolkit.world.batching import block_causal_batch
from wmtoolkit.world.decoding import block_log_probs
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import ACTION, BLOCK, DIRECTION, FIRST_CELL, OUTCOME
from wmtoolkit.world.trajectory import Trajectory

_CHUNK = 64


@torch.inference_mode()
def target_log_probs(network: WorldNetwork, window: windows.Window, drawn: masks.Masks) -> np.ndarray:
    """Log-probability of what was hidden in the second frame of two-frame windows.

    Args:
        window: B windows of two frames; drawn: masks of shape (B, 1).

    Returns:
        (B, 52) float32 in nats, 0 at visible tokens.
    """
    batch = block_causal_batch(window, drawn, np.zeros((len(window.ids), 2), bool), network.world)
    device = network.device
    attention = batch.attention(device)
    hidden = network(batch.tokens.tensors(device), attention, keep=batch.tokens.length - batch.first)[:, :BLOCK]
    target = batch.target[:, 0]
    result = np.zeros(target.shape, np.float32)
    slots = (*(slice(slot, slot + 1) for slot in (ACTION, OUTCOME, DIRECTION)), slice(FIRST_CELL, None))
    scored = block_log_probs(network, hidden, batch.given[:, 0])
    for place, (first, log_probs) in zip(slots, scored, strict=True):
        wanted = torch.as_tensor(target[:, place], device=device)
        index = network.completion_index(wanted) if first < 0 else wanted - first
        result[:, place] = log_probs.gather(-1, index[..., None])[..., 0].numpy(force=True)
    return result * drawn.targets[:, 0]


def nll(
    network: WorldNetwork, trajectories: Sequence[Trajectory], *, samples: int = 1, seed: int = 0
) -> dict[str, np.ndarray]:
    """Upper bound on -log p(actions, outcomes, observations | mission, first observation), step by step.

    Each step is bounded given its true past by the any-order average: the number l of hidden tokens is uniform in
    1..L, which ones is uniform, and the cross-entropy of the hidden ones is weighted by L/l (Uria et al. 2014,
    arXiv:1310.1757; Ou et al. 2024, arXiv:2406.03736). Hidden targets are never given to the network.

    Args:
        samples: draws of masks a step; seed: of the masks.

    Returns:
        (B,) float64 arrays in nats a step: ``nll_per_step`` and its parts ``action``, ``outcome``, ``direction``,
        ``cell``; ``dynamics_per_step``, all but the action; and ``standard_error`` of ``nll_per_step`` from the draws
        and steps. NaN for a trajectory without steps.
    """
    frames = windows.Frames.from_trajectories(trajectories)
    steps = frames.lengths - 1
    episode = np.repeat(np.arange(len(steps)), steps)
    start = np.concatenate([np.arange(count) for count in steps]) if len(episode) else np.zeros(0, int)
    rng = np.random.default_rng(seed)
    terms = np.zeros((samples, len(episode), BLOCK))
    for sample in range(samples):
        for low in range(0, len(episode), _CHUNK):
            part = slice(low, low + _CHUNK)
            window = windows.cut(frames, episode[part], start[part], 2, network.world)
            drawn = masks.draw({"cell": 1.0}, (len(window.ids), 1), rng)
            weight = BLOCK / drawn.targets[:, 0].sum(-1, keepdims=True)
            terms[sample, part] = -target_log_probs(network, window, drawn) * weight
    per_step = terms.mean(axis=0)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(episode, weights=values, minlength=len(steps))
        return np.divide(total, steps, out=np.full(len(steps), np.nan), where=steps > 0)

    result = {
        "nll_per_step": mean(per_step.sum(-1)),
        "action": mean(per_step[:, ACTION]),
        "outcome": mean(per_step[:, OUTCOME]),
        "direction": mean(per_step[:, DIRECTION]),
        "cell": mean(per_step[:, FIRST_CELL:].sum(-1)),
        "dynamics_per_step": mean(per_step[:, 1:].sum(-1)),
    }
    spread = mean(terms.sum(-1).var(axis=0, ddof=1) if samples > 1 else np.zeros(len(episode)))
    between = mean((per_step.sum(-1) - result["nll_per_step"][episode]) ** 2)
    result["standard_error"] = np.sqrt((spread / samples if samples > 1 else between) / np.maximum(steps, 1))
    return result
