"""Keys and values of finished blocks, kept so that the next block is decoded without recomputing them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


class BlockCache:
    """Per-layer keys and values, (batch, kv heads, length, head_dim), of the blocks decoded so far.

    While ``writing`` is False a forward pass sees the cache and leaves it as it was: that is how a block that still
    holds masks is decoded. With ``writing`` True its keys and values are appended.

    Args:
        max_length: most tokens kept a row; the oldest fall out. Positions go on counting. None keeps all.
    """

    def __init__(self, max_length: int | None = None) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.writing = True
        self.max_length = max_length
        self._seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of cached tokens."""
        return self.layers[layer_idx][0].shape[2] if len(self.layers) > layer_idx else 0

    @property
    def position(self) -> int:
        """Position of the next token: counts the forgotten tokens too."""
        return max(self._seen, self.get_seq_length())

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the cache followed by the new ones; stored if ``writing``."""
        new, known = key.shape[2], len(self.layers) > layer_idx
        if known:
            past_key, past_value = self.layers[layer_idx]
            key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
        if self.writing:
            kept = key, value
            if self.max_length is not None and key.shape[2] > self.max_length:
                # copies, because a view would keep the forgotten tokens in memory
                kept = key[:, :, -self.max_length :].clone(), value[:, :, -self.max_length :].clone()
            if known:
                self.layers[layer_idx] = kept
            else:
                self.layers.append(kept)
            self._seen += new if layer_idx == 0 else 0
        return key, value

    def select(self, rows: torch.Tensor) -> BlockCache:
        """A cache whose row i is a copy of row ``rows[i]``: branch, re-order or drop rows."""
        chosen = BlockCache(self.max_length)
        chosen._seen, chosen.writing = self._seen, self.writing
        chosen.layers = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.layers]
        return chosen

    @staticmethod
    def cat(parts: Sequence[BlockCache]) -> BlockCache:
        """The rows of several caches in one; shorter ones end in zeros, which the mask must hide."""
        joint = BlockCache(parts[0].max_length)
        joint.writing = parts[0].writing
        joint._seen, longest = max(part._seen for part in parts), max(part.get_seq_length() for part in parts)
        for pairs in zip(*(part.layers for part in parts), strict=True):
            key, value = (
                torch.cat([F.pad(states, (0, 0, 0, longest - states.shape[2])) for states in kind])
                for kind in zip(*pairs, strict=True)
            )
            joint.layers.append((key, value))
        return joint

    def keep(self, tokens: torch.Tensor) -> None:
        """Keep only the cached tokens at the given (long) positions, for all rows."""
        self.layers = [(key.index_select(2, tokens), value.index_select(2, tokens)) for key, value in self.layers]
