"""Attention masks of block diffusion (True = attend)."""

from __future__ import annotations

import torch


def block_causal_mask(length: int, block_length: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Full attention inside a block and to all earlier blocks; bool (length, length)."""
    block = torch.arange(length, device=device) // block_length
    return block[:, None] >= block[None, :]


def training_mask_2l(length: int, block_length: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Mask for ``[noisy ; clean]`` of a sequence of ``length`` tokens; bool (2·length, 2·length).

    A noisy block sees itself and the clean blocks strictly before it; a clean block sees the clean blocks up to
    itself. So one pass supervises every noisy block as if decoded after its clean past
    (block diffusion, Arriola et al. 2025, arXiv:2503.09573).
    """
    index = torch.arange(2 * length, device=device)
    clean, block = index >= length, (index % length) // block_length
    query_clean, key_clean = clean[:, None], clean[None, :]
    query_block, key_block = block[:, None], block[None, :]
    return (
        ((query_block == key_block) & (query_clean == key_clean))
        | (~query_clean & key_clean & (query_block > key_block))
        | (query_clean & key_clean & (query_block >= key_block))
    )


def additive_mask(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Bring any accepted mask to a (batch or 1, 1, query or 1, key) additive one; None stays None.

    Args:
        attention_mask: None (everything sees everything); (batch, key) of 0/1 or bool, a key padding;
            or (batch, 1, query, key), bool (True = attend) or additive floats, used as it is.
        dtype: floating type of the result.

    Hidden keys get the type's lowest finite value, never -inf. In a 4-D mask a row that may see nothing sees itself,
    so that it neither gives NaN nor passes on what is hidden; a row that is all padding averages over itself.
    """
    if attention_mask is None:
        return None
    lowest = torch.finfo(dtype).min
    if attention_mask.dim() == 2:
        return _hide(~attention_mask.bool()[:, None, None, :], dtype)
    if attention_mask.dim() != 4:
        raise ValueError(f"attention_mask must be 2-D or 4-D, not of shape {tuple(attention_mask.shape)}")
    if attention_mask.is_floating_point():  # perhaps of another type, whose lowest value is another number
        hidden = attention_mask <= torch.finfo(attention_mask.dtype).min
        mask = attention_mask.to(dtype).clamp(min=lowest).masked_fill(hidden, lowest)
    else:
        mask = _hide(~attention_mask.bool(), dtype)
    queries, keys = mask.shape[-2:]
    own = torch.arange(keys, device=mask.device) == torch.arange(keys - queries, keys, device=mask.device)[:, None]
    return mask.masked_fill(own & (mask <= lowest).all(-1, keepdim=True), 0)


def _hide(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, torch.finfo(dtype).min)
