"""Masked reconstruction: cross-entropy of what was hidden, weighted by kind of token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wmtoolkit.training.config import LossConfig
from wmtoolkit.world import grid, masks
from wmtoolkit.world.batching import Batch
from wmtoolkit.world.expectation import CELL_IDS, NEVER_SEEN
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import (
    ACTION,
    BLOCK,
    DIRECTION,
    FIRST_CELL,
    FRONT_SLOT,
    OUTCOME,
    OWN_SLOT,
    WorldTokenizer,
)

_TOKENIZER = WorldTokenizer()
_KINDS: tuple[tuple[str, slice, range], ...] = (
    ("action", slice(ACTION, ACTION + 1), _TOKENIZER.actions),
    ("outcome", slice(OUTCOME, OUTCOME + 1), _TOKENIZER.outcomes),
    ("direction", slice(DIRECTION, DIRECTION + 1), _TOKENIZER.directions),
    ("cell", slice(FIRST_CELL, None), _TOKENIZER.cells),
)
KINDS = (*(name for name, _, _ in _KINDS), "policy", "lone_outcome", "mission")
"""Kinds of loss reported: tokens of blocks, the lone actions taken by the bot, lone outcomes, words of the mission."""


@dataclass
class Weights:
    """Weight of each target in the loss; 0 where nothing is asked.

    Attributes:
        blocks: (B, n, 52) float32; actions, outcomes: (B, n) float32 of the lone ones; words: (B, W) float32.
    """

    blocks: np.ndarray
    actions: np.ndarray
    outcomes: np.ndarray
    words: np.ndarray

    def rows(self, part: slice) -> Weights:
        """Those of some of the windows."""
        return Weights(self.blocks[part], self.actions[part], self.outcomes[part], self.words[part])

    @property
    def total(self) -> float:
        """The divisor of the weighted mean."""
        return float(self.blocks.sum() + self.actions.sum() + self.outcomes.sum() + self.words.sum())


def weigh(batch: Batch, config: LossConfig) -> Weights:
    """How much each hidden token of a batch counts.

    Actions count ``other_behaviour`` times as much when they ask for the policy and it was not the bot that acted;
    an outcome asked with all else visible counts ``outcome_alone`` times as much, and a cell that an action changed, or
    could have, ``changed`` times. With ``likelihood``, a block counts L/l when l of its L tokens are hidden, which
    makes the loss of uniformly drawn masks a bound on -log p.
    """
    hidden = batch.masks.targets & batch.valid[..., None]
    policy = batch.masks.strategy == masks.NAMES.index("policy")
    outcome = batch.masks.strategy == masks.NAMES.index("outcome")
    # A step of which nothing is visible asks for the policy: for the action and nothing else.
    hidden &= ~policy[..., None] | (np.arange(BLOCK) == ACTION)
    actor = np.where(batch.bot, 1.0, config.other_behaviour)
    blocks = hidden * np.float32(config.cell)
    blocks[_changeable(batch)] *= config.changed
    blocks[..., ACTION] = hidden[..., ACTION] * config.action * np.where(policy, actor, 1.0)
    blocks[..., OUTCOME] = hidden[..., OUTCOME] * config.outcome * np.where(outcome, config.outcome_alone, 1.0)
    blocks[..., DIRECTION] = hidden[..., DIRECTION] * config.direction
    if config.likelihood:
        blocks *= BLOCK / np.maximum(batch.masks.targets.sum(-1, keepdims=True), 1)
    none = np.zeros_like(batch.valid)
    asked = none if batch.actions_asked is None else batch.actions_asked
    ends = none if batch.outcomes_asked is None else batch.outcomes_asked
    words = np.zeros((len(blocks), 0)) if batch.mission_target is None else batch.mission_target >= 0
    return Weights(
        blocks.astype(np.float32),
        (asked * actor * config.action).astype(np.float32),
        (ends * config.outcome).astype(np.float32),
        (words * config.mission).astype(np.float32),
    )


def _changeable(batch: Batch) -> np.ndarray:
    """(B, n, 52) bool: cells that are not what memory expects for sure, and the hand and the front cell where the agent
    tried to pick up, drop or toggle, with or without effect: only together do they not favour either."""
    expected = batch.tokens.expected[:, batch.first :][:, : batch.given[0].size].reshape(batch.given.shape)
    changed = (expected > 0) & (expected <= CELL_IDS) & (expected != NEVER_SEEN)
    changed &= expected - 1 + _TOKENIZER.cells.start != batch.target
    tried = np.isin(batch.target[..., ACTION] - _TOKENIZER.actions.start, (grid.PICKUP, grid.DROP, grid.TOGGLE))
    for slot in (FRONT_SLOT, OWN_SLOT):
        changed[..., slot] |= tried & (expected[..., slot] > 0)
    return changed


class MaskedReconstruction(nn.Module):
    """The network with its loss: what is trained."""

    def __init__(self, network: WorldNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch, weights: Weights) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Weighted sum of cross-entropies in nats, and for each kind a tensor (sum of cross-entropy, count)."""
        network, device = self.network, self.network.device
        attention = batch.attention(device)
        asked_before = batch.mission_target is not None  # else nothing before the supervised blocks is asked
        first = batch.first if asked_before else 0
        keep = None if asked_before else batch.tokens.length - batch.first
        hidden = network(batch.tokens.tensors(device), attention, keep=keep)
        behind = first + batch.given.shape[1] * BLOCK
        blocks = hidden[:, first:behind].reshape(*batch.given.shape, -1)
        total = hidden.sum() * 0.0
        parts: dict[str, torch.Tensor] = {}

        def add(name: str, logits: torch.Tensor, target: torch.Tensor, weight: np.ndarray, counted: np.ndarray) -> None:
            nonlocal total
            losses = F.cross_entropy(logits, target, reduction="none")
            total = total + (losses * torch.as_tensor(weight, device=device)).sum()
            chosen = losses.detach()[torch.as_tensor(counted, device=device)]
            parts[name] = torch.stack([chosen.sum(), torch.tensor(float(len(chosen)), device=device)])

        for name, slots, kind in _KINDS:
            where = np.nonzero(weights.blocks[..., slots] > 0)
            if len(where[0]):
                states = blocks[:, :, slots][tuple(torch.as_tensor(index, device=device) for index in where)]
                target = torch.as_tensor(batch.target[..., slots][where], device=device)
                if name == "cell":
                    given = torch.as_tensor(batch.given[..., slots][where], device=device)
                    logits, target = network.cell_logits(states, given), network.completion_index(target)
                else:
                    logits, target = network.logits(states, kind), target - kind.start
                weight = weights.blocks[..., slots][where]
                add(name, logits, target, weight, weight > 0)
        for name, weight, slot, kind, counted in (
            ("policy", weights.actions, ACTION, _TOKENIZER.actions, batch.bot),
            ("lone_outcome", weights.outcomes, OUTCOME, _TOKENIZER.outcomes, weights.outcomes > 0),
        ):
            asked = np.nonzero(weight > 0)
            if len(asked[0]):
                states = hidden[:, behind:][tuple(torch.as_tensor(index, device=device) for index in asked)]
                target = torch.as_tensor(batch.target[..., slot][asked], device=device) - kind.start
                add(name, network.logits(states, kind), target, weight[asked], counted[asked])
            behind += weight.shape[1]
        hidden_words = np.nonzero(weights.words > 0)
        if len(hidden_words[0]) and batch.mission_target is not None:
            states = hidden[tuple(torch.as_tensor(index, device=device) for index in hidden_words)]
            target = torch.as_tensor(batch.mission_target[hidden_words], device=device) - _TOKENIZER.words.start
            weight = weights.words[hidden_words]
            add("mission", network.logits(states, _TOKENIZER.words), target, weight, weight > 0)
        return total, parts
