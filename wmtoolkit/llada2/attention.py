"""Attention over grouped heads, written out and by flex attention; ``sdpa`` is Transformers' own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.flex_attention import compile_friendly_flex_attention


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention by plain matrix products, softmax in float32; returns (batch, length, heads, head_dim) and weights."""
    batch, heads, length, dim = query.shape
    groups = key.shape[1]
    grouped = (query * scaling).reshape(batch, groups, heads // groups * length, dim)
    scores = (grouped @ key.transpose(-1, -2)).reshape(batch, heads, length, key.shape[2])
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    attended = weights.reshape(batch, groups, heads // groups * length, key.shape[2]) @ value
    return attended.reshape(batch, heads, length, dim).transpose(1, 2), weights


def flex_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by a kernel compiled for the mask; no dropout, and on a CPU no gradients.

    Transformers' version indexes the mask one axis after the other; compiled for a CPU, that reads outside of it, and
    so does a head_dim that is no multiple of 16.
    """
    if dropout > 0:
        raise ValueError("flex_attention knows no dropout: set attention_dropout to 0 or use sdpa")
    batch, _heads, length, dim = query.shape
    query, key, value = (F.pad(states, (0, -dim % 16)) for states in (query, key, value))
    add_mask = None
    if attention_mask is not None:
        mask = attention_mask.expand(batch, 1, length, key.shape[2]).contiguous()

        def add_mask(
            score: torch.Tensor, row: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor
        ) -> torch.Tensor:
            return score + mask[row, 0, q, k]

    attended = compile_friendly_flex_attention(
        query, key, value, training=module.training, score_mod=add_mask, scale=scaling, enable_gqa=True
    )
    assert isinstance(attended, torch.Tensor)
    return attended[..., :dim].transpose(1, 2).contiguous(), None
