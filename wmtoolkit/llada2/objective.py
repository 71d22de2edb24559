"""Noise and loss of masked diffusion as dFactory trains LLaDA2."""

from __future__ import annotations

import torch
from torch.nn import functional as F

IGNORED = -100


def masked_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy at the positions that carry a label; 0 (with gradient 0) when none does.

    Args:
        logits: (batch, length, vocabulary).
        labels: long (batch, length); -100 marks a position that is no target.
    """
    total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


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
        prompt_lengths: long (batch,); earlier positions are never masked.

    Returns:
        (noisy ids, labels), both (batch, length); labels hold the clean id where masked, -100 elsewhere.
        Per sequence the generator is asked for ``rand(1)``, then ``rand(length)``, as dFactory does.
    """
    length = input_ids.shape[1]
    noisy, labels = input_ids.clone(), torch.full_like(input_ids, IGNORED)
    for row, prompt in enumerate(prompt_lengths.tolist()):
        ratio = torch.rand(1, generator=generator) * (high - low) + low
        hidden = (torch.rand(length, generator=generator) < ratio) & (torch.arange(length) >= prompt)
        hidden = hidden.to(input_ids.device)
        noisy[row, hidden] = mask_id
        labels[row, hidden] = input_ids[row, hidden]
    return noisy, labels
