"""Attention of a layer: fused projection, normed and rotated heads, several implementations."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.flex_attention import compile_friendly_flex_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wmtoolkit.llada2.cache import BlockCache
from wmtoolkit.llada2.configuration import LLaDA2MoeConfig
from wmtoolkit.llada2.rotary import rotate


class LLaDA2MoeRMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before the weight is applied."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.weight * unit(hidden, self.eps)


def unit(hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """Divided by its root mean square over the last axis, in float32 and cast back."""
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(hidden.dtype)


class LLaDA2MoeAttention(nn.Module):
    """Grouped-query attention with one fused projection: all query heads, then all key heads, then all value heads."""

    is_causal = False

    def __init__(self, config: LLaDA2MoeConfig, layer_idx: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.num_key_value_groups = self.heads // self.kv_heads
        self.scaling = self.head_dim**-0.5
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, width, bias=config.use_qkv_bias)
        self.query_layernorm = LLaDA2MoeRMSNorm(self.head_dim, config.rms_norm_eps)
        self.key_layernorm = LLaDA2MoeRMSNorm(self.head_dim, config.rms_norm_eps)
        self.dense = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=config.use_bias)

    def forward(
        self,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: BlockCache | None,
        keep: int | None = None,
        prefix: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, length or keep, hidden), of the last ``keep`` tokens alone if given; and attention weights.

        ``prefix``: see ``LLaDA2MoeModel.forward``.
        """
        query, key, value = self._projected(hidden, rotary)
        if keep is not None:
            query, prefix = query[:, :, -keep:], 0
            attention_mask = None if attention_mask is None else attention_mask[..., -keep:, :]
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if not prefix:
            attended, weights = self._attended(query, key, value, attention_mask)
        else:
            near, far = (
                (None, None)
                if attention_mask is None
                else attention_mask.split([prefix, query.shape[2] - prefix], dim=2)
            )
            near = None if near is None else near[..., :prefix]
            first, _ = self._attended(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], near)
            rest, weights = self._attended(query[:, :, prefix:], key, value, far)
            attended = torch.cat([first, rest], dim=1)
        return self.dense(attended.flatten(2)), weights

    def _attended(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attended values (batch, queries, heads, head_dim), and weights where the implementation has them."""
        implementation = self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)
        if implementation == "flex_attention":
            attend = flex_attention
        if implementation == "sdpa" and _short(query, key):
            attend = short_attention
        return attend(
            self,
            query,
            key.to(query.dtype),
            value.to(query.dtype),
            None if attention_mask is None else attention_mask.to(query.dtype),
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=False,
        )

    def remember(
        self, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor], past_key_values: BlockCache
    ) -> None:
        """Only write keys and values to the cache."""
        _, key, value = self._projected(hidden, rotary)
        past_key_values.update(key, value, self.layer_idx)

    def _projected(
        self, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values (batch, heads of each, length, head_dim)."""
        states = self.query_key_value(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        turning, value = states.split([self.heads + self.kv_heads, self.kv_heads], dim=1)
        # queries and keys are normed and turned together, each with its own weights: half as many small operations
        norms = (self.query_layernorm, self.heads), (self.key_layernorm, self.kv_heads)
        weight = torch.cat([norm.weight.expand(heads, 1, -1) for norm, heads in norms])
        turned = rotate(weight * unit(turning, self.query_layernorm.eps), *rotary)
        return *turned.split([self.heads, self.kv_heads], dim=1), value


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


def _short(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether ``short_attention`` is faster than SDPA: few tokens, on a CPU, in bf16, without gradients."""
    return (
        query.device.type == "cpu"
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and key.shape[2] <= 256
    )


def short_attention(
    module: LLaDA2MoeAttention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention by bf16 matrix products; softmax sums in float32, scores and weights are bf16.

    SDPA's tiles take twice as long for such few tokens.
    """
    batch, heads, length, dim = query.shape
    groups, keys = key.shape[1:3]
    query, key, value = (states.to(torch.bfloat16) for states in (query * scaling, key, value))
    grouped = query.reshape(batch, groups, heads // groups * length, dim)
    scores = (grouped @ key.transpose(-1, -2)).view(batch, heads, length, keys)
    if attention_mask is not None:
        scores += attention_mask
    weights = torch.softmax(scores, dim=-1).view(batch, groups, heads // groups * length, keys)
    return (weights @ value).view(batch, heads, length, dim).transpose(1, 2), None


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
    so does a head_dim or a length that is no multiple of 16.
    """
    if dropout > 0:
        raise ValueError("flex_attention knows no dropout: set attention_dropout to 0 or use sdpa")
    batch, _heads, length, dim = query.shape
    keys = key.shape[2]
    query, key, value = (F.pad(states, (0, -dim % 16, 0, -states.shape[2] % 16)) for states in (query, key, value))
    mask = query.new_zeros(1) if attention_mask is None else attention_mask
    mask = F.pad(mask.expand(batch, 1, length, keys), (0, -keys % 16), value=torch.finfo(mask.dtype).min)
    mask = F.pad(mask, (0, 0, 0, -length % 16)).contiguous()

    def add_mask(
        score: torch.Tensor, row: torch.Tensor, head: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        return score + mask[row, 0, q, k]

    attended = compile_friendly_flex_attention(
        query, key, value, training=module.training, score_mod=add_mask, scale=scaling, enable_gqa=True
    )
    assert isinstance(attended, torch.Tensor)
    return attended[:, :, :length, :dim].transpose(1, 2).contiguous(), None
