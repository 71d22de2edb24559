"""Rotary positions: the first channels of each head turn, by frequencies that ``rope_scaling`` may stretch."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from wmtoolkit.llada2.configuration import LLaDA2MoeConfig


class LLaDA2MoeRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotary angles, one frequency a channel pair, computed in float32."""

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.axes = config.rope_axes
        self.theta = config.rope_theta
        self.dim = int(config.head_dim * config.partial_rotary_factor)
        self.kind = config.rope_type
        # what Transformers' functions read, under the names that they read it by
        self.settings = SimpleNamespace(
            rope_parameters={
                "original_max_position_embeddings": config.max_position_embeddings,
                **{name: value for name, value in (config.rope_scaling or {}).items() if value is not None},
                "rope_theta": config.rope_theta,
                "partial_rotary_factor": config.partial_rotary_factor,
            },
            standardize_rope_params=lambda: None,
            head_dim=config.head_dim,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
        )

    @property
    def follows_length(self) -> bool:
        """Whether more tokens change the rotation of those before them, so that no keys can be kept."""
        return self.kind == "dynamic"

    def frequencies(self, positions: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Angle a position of each channel pair, (rotary dim / 2,), and a factor on cosines and sines."""
        if self.kind == "default":
            exponents = torch.arange(0, self.dim, 2, dtype=torch.float32, device=positions.device) / self.dim
            return 1.0 / self.theta**exponents, 1.0
        length = int(positions.max()) + 1 if self.follows_length else None
        return ROPE_INIT_FUNCTIONS[self.kind](self.settings, positions.device, seq_len=length)

    def forward(self, position_ids: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """position_ids (batch, length) or (axes, batch, length) -> cos and sin, (batch, 1, length, rotary dim)."""
        positions = position_ids if position_ids.dim() == 3 else position_ids.expand(self.axes, *position_ids.shape)
        if positions.shape[0] != self.axes:
            raise ValueError(f"position_ids have {positions.shape[0]} axes, the config's rope_axes is {self.axes}")
        # No buffer: frequencies that follow the model into bfloat16 would turn by wrong angles.
        frequencies, factor = self.frequencies(positions)
        pairs = torch.arange(self.dim // 2, device=positions.device) % self.axes
        angles = positions.float()[pairs].permute(1, 2, 0) * frequencies
        angles = torch.cat([angles, angles], dim=-1)[:, None]
        return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the first channels of each head; pairs are (j, j + rotary_dim/2)."""
    dim = cos.shape[-1]
    turning, passing = states[..., :dim], states[..., dim:]
    low, high = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-high, low], dim=-1) * sin
    return torch.cat([turned, passing], dim=-1)
