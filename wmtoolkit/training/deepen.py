"""Start a deeper network from a shallower one: the added layers pass on what they get, and learn from there."""

from __future__ import annotations

import re

import torch

_LAYER = re.compile(r"(.*\.layers\.)(\d+)(\..*)")
_WRITES = ("attention.dense.weight", "down_proj.weight", "down_proj")
"""What a layer adds to the residual stream goes through these."""


def deepened(state: dict[str, torch.Tensor], depth: int, dense: int) -> dict[str, torch.Tensor]:
    """Weights of ``depth`` layers that compute what those of fewer layers compute.

    Layers are repeated, as evenly as can be, behind themselves; the copies write nothing at first (block expansion,
    Wu et al. 2024, arXiv:2401.02415). Dense layers are not repeated, so that ``first_k_dense_replace`` stays.

    Args:
        state: of the shallower network.
        dense: number of dense layers at the start.
    """
    have = 1 + max(int(found[2]) for name in state if (found := _LAYER.fullmatch(name)))
    repeated = have - dense
    source = list(range(dense)) + [dense + i * repeated // (depth - dense) for i in range(depth - dense)]
    result = {name: value for name, value in state.items() if not _LAYER.fullmatch(name)}
    for target, layer in enumerate(source):
        copied = target > 0 and source[target - 1] == layer
        for name, value in state.items():
            found = _LAYER.fullmatch(name)
            if found and int(found[2]) == layer:
                silent = copied and found[3].endswith(_WRITES)
                result[f"{found[1]}{target}{found[3]}"] = torch.zeros_like(value) if silent else value.clone()
    return result
