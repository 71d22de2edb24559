"""Block diffusion decoding: blocks from left to right, inside a block the surest tokens first.

LLaDA2.0's rule (threshold over a schedule), the any-order rules beside it, and LLaDA2.1's editing of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch.nn.utils.rnn import pad_sequence

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.cache import BlockCache
from wmtoolkit.llada2.masks import block_causal_mask

if TYPE_CHECKING:
    from wmtoolkit.llada2.modeling import LLaDA2MoeForCausalLM

Order = Literal["confidence", "entropy", "random", "fixed"]
NO_TOKEN = -1
"""An id that no token has."""


@dataclass(frozen=True)
class _Rules:
    """How tokens are drawn and committed; the fields are ``generate``'s arguments."""

    temperature: float
    top_k: int | None
    top_p: float | None
    threshold: float
    order: Order
    mask_id: int
    generator: torch.Generator | None


@torch.no_grad()
def generate(
    model: LLaDA2MoeForCausalLM,
    input_ids: torch.Tensor,
    *,
    temperature: float = 0.0,
    block_length: int = 32,
    steps: int = 32,
    gen_length: int = 2048,
    top_p: float | None = None,
    top_k: int | None = None,
    eos_early_stop: bool = False,
    minimal_topk: int = 1,
    threshold: float = 0.95,
    eos_id: int | None = 156892,
    mask_id: int = 156895,
    generator: torch.Generator | None = None,
    prompt_lengths: torch.Tensor | None = None,
    order: Order = "confidence",
    editing_threshold: float | None = None,
    max_post_steps: int = 16,
    num_to_transfer: int = 1,
    use_cache: bool = True,
) -> torch.Tensor:
    """Continue prompts by block diffusion, as LLaDA2.0 does (LLaDA2.0 technical report).

    Blocks are aligned to index 0, so the first one decoded may begin with the prompt's end. Rows do not influence
    each other (but they draw from the same ``generator``).

    Args:
        input_ids: long (batch, prompt length).
        temperature: 0 takes the likeliest token, and its probability in the full softmax as its confidence; above 0
            tokens are drawn after ``top_k`` and ``top_p``, and the confidence is the probability drawn with.
        steps: forward passes a block, at most ``gen_length // minimal_topk``; step s commits at least its share of
            the block, and every token whose confidence exceeds ``threshold``.
        eos_early_stop: stop a row inside a block, as soon as all before its first ``eos_id`` is filled. Without it
            a row stops after the block that holds one.
        eos_id: None never ends a row.
        prompt_lengths: long (batch,); prompts shorter than ``input_ids`` is wide, which is then padded on the right.
        order: which masked tokens go first: surest (LLaDA2's rule), of least ``entropy``, ``random``, or ``fixed``
            from left to right. Only LLaDA2's own uses the threshold.
        editing_threshold: LLaDA2.1: each pass commits at least ``num_to_transfer`` tokens, and overwrites committed
            ones that it would now choose otherwise with more confidence than this. ``steps`` is then ignored; after
            the last mask at most ``max_post_steps`` passes follow. From pass ``block_length`` on the mask itself is
            no candidate, so a block always fills. Rows stop at ``eos_id`` only with ``eos_early_stop``.
        use_cache: keep the keys and values of finished blocks; the same result as without, faster. Without effect
            where ``rope_scaling`` turns earlier tokens anew as the text grows.

    Returns:
        Long (batch, at most ``gen_length``): the generated ids alone, up to and with the first ``eos_id``, padded
        with the config's pad token (``eos_id`` if it has none).
    """
    lengths = _prompt_lengths(input_ids, prompt_lengths)
    _check(order, model.config.vocab_size, mask_id=mask_id, temperature=temperature)
    _check_positive(
        block_length=block_length, gen_length=gen_length, minimal_topk=minimal_topk, num_to_transfer=num_to_transfer
    )
    steps = min(steps, gen_length // minimal_topk)
    if steps < 1:
        raise UserError(f"steps is {steps} (at most gen_length // minimal_topk); it must be at least 1")
    eos_id = NO_TOKEN if eos_id is None else eos_id
    rules = _Rules(temperature, top_k, top_p, threshold, order, mask_id, generator)
    blocks = (lengths + gen_length + block_length - 1) // block_length  # a row's blocks, the prompt's included
    ids = input_ids.new_full((len(input_ids), int(blocks.max()) * block_length), mask_id)
    is_prompt = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    width = input_ids.shape[1]
    ids[:, :width] = torch.where(is_prompt[:, :width], input_ids, mask_id)

    first = int(lengths.min()) // block_length
    passes = _Passes(model, ids, block_length, first, use_cache and not model.model.rotary_emb.follows_length)
    for block in range(first, int(blocks.max())):
        end = (block + 1) * block_length
        begun = lengths[passes.rows] // block_length <= block  # in others the block is prompt from end to end
        stop = None
        if eos_early_stop or editing_threshold is None:
            stop = partial(_stopped, is_prompt=is_prompt[:, :end], eos_id=eos_id, mask_id=mask_id)
        if editing_threshold is None:
            _fill(passes, block, begun, rules, _schedule(block_length, steps), stop if eos_early_stop else None)
        else:
            prompt = is_prompt[:, end - block_length : end]
            _fill_and_edit(passes, block, begun, rules, num_to_transfer, editing_threshold, max_post_steps, prompt)
        ended = blocks[passes.rows] <= block + 1
        if stop is not None:
            ended |= ((ids[passes.rows, :end] == eos_id) & ~is_prompt[passes.rows, :end]).any(-1)
        if ended.all():
            break
        passes.next_block(block, ~ended)
    return _answers(ids, lengths, gen_length, eos_id, model.config.pad_token_id)


class _Passes:
    """The model's passes over the block being decoded, with or without a cache of the blocks before it."""

    def __init__(
        self, model: LLaDA2MoeForCausalLM, ids: torch.Tensor, block_length: int, first_block: int, use_cache: bool
    ) -> None:
        self.model, self.ids, self.block_length = model, ids, block_length
        self.rows = torch.arange(len(ids), device=ids.device)
        """Rows still being decoded."""
        self.cache = BlockCache() if use_cache else None
        if self.cache is not None and first_block > 0:
            length = first_block * block_length
            mask = block_causal_mask(length, block_length, ids.device)[None, None]
            model.model(ids[:, :length], attention_mask=mask, past_key_values=self.cache)

    def span(self, block: int) -> slice:
        return slice(block * self.block_length, (block + 1) * self.block_length)

    def window(self, block: int) -> torch.Tensor:
        """The block's tokens of the rows being decoded: (rows, block length), a copy."""
        return self.ids[self.rows, self.span(block)]

    def logits(self, block: int, pending: torch.Tensor) -> torch.Tensor:
        """Logits of the block for the ``pending`` (bool) of the rows: (pending rows, block length, vocabulary)."""
        rows, span = self.rows[pending], self.span(block)
        if self.cache is not None:
            cache = self.cache if pending.all() else self.cache.select(pending.nonzero()[:, 0])
            cache.writing = False
            hidden = self.model.model(self.ids[rows, span], past_key_values=cache, return_dict=True).last_hidden_state
        else:
            mask = block_causal_mask(span.stop, self.block_length, self.ids.device)[None, None]
            hidden = self.model.model(
                self.ids[rows, : span.stop], attention_mask=mask, return_dict=True
            ).last_hidden_state
        return self.model.lm_head(hidden[:, -self.block_length :]).float()

    def next_block(self, block: int, going: torch.Tensor) -> None:
        """Go on with some (bool) of the rows; the block is final and enters the cache."""
        self.rows = self.rows[going]
        if self.cache is not None:
            if not going.all():
                self.cache = self.cache.select(going.nonzero()[:, 0])
            self.cache.writing = True
            self.model.model(self.window(block), past_key_values=self.cache)


def _fill(
    passes: _Passes,
    block: int,
    pending: torch.Tensor,
    rules: _Rules,
    schedule: list[int],
    stopped: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
) -> None:
    """LLaDA2.0: commit masked tokens of the ``pending`` (bool) rows until none is left; what is committed stays."""
    for share in schedule:
        pending = pending & (passes.window(block) == rules.mask_id).any(-1)
        if not pending.any():
            return
        rows, span = passes.rows[pending], passes.span(block)
        window = passes.ids[rows, span]
        tokens, confidence, priority = _candidates(passes.logits(block, pending), rules)
        committed = _choose(confidence, priority, window == rules.mask_id, share, rules)
        passes.ids[rows, span] = torch.where(committed, tokens, window)
        if stopped is not None:
            pending[pending.clone()] = ~stopped(passes.ids[rows, : span.stop], rows)


def _fill_and_edit(
    passes: _Passes,
    block: int,
    pending: torch.Tensor,
    rules: _Rules,
    share: int,
    editing_threshold: float,
    max_post_steps: int,
    is_prompt: torch.Tensor,
) -> None:
    """LLaDA2.1: commit masked tokens and overwrite committed ones until nothing changes."""
    post_steps = torch.zeros_like(passes.rows)
    for number in range(2 * passes.block_length + max_post_steps):
        full = ~(passes.window(block) == rules.mask_id).any(-1)
        post_steps += full
        pending = pending & (~full | (post_steps <= max_post_steps))
        if not pending.any():
            return
        rows, span = passes.rows[pending], passes.span(block)
        window = passes.ids[rows, span]
        masked = window == rules.mask_id
        logits = passes.logits(block, pending)
        if number >= passes.block_length:  # or a model that answers with the mask itself would never end
            logits[..., rules.mask_id] = float("-inf")
        tokens, confidence, priority = _candidates(logits, rules)
        committed = _choose(confidence, priority, masked, share, rules)
        edited = ~masked & ~is_prompt[rows] & (tokens != window) & (confidence > editing_threshold)
        passes.ids[rows, span] = torch.where(committed | edited, tokens, window)
        pending[pending.clone()] = masked.any(-1) | edited.any(-1)


def _candidates(logits: torch.Tensor, rules: _Rules) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, confidence and priority (the higher, the earlier) of each position; logits (rows, block, vocabulary)."""
    probabilities = logits.softmax(-1)
    if rules.temperature == 0:
        tokens = logits.argmax(-1)
        drawn_from = probabilities
    else:
        drawn_from = _filtered(logits / rules.temperature, rules.top_k, rules.top_p).softmax(-1)
        flat = torch.multinomial(drawn_from.flatten(0, 1), 1, generator=rules.generator)
        tokens = flat.view(logits.shape[:-1])
    confidence = drawn_from.gather(-1, tokens[..., None])[..., 0]
    if rules.order == "confidence":
        priority = confidence
    elif rules.order == "entropy":
        priority = torch.special.xlogy(probabilities, probabilities).sum(-1)
    elif rules.order == "random":
        priority = torch.rand(confidence.shape, generator=rules.generator, device=confidence.device)
    else:
        priority = -torch.arange(confidence.shape[-1], device=confidence.device).expand_as(confidence).float()
    return tokens, confidence, priority


def _filtered(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Keep the ``top_k`` likeliest tokens, then the fewest of them that together reach ``top_p``."""
    if top_k is not None and 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)
        enough_before = (ordered.softmax(-1).cumsum(-1) > top_p).roll(1, dims=-1)
        enough_before[..., 0] = False
        logits = logits.masked_fill(enough_before.scatter(-1, index, enough_before), float("-inf"))
    return logits


def _choose(
    confidence: torch.Tensor, priority: torch.Tensor, masked: torch.Tensor, share: int, rules: _Rules
) -> torch.Tensor:
    """Which masked positions to commit: all above the threshold if they fill the share, else the first of the share."""
    ranked = priority.masked_fill(~masked, float("-inf"))
    first = torch.zeros_like(masked)
    first.scatter_(-1, ranked.topk(min(share, ranked.shape[-1]), dim=-1).indices, True)
    first &= masked
    if rules.order != "confidence":
        return first
    sure = masked & (confidence > rules.threshold)
    return torch.where(sure.sum(-1, keepdim=True) >= share, sure, first)


def _schedule(block_length: int, steps: int) -> list[int]:
    """Tokens due at each step: the block in equal shares, the remainder on the first steps."""
    share, rest = divmod(block_length, steps)
    return [share + (step < rest) for step in range(steps)]


def _stopped(ids: torch.Tensor, rows: torch.Tensor, is_prompt: torch.Tensor, eos_id: int, mask_id: int) -> torch.Tensor:
    """Rows whose answer is complete: an end token with nothing masked between the prompt and it; bool (rows,)."""
    prompt = is_prompt[rows]
    ends = (ids == eos_id) & ~prompt
    before_end = ends.cumsum(-1) == 0
    return ends.any(-1) & ~((ids == mask_id) & ~prompt & before_end).any(-1)


def _check(order: str, vocab_size: int, *, mask_id: int, temperature: float) -> None:
    if order not in get_args(Order):
        raise UserError(f"order is {order!r}; it can be {', '.join(get_args(Order))}")
    if temperature < 0:
        raise UserError(f"temperature is {temperature}; it must not be negative")
    if not 0 <= mask_id < vocab_size:
        raise UserError(f"mask_id {mask_id} is not in the vocabulary of {vocab_size}; give its own")


def _check_positive(**options: int) -> None:
    for name, value in options.items():
        if value < 1:
            raise UserError(f"{name} is {value}; it must be at least 1")


def _prompt_lengths(input_ids: torch.Tensor, prompt_lengths: torch.Tensor | None) -> torch.Tensor:
    if input_ids.dim() != 2:
        raise UserError(f"input_ids must be (batch, prompt length), not of shape {tuple(input_ids.shape)}")
    batch, width = input_ids.shape
    if prompt_lengths is None:
        return torch.full((batch,), width, device=input_ids.device)
    if prompt_lengths.shape != (batch,) or not ((prompt_lengths >= 0) & (prompt_lengths <= width)).all():
        raise UserError(f"prompt_lengths must be {batch} numbers from 0 to {width}, not {prompt_lengths.tolist()}")
    return prompt_lengths.to(input_ids.device)


def _answers(
    ids: torch.Tensor, lengths: torch.Tensor, gen_length: int, eos_id: int, pad_id: int | None
) -> torch.Tensor:
    """Generated ids of each row, cut after the first end token, padded to the longest row."""
    answers = []
    for row, length in zip(ids, lengths.tolist(), strict=True):
        answer = row[length : length + gen_length]
        ends = (answer == eos_id).nonzero()
        answers.append(answer[: int(ends[0]) + 1] if len(ends) else answer)
    return pad_sequence(answers, batch_first=True, padding_value=eos_id if pad_id is None else pad_id)
