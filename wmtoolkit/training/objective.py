"""Masked reconstruction: cross-entropy of what was hidden, weighted by kind of token."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from wmtoolkit.world import masks
from wmtoolkit.world.batching import Batch
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import ACTION, DIRECTION, FIRST_CELL, OUTCOME, WorldTokenizer

_TOKENIZER = WorldTokenizer()
KINDS = ("action", "outcome", "direction", "cell")
"""Kinds of hidden tokens; the losses of lone actions taken by the bot are reported as ``policy``."""


def token_weights(batch: Batch, weights: Mapping[str, float]) -> np.ndarray:
    """(B, n, 52) float32 weight of each supervised token; 0 where nothing is asked.

    ``weights`` holds ``action``, ``outcome``, ``direction``, ``cell``, ``mission``, the factor ``other_behaviour`` on
    actions of anyone but the bot, the factor ``outcome_alone`` on outcomes asked with all else visible, and
    ``likelihood``: 1 weights a block by L/l, l being the number of hidden of L tokens (the bound on the likelihood).
    """
    hidden = batch.masks.targets & batch.valid[..., None]
    asked_policy = batch.masks.strategy == masks.NAMES.index("policy")
    asked_outcome = batch.masks.strategy == masks.NAMES.index("outcome")
    # The policy query asks for the action and nothing else.
    hidden &= ~asked_policy[..., None] | (np.arange(hidden.shape[-1]) == ACTION)
    result = hidden * np.float32(weights["cell"])
    result[..., ACTION] = hidden[..., ACTION] * np.where(
        batch.bot | ~asked_policy, weights["action"], weights["action"] * weights["other_behaviour"]
    )
    result[..., OUTCOME] = hidden[..., OUTCOME] * weights["outcome"]
    result[..., OUTCOME] *= np.where(asked_outcome, weights["outcome_alone"], 1.0)
    result[..., DIRECTION] = hidden[..., DIRECTION] * weights["direction"]
    if weights["likelihood"]:
        count = batch.masks.targets.sum(-1, keepdims=True)
        result *= hidden.shape[-1] / np.maximum(count, 1)
    return result.astype(np.float32)


def masked_loss(
    network: WorldNetwork, hidden: torch.Tensor, batch: Batch, weights: Mapping[str, float]
) -> tuple[torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Weighted mean cross-entropy of the hidden tokens of a batch.

    Args:
        hidden: (B, S, H) of the batch's tokens.

    Returns:
        The loss (0, with zero gradient, when nothing is hidden) and per kind (sum of cross-entropy in nats, count).
    """
    device = hidden.device
    behind = batch.first + batch.given.shape[1] * batch.given.shape[2]
    whole, lone = hidden, hidden[:, behind:]
    hidden = hidden[:, batch.first : behind].reshape(*batch.given.shape, -1)
    weight = token_weights(batch, weights)
    total = hidden.sum() * 0.0
    divisor = float(weight.sum())
    parts: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    if batch.actions_asked is not None:
        asked = torch.as_tensor(batch.actions_asked, device=device)
        importance = np.where(batch.bot, 1.0, weights["other_behaviour"])[batch.actions_asked] * weights["action"]
        target = torch.as_tensor(batch.target[..., ACTION], device=device)[asked] - _TOKENIZER.actions.start
        losses = F.cross_entropy(network.logits(lone[asked], _TOKENIZER.actions), target, reduction="none")
        total = total + (losses * torch.as_tensor(importance, dtype=torch.float32, device=device)).sum()
        divisor += float(importance.sum())
        from_bot = torch.as_tensor(batch.bot[batch.actions_asked], device=device)
        parts["policy"] = (losses.detach()[from_bot].sum(), from_bot.sum().float())
    if batch.mission_target is not None and (batch.mission_target >= 0).any():
        words = torch.as_tensor(batch.mission_target, device=device)
        target = words[words >= 0] - _TOKENIZER.words.start
        states = whole[:, : words.shape[1]][words >= 0]
        losses = F.cross_entropy(network.logits(states, _TOKENIZER.words), target, reduction="none")
        total = total + weights["mission"] * losses.sum()
        divisor += weights["mission"] * len(losses)
        parts["mission"] = (losses.detach().sum(), torch.tensor(float(len(losses)), device=device))
    ranges = {
        "action": (ACTION, range(_TOKENIZER.actions.start, _TOKENIZER.actions.stop)),
        "outcome": (OUTCOME, _TOKENIZER.outcomes),
        "direction": (DIRECTION, _TOKENIZER.directions),
    }
    for kind in KINDS:
        slot = slice(FIRST_CELL, None) if kind == "cell" else slice(ranges[kind][0], ranges[kind][0] + 1)
        chosen = np.nonzero(weight[..., slot] > 0)
        if not len(chosen[0]):
            continue
        where = tuple(torch.as_tensor(index, device=device) for index in chosen)
        states = hidden[:, :, slot][where]
        target = torch.as_tensor(batch.target[..., slot][chosen], device=device)
        if kind == "cell":
            given = torch.as_tensor(batch.given[..., slot][chosen], device=device)
            logits = network.cell_logits(states, given)
            target = network.completion_index(target)
        else:
            logits = network.logits(states, ranges[kind][1])
            target = target - ranges[kind][1].start
        losses = F.cross_entropy(logits, target, reduction="none")
        total = total + (losses * torch.as_tensor(weight[..., slot][chosen], device=device)).sum()
        parts[kind] = (losses.detach().sum(), torch.tensor(float(len(losses)), device=device))
    return total / max(divisor, 1e-6), parts
