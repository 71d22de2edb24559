"""dFactory's transform of the data: from a stored sequence to an example with fresh masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .layout import ACTION, DIRECTION, IGNORED, OUTCOME, SLOTS, Layout
from .masks import FULL_MIXTURE, MIXTURE, STRATEGIES, ask_goal, draw, hide

WEIGHTS = {
    "action": 10.0,
    "outcome": 10.0,
    "direction": 5.0,
    "cell": 1.0,
    "other_behaviour": 0.1,
    "outcome_alone": 3.0,
}
"""Weight of each kind of token: of 52 tokens 49 are cells, in which the others would drown. The last two are factors:
on the policy of whoever is not the bot, and on an outcome asked with all else visible."""


class AnyOrderTransform:
    """dFactory's transform: one stored sequence -> one example with fresh masks.

    The masks depend on seed, ``epoch`` and the example alone: not on the rank, the worker or what came before.

    Args:
        max_seq_len: tokens that every sequence has.
        mixture, full_mixture: share of each mask under block diffusion and under full attention.
        full_share: share of the examples under full attention.
        weights: see ``WEIGHTS``.
        noise_range: ratios of the any-order masks are uniform in it.
        behaviour_dropout: share of the examples that do not say who acted.
    """

    def __init__(
        self,
        layout: Layout,
        max_seq_len: int,
        *,
        seed: int,
        mixture: Mapping[str, float] = MIXTURE,
        full_mixture: Mapping[str, float] = FULL_MIXTURE,
        full_share: float = 0.0,
        weights: Mapping[str, float] = WEIGHTS,
        noise_range: tuple[float, float] = (0.0, 1.0),
        behaviour_dropout: float = 0.1,
    ) -> None:
        if max_seq_len % layout.block_size or max_seq_len < 3 * layout.block_size:
            raise ValueError(
                f"data.max_seq_len {max_seq_len} must be a multiple of the {layout.block_size} tokens of a block, and "
                "hold at least three"
            )
        for name, shares, known in (
            ("mask_mixture", mixture, (*STRATEGIES,)),
            ("full_mask_mixture", full_mixture, (*STRATEGIES, "goal")),
        ):
            if set(shares) - set(known) or min(shares.values(), default=0) < 0 or not sum(shares.values()) > 0:
                raise ValueError(f"data.{name} {dict(shares)} must be shares of {', '.join(known)}")
        if set(weights) != set(WEIGHTS):
            raise ValueError(f"data.loss_weights must name {', '.join(WEIGHTS)}, not {', '.join(weights)}")
        self.layout, self.max_seq_len, self.seed, self.epoch = layout, max_seq_len, seed, 0
        self.mixture, self.full_mixture, self.full_share = mixture, full_mixture, full_share
        self.weights, self.noise_range, self.behaviour_dropout = weights, noise_range, behaviour_dropout

    def __call__(self, example: Mapping[str, Any], source_name: str | None = None) -> list[dict[str, torch.Tensor]]:
        """Tensors of L tokens: dFactory's four keys, and three more that the task takes out again.

        ``input_ids`` clean, ``noisy_input_ids``, ``attention_mask`` (1: this token of the noisy copy takes part),
        ``labels``; ``position_ids``, ``loss_weights``, and ``full_attention`` (a single bool).

        Raises:
            ValueError: if the sequence is not one of this layout and length.
        """
        layout, size = self.layout, self.layout.block_size
        ids = np.array(example["input_ids"], dtype=np.int64)
        prompt = int(example["prompt_lengths"])
        self._check(ids, prompt)
        rng = np.random.default_rng((self.seed, self.epoch, int(example["id"])))
        full = bool(rng.random() < self.full_share)
        blocks = ids.reshape(-1, size)[1:]
        there = blocks[:, ACTION] != layout.pad
        bot = ids[0] == layout.bot
        if rng.random() < self.behaviour_dropout:
            ids[0] = layout.mask
        slots, cells, strategy = draw(self.full_mixture if full else self.mixture, len(blocks), rng, self.noise_range)
        if strategy[0] == "policy":  # nobody chose an action that leads to a first frame
            strategy[0], slots[0, ACTION] = "forward", True
        present = np.repeat(there[:, None], size, axis=1) & (blocks != layout.pad)
        if full and rng.random() * sum(self.full_mixture.values()) < self.full_mixture.get("goal", 0.0):
            strategy[:] = "goal"
            success = blocks[there.sum() - 1, OUTCOME] == layout.success
            present &= ask_goal(slots, cells, int(there.sum()), success, layout.span, rng)[:, None]
        asked = there & present[:, ACTION] & (np.arange(len(blocks)) >= prompt // size - 1)
        slots, cells = slots | ~asked[:, None], cells | ~asked[:, None, None]
        noisy = hide(blocks, slots, cells, layout)
        target = np.zeros(blocks.shape, bool)
        target[:, :SLOTS] = np.concatenate([~slots, ~cells.all(-1)], axis=-1)
        # A step of which nothing is visible asks for the policy: the action alone takes part.
        alone = (strategy == "policy") & asked
        present[alone, ACTION + 1 :] = target[alone, ACTION + 1 :] = False
        weights = self._weigh(target, strategy, bot)
        time = int(example.get("first_frame", 0))
        position = np.arange(len(ids)) + np.where(np.arange(len(ids)) < size, 0, time * size)
        prompt_part = np.full(size, IGNORED), ids[:size] != layout.pad, np.zeros(size)

        def whole(prompt_values: np.ndarray, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(np.concatenate([prompt_values, values.reshape(-1)])).to(dtype)

        return [
            {
                "input_ids": torch.from_numpy(ids),
                "noisy_input_ids": whole(ids[:size], noisy, torch.long),
                "attention_mask": whole(prompt_part[1], present, torch.long),
                "labels": whole(prompt_part[0], np.where(target, blocks, IGNORED), torch.long),
                "position_ids": torch.from_numpy(position),
                "loss_weights": whole(prompt_part[2], weights, torch.float32),
                "full_attention": torch.tensor(full),
            }
        ]

    def _check(self, ids: np.ndarray, prompt: int) -> None:
        layout, size = self.layout, self.layout.block_size
        if ids.shape != (self.max_seq_len,):
            raise ValueError(
                f"a sequence has {len(ids)} tokens, data.max_seq_len is {self.max_seq_len}: set it to {len(ids)}, or "
                "export with another --max-seq-len"
            )
        if prompt % size or not size <= prompt < len(ids):
            raise ValueError(
                f"prompt_lengths is {prompt}; it must be whole blocks of {size} and leave something to ask"
            )
        if ids.max() >= layout.vocab_size or (ids == layout.mask).any():
            raise ValueError("a sequence holds a mask or an id beyond the vocabulary: the data is of another export")

    def _weigh(self, target: np.ndarray, strategy: np.ndarray, bot: bool) -> np.ndarray:
        weights = target * self.weights["cell"]
        for slot, kind in ((ACTION, "action"), (OUTCOME, "outcome"), (DIRECTION, "direction")):
            weights[:, slot] = target[:, slot] * self.weights[kind]
        weights[strategy == "policy", ACTION] *= 1.0 if bot else self.weights["other_behaviour"]
        weights[strategy == "outcome", OUTCOME] *= self.weights["outcome_alone"]
        return weights
