"""Keys and values of finished blocks, kept so that the next block is decoded without recomputing them."""

from __future__ import annotations

import torch


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
        chosen._seen = self._seen
        chosen.layers = [(key.index_select(0, rows), value.index_select(0, rows)) for key, value in self.layers]
        return chosen

    def keep(self, tokens: torch.Tensor) -> None:
        """Keep only the cached tokens at the given (long) positions, for all rows."""
        self.layers = [(key.index_select(2, tokens), value.index_select(2, tokens)) for key, value in self.layers]
