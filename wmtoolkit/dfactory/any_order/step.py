"""One step of training: attention, loss, gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional as F

from .layout import ACTION, FIRST_CELL, IGNORED, KINDS, Layout


def network_inputs(batch: Mapping[str, torch.Tensor], layout: Layout, block_diffusion: bool) -> dict[str, torch.Tensor]:
    """Arguments of the model for a collated batch; never the labels, whose loss inside the model is a shifted one.

    Block diffusion: ``[noisy ; clean]`` of 2L tokens; who acts, the first token, is seen by those alone that ask for
    the policy, or it would be taken for evidence of what is there. Full attention: the noisy ids alone, never the clean
    ones. The mask is bool (batch, 1, length, length), True = attend: right under sdpa in any precision.
    """
    noisy, clean, present = batch["noisy_input_ids"], batch["input_ids"], batch["attention_mask"].bool()
    if not block_diffusion:
        return {
            "input_ids": noisy,
            "position_ids": batch["position_ids"],
            "attention_mask": _open_diagonal(present[:, None, None, :].expand(-1, 1, present.shape[1], -1)),
        }
    length = noisy.shape[1]
    index = torch.arange(2 * length, device=noisy.device)
    copy, block = index >= length, index % length // layout.block_size
    same, earlier = block[:, None] == block[None], block[:, None] > block[None]
    of_clean = copy[None]
    causal = (same & (copy[:, None] == of_clean)) | (earlier & of_clean)
    everything = copy[:, None] == of_clean
    allowed = torch.where(batch["full_attention"][:, None, None], everything[None], causal[None])
    keys = torch.cat([present, clean != layout.pad], dim=1)
    allowed = allowed & keys[:, None, :]
    lone = present & ~present.roll(-1, dims=1) & (index[:length] % layout.block_size == ACTION)
    told = torch.cat([lone, torch.zeros_like(lone)], dim=1)
    allowed[:, :, length] &= told
    allowed[:, length] = False
    return {
        "input_ids": torch.cat([noisy, clean], dim=1),
        "position_ids": batch["position_ids"].repeat(1, 2),
        "attention_mask": _open_diagonal(allowed[:, None]),
    }


def _open_diagonal(mask: torch.Tensor) -> torch.Tensor:
    """A token that may see nothing would make its row NaN: each sees itself."""
    return mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)


def any_order_loss(
    logits: torch.Tensor, batch: Mapping[str, torch.Tensor], layout: Layout, choices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of same-position cross-entropies over what each place may hold; 0 where nothing is masked.

    Args:
        logits: (batch, L or 2L, vocabulary), of which the first L are the noisy copy's.
        choices: ``Layout.choices``, on the logits' device.

    Returns:
        the sum in nats, to be divided by the sum of ``loss_weights``; and for each of ``KINDS`` the plain sum of
        cross-entropies and their number, (4, 2).
    """
    labels, noisy = batch["labels"], batch["noisy_input_ids"]
    length = labels.shape[1]
    row, place = torch.nonzero(labels != IGNORED, as_tuple=True)
    slot = place % layout.block_size
    kind = slot.clamp(max=FIRST_CELL)
    cell = (noisy[row, place] - layout.kinds["cell"][0]).clamp(min=0) + FIRST_CELL
    allowed = choices[torch.where(kind < FIRST_CELL, kind, cell)]
    window = slice(layout.first, layout.first + choices.shape[1])
    scores = logits[:, :length, window][row, place].float().masked_fill(~allowed, float("-inf"))
    losses = F.cross_entropy(scores, labels[row, place] - layout.first, reduction="none")
    total = (losses * batch["loss_weights"][row, place]).sum()
    per_kind = torch.zeros(len(KINDS), 2, device=logits.device)
    per_kind.index_add_(0, kind, torch.stack([losses.detach(), torch.ones_like(losses)], dim=-1))
    return total, per_kind


def backward(
    model: torch.nn.Module,
    micro_batches: list[dict[str, Any]],
    layout: Layout,
    choices: torch.Tensor,
    *,
    block_diffusion: bool,
    contexts: tuple[Any, Any],
) -> tuple[float, torch.Tensor]:
    """Gradients of the weighted mean over all tokens of the global batch, whatever rank or micro-batch holds them.

    Data parallelism averages gradients over ranks, hence the factor; a batch in which nothing is masked gives 0.

    Returns:
        the loss, and (4, 2) sums and counts by kind, both of the whole global batch.
    """
    device = choices.device
    asked = torch.stack([batch["loss_weights"].sum() for batch in micro_batches]).sum().double().to(device)
    dist.all_reduce(asked)
    scale = dist.get_world_size() / asked.clamp(min=1e-6)
    sums = torch.zeros(1 + 2 * len(KINDS), dtype=torch.float64, device=device)
    forward_context, backward_context = contexts
    for micro_batch in micro_batches:
        batch = {
            key: value.to(device, non_blocking=True) for key, value in micro_batch.items() if torch.is_tensor(value)
        }
        with forward_context:
            inputs = network_inputs(batch, layout, block_diffusion)
            logits = model(**inputs, use_cache=False, output_router_logits=False).logits
            total, kinds = any_order_loss(logits, batch, layout, choices)
        with backward_context:
            (total * scale.to(total.dtype)).backward()
        sums += torch.cat([total.detach().double()[None], kinds.double().flatten()])
    dist.all_reduce(sums)
    return float(sums[0] / asked.clamp(min=1e-6)), sums[1:].view(-1, 2)


def clip(model: Any, limit: float) -> float:
    """Clip the gradients; their norm over all ranks."""
    if hasattr(model, "clip_grad_norm_"):  # VeOmni's, which knows of its shards
        norm = model.clip_grad_norm_(limit)
    else:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return float(norm)
