"""Noise and losses of masked diffusion: dFactory's, which trains LLaDA2, and the variants beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from wmtoolkit.llada2.masks import training_mask_2l

if TYPE_CHECKING:
    from wmtoolkit.llada2.modeling import LLaDA2MoeForCausalLM

IGNORED = -100
"""Label of a position that is no target."""


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy at the positions that carry a label; 0 (with gradient 0) when none does.

    Args:
        logits: (batch, length, vocabulary).
        labels: long (batch, length); -100 marks a position that is no target.
    """
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def weighted_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, ratios: torch.Tensor, maskable: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy weighted by 1/t, a token: a bound on the negative log-likelihood when t is uniform in (0, 1).

    LLaDA (Nie et al. 2025, arXiv:2502.09992), equation 3. dFactory leaves the weight out.

    Args:
        logits: (batch, length, vocabulary).
        labels: long (batch, length), -100 where not masked.
        ratios: (batch,), the probability t each row was masked with.
        maskable: bool (batch, length), the tokens that could have been masked.
    """
    losses = F.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=IGNORED, reduction="none")
    ratios = ratios.clamp(min=torch.finfo(ratios.dtype).tiny)  # nothing is masked where t is 0
    return (losses / ratios[:, None]).sum() / maskable.sum().clamp(min=1)


def draw_noise(
    input_ids: torch.Tensor,
    prompt_lengths: torch.Tensor,
    low: float,
    high: float,
    mask_id: int,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``add_noise``, and the probability each row was masked with: (noisy ids, labels, ratios)."""
    draws = [[torch.rand(size, generator=generator) for size in (1, input_ids.shape[1])] for _ in input_ids]
    ratios, uniform = (torch.stack(parts) for parts in zip(*draws, strict=True))
    ratios = ratios * (high - low) + low
    after_prompt = _after_prompt(input_ids, prompt_lengths)
    noisy = input_ids.masked_fill(after_prompt & (uniform < ratios).to(input_ids.device), mask_id)
    # a mask that the clean text itself holds is a target too
    labels = input_ids.masked_fill(~after_prompt | (noisy != mask_id), IGNORED)
    return noisy, labels, ratios[:, 0].to(input_ids.device)


def _after_prompt(input_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> torch.Tensor:
    """Which tokens may be masked; bool (batch, length)."""
    prompt_lengths = torch.as_tensor(prompt_lengths, device=input_ids.device)
    return torch.arange(input_ids.shape[1], device=input_ids.device) >= prompt_lengths[:, None]


def add_noise(
    input_ids: torch.Tensor,
    prompt_lengths: torch.Tensor,
    low: float,
    high: float,
    mask_id: int,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask each token after the prompt with one probability t a sequence, t uniform in [low, high).

    Args:
        input_ids: long (batch, length), clean.
        prompt_lengths: long (batch,); earlier positions are never masked. Padding after the text is.

    Returns:
        (noisy ids, labels), both (batch, length); labels hold the clean id where masked, -100 elsewhere.
        Per sequence the generator is asked for ``rand(1)``, then ``rand(length)``, as dFactory does.
    """
    return draw_noise(input_ids, prompt_lengths, low, high, mask_id, generator)[:2]


def complement(
    input_ids: torch.Tensor, labels: torch.Tensor, prompt_lengths: torch.Tensor, mask_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The other half of a masking: what was visible after the prompt is masked, what was masked is visible.

    Trained as a second copy, every token of the answer is a target once (LLaDA2.0 technical report).

    Args:
        input_ids, labels: long (batch, length): the clean ids, and the labels of the first masking.

    Returns:
        (noisy ids, labels) of the second copy.
    """
    hidden = _after_prompt(input_ids, prompt_lengths) & (labels == IGNORED)
    return input_ids.masked_fill(hidden, mask_id), input_ids.masked_fill(~hidden, IGNORED)


def block_diffusion_loss(
    model: LLaDA2MoeForCausalLM, input_ids: torch.Tensor, noisy: torch.Tensor, labels: torch.Tensor, block_length: int
) -> torch.Tensor:
    """dFactory's objective: every noisy block, given the clean blocks before it, in one pass of twice the length.

    Args:
        input_ids, noisy, labels: long (batch, length), from ``add_noise``.
    """
    length = input_ids.shape[1]
    positions = torch.arange(length, device=input_ids.device).repeat(2)[None]
    mask = training_mask_2l(length, block_length, input_ids.device)[None, None]
    both = torch.cat([noisy, input_ids], dim=1)
    hidden = model.model(both, attention_mask=mask, position_ids=positions, return_dict=True).last_hidden_state
    return masked_cross_entropy(model.lm_head(hidden[:, :length]), labels)
