"""``sorted_mm``: the fastest way found to run fused experts on a CPU."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

SORTED_MM = "sorted_mm"
"""Name of this implementation for ``experts_implementation=``; the default of our models."""


@torch.compiler.disable  # how many tokens an expert gets changes from pass to pass, and would compile anew each time
def sorted_mm_experts_forward(
    self: nn.Module, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Sort the (token, choice) pairs by expert once, then run each expert on its contiguous slice.

    Does the least arithmetic possible (unlike running all experts on all tokens), and unlike ``grouped_mm`` it
    follows autocast. Off the CPU it hands over to ``grouped_mm``, which does not wait for the device.

    Args:
        self: a module with fused ``gate_up_proj`` (experts, 2I, H) and ``down_proj`` (experts, H, I).
        hidden_states: (tokens, H).
        top_k_index, top_k_weights: (tokens, k), long and floating.
    """
    if hidden_states.device.type != "cpu":
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    experts: int = self.num_experts  # type: ignore[assignment]
    if torch.is_autocast_enabled("cpu"):  # cast once, not once an expert
        hidden_states = hidden_states.to(torch.get_autocast_dtype("cpu"))
        top_k_weights = top_k_weights.to(hidden_states.dtype)
    chosen = top_k_index.flatten()
    order = chosen.argsort(stable=True)
    counts = torch.bincount(chosen, minlength=experts).tolist()
    token = order // top_k_index.shape[1]
    # unbind, not indexing: the gradient of an index is as large as all experts together
    gate_up, down = self.gate_up_proj.unbind(), self.down_proj.unbind()  # type: ignore[operator]
    outputs = [
        F.linear(self._apply_gate(F.linear(states, gate_up[expert])), down[expert])  # type: ignore[operator]
        for expert, states in enumerate(hidden_states[token].split(counts))
        if counts[expert]
    ]
    weighted = (
        torch.cat(outputs or [hidden_states]) * top_k_weights.flatten()[order, None]
    )  # in float32 if the weights are
    mixed = torch.zeros(hidden_states.shape, dtype=weighted.dtype).index_add(0, token, weighted)
    return mixed.to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(SORTED_MM, sorted_mm_experts_forward)
