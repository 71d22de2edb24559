"""The two layouts of expert weights on disk, and the fused one in memory.

=========  =====================================================  ==========================
layout     key, after ``model.layers.{l}.mlp.experts.``           shape
=========  =====================================================  ==========================
separate   ``{e}.gate_proj.weight``, ``up_proj``, ``down_proj``   (I, H), (I, H), (H, I)
merged     ``gate_proj``, ``up_proj``, ``down_proj``              (E, I, H), (E, I, H), (E, H, I)
fused      ``gate_up_proj``, ``down_proj`` (this network's own)   (E, 2I, H), (E, H, I)
=========  =====================================================  ==========================

The hub publishes the separate layout, dFactory trains with the merged one. Slice e of a merged tensor is expert e's
matrix untransposed. All other keys are the same everywhere.
"""

from __future__ import annotations

import re
from typing import Literal

import torch

from wmtoolkit.llada2.configuration import LLaDA2MoeConfig

Layout = Literal["separate", "merged"]
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
SEPARATE_KEY = re.compile(r"(model\.layers\.(\d+)\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
MERGED_KEY = re.compile(r"(model\.layers\.(\d+)\.mlp\.experts)\.(gate_proj|up_proj|down_proj)")


def layout_of(key: str) -> Layout | None:
    """The layout a key belongs to; None for the keys that are the same in both."""
    if SEPARATE_KEY.fullmatch(key):
        return "separate"
    return "merged" if MERGED_KEY.fullmatch(key) else None


def separate_key(layer: int, expert: int, projection: str) -> str:
    return f"model.layers.{layer}.mlp.experts.{expert}.{projection}.weight"


def merged_key(layer: int, projection: str) -> str:
    return f"model.layers.{layer}.mlp.experts.{projection}"


def sparse_layers(config: LLaDA2MoeConfig) -> range:
    """Indices of the layers with experts."""
    return range(config.first_k_dense_replace, config.num_hidden_layers)


def expected_tensors(config: LLaDA2MoeConfig, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Key and shape of each tensor of a checkpoint of this architecture."""
    assert config.head_dim is not None
    hidden, dim = config.hidden_size, config.head_dim
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    experts, width = config.num_experts, config.moe_intermediate_size or 0
    tensors: dict[str, tuple[int, ...]] = {"model.word_embeddings.weight": (config.vocab_size, hidden)}

    def mlp(prefix: str, intermediate: int) -> None:
        tensors[f"{prefix}.gate_proj.weight"] = tensors[f"{prefix}.up_proj.weight"] = (intermediate, hidden)
        tensors[f"{prefix}.down_proj.weight"] = (hidden, intermediate)

    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        tensors[f"{layer}.input_layernorm.weight"] = (hidden,)
        tensors[f"{layer}.post_attention_layernorm.weight"] = (hidden,)
        tensors[f"{layer}.attention.query_key_value.weight"] = ((heads + 2 * kv_heads) * dim, hidden)
        if config.use_qkv_bias:
            tensors[f"{layer}.attention.query_key_value.bias"] = ((heads + 2 * kv_heads) * dim,)
        tensors[f"{layer}.attention.query_layernorm.weight"] = (dim,)
        tensors[f"{layer}.attention.key_layernorm.weight"] = (dim,)
        tensors[f"{layer}.attention.dense.weight"] = (hidden, heads * dim)
        if config.use_bias:
            tensors[f"{layer}.attention.dense.bias"] = (hidden,)
        if index not in sparse_layers(config):
            mlp(f"{layer}.mlp", config.intermediate_size or 0)
            continue
        tensors[f"{layer}.mlp.gate.weight"] = (experts, hidden)
        tensors[f"{layer}.mlp.gate.expert_bias"] = (experts,)
        if config.num_shared_experts is not None:
            mlp(f"{layer}.mlp.shared_experts", width * config.num_shared_experts)
        if layout == "separate":
            for expert in range(experts):
                mlp(f"{layer}.mlp.experts.{expert}", width)
        else:
            tensors[merged_key(index, "gate_proj")] = tensors[merged_key(index, "up_proj")] = (experts, width, hidden)
            tensors[merged_key(index, "down_proj")] = (experts, hidden, width)
    tensors["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        tensors["lm_head.weight"] = (config.vocab_size, hidden)
    return tensors


def from_fused(state_dict: dict[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
    """The network's own state dict under the keys of a layout, all contiguous; separate experts are views."""
    result: dict[str, torch.Tensor] = {}
    for key, tensor in state_dict.items():
        prefix, _, name = key.rpartition(".")
        if not prefix.endswith(".mlp.experts"):
            result[key] = tensor
            continue
        parts = {name: tensor}
        if name == "gate_up_proj":
            parts = dict(zip(("gate_proj", "up_proj"), tensor.chunk(2, dim=1), strict=True))
        for projection, stacked in parts.items():
            if layout == "merged":
                result[f"{prefix}.{projection}"] = stacked.contiguous()
            else:
                for expert, matrix in enumerate(stacked.unbind()):
                    result[f"{prefix}.{expert}.{projection}.weight"] = matrix
    return result


def fused_sources(config: LLaDA2MoeConfig, layout: Layout) -> dict[str, list[list[tuple[str, int]]]]:
    """Which matrices on disk make up each fused tensor: per expert, the parts that follow each other along its rows.

    A matrix is a key and the slice of the tensor under it: 0 of a separate one, the expert's number of a merged one.
    """
    sources = {}
    for layer in sparse_layers(config):
        for fused, parts in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            sources[merged_key(layer, fused)] = [
                [
                    (merged_key(layer, part), expert) if layout == "merged" else (separate_key(layer, expert, part), 0)
                    for part in parts
                ]
                for expert in range(config.num_experts)
            ]
    return sources
