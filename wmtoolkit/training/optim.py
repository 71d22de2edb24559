"""Optimisers: Muon for the matrices of the hidden layers, AdamW for the rest; their schedule; the moving average."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wmtoolkit.llada2.modeling import LLaDA2MoeAttention, LLaDA2MoeExperts
from wmtoolkit.world.network import WorldNetwork

Matrix = tuple[torch.Tensor, tuple[slice | int, ...]]
"""A parameter, and the index of one matrix in it."""


class MatrixMuon(torch.optim.Muon):
    """Muon on the matrices inside fused parameters, those of one shape side by side.

    Muon orthogonalises the update of one matrix (Jordan et al. 2024). A fused parameter (all experts of a layer,
    query-key-value) holds many: each is optimised as a view on the parameter's own storage. Options, state and
    formulas are those of ``torch.optim.Muon``, which takes one matrix after the other, in bfloat16: on a processor
    that only emulates bfloat16 that costs more than the rest of a step.
    """

    def __init__(self, matrices: list[Matrix], **options: Any) -> None:
        self._sources = matrices
        views = [nn.Parameter(source.detach()[index]) for source, index in matrices]
        super().__init__(views, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all matrices whose parameter has a gradient."""
        (group,) = self.param_groups
        shapes: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for view, (source, index) in zip(group["params"], self._sources, strict=True):
            if source.grad is not None:
                shapes[view.shape].append((view, source.grad[index]))
        for shape, pairs in shapes.items():
            views, gradients = [view for view, _ in pairs], torch.stack([gradient for _, gradient in pairs])
            average = torch.stack([self._average(view) for view in views]).lerp_(gradients, 1 - group["momentum"])
            for view, value in zip(views, average, strict=True):
                self.state[view]["momentum_buffer"].copy_(value)
            update = gradients.lerp(average, group["momentum"]) if group["nesterov"] else average
            update = orthogonalised(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            torch._foreach_mul_(views, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(views, list(update), alpha=-group["lr"] * math.sqrt(max(1, shape[0] / shape[1])))

    def _average(self, view: torch.Tensor) -> torch.Tensor:
        state = self.state[view]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(view)
        return state["momentum_buffer"]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for source, _ in self._sources:
            source.grad = None


def orthogonalised(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """The nearest orthogonal matrix of each of (n, rows, columns), roughly: Newton-Schulz iterations of order five.

    In bfloat16 on an accelerator and in float32 on a processor.
    """
    constant, linear, square = coefficients
    wide = matrices.to(torch.float32 if matrices.device.type == "cpu" else torch.bfloat16)
    wide = wide.mT if wide.shape[1] > wide.shape[2] else wide
    wide = wide / torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        gram = torch.baddbmm(gram, gram, gram, beta=linear, alpha=square)
        wide = torch.baddbmm(wide, gram, wide, beta=constant)
    return (wide.mT if matrices.shape[1] > matrices.shape[2] else wide).to(matrices.dtype)


def hidden_matrices(network: WorldNetwork) -> Iterator[Matrix]:
    """The matrices of the hidden layers, with their place in the parameter that holds them."""
    whole = (slice(None),)
    for layer in network.llada2.model.layers:
        for module in layer.modules():
            if isinstance(module, LLaDA2MoeAttention):
                head, queries, keys = module.head_dim, module.heads, module.kv_heads
                edges = [0, queries * head, (queries + keys) * head, (queries + 2 * keys) * head]
                for low, high in itertools.pairwise(edges):
                    yield module.query_key_value.weight, (slice(low, high),)
            elif isinstance(module, LLaDA2MoeExperts):
                width = module.gate_up_proj.shape[1] // 2
                for expert in range(module.num_experts):
                    yield module.gate_up_proj, (expert, slice(0, width))
                    yield module.gate_up_proj, (expert, slice(width, None))
                    yield module.down_proj, (expert,)
            elif isinstance(module, nn.Linear) and module is not layer.attention.query_key_value:
                yield module.weight, whole


def schedule(name: str, step: int, steps: int, warmup: float, decay: float) -> float:
    """Factor on the learning rate.

    Linear up over ``warmup``·steps; then ``wsd``: stable, and linear down to 0 over the last ``decay``·steps;
    ``cosine``: half a cosine down to 0.
    """
    progress = (step + 1) / steps
    up = min(1.0, progress / warmup) if warmup > 0 else 1.0
    if name == "cosine":
        return up * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - warmup) / max(1e-9, 1 - warmup)))
    return min(up, (1.0 - step / steps) / decay) if decay > 0 else up


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of the trained parameters; ``update_parameters`` after each step."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))
