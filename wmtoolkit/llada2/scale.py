"""What an architecture costs, computed from its configuration: parameters, FLOPs, memory.

A FLOP count takes a multiply-add as two and leaves out what is not a matrix product (below 1 %). Attention is
counted dense: masked pairs are computed and thrown away by all but block-sparse kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import buildable_config
from wmtoolkit.llada2.configuration import LLaDA2MoeConfig
from wmtoolkit.llada2.layouts import MERGED_KEY, expected_tensors
from wmtoolkit.llada2.released import RELEASED, released_config

ADAMW_BYTES = 16
"""Bytes a parameter in mixed-precision training: float32 weight, gradient and two moments of AdamW."""


def count_parameters(config: LLaDA2MoeConfig) -> dict[str, int]:
    """Parameters: ``total``; ``active``, those a token passes; ``embedding``, the input table alone; ``layer``, the
    largest layer."""
    sizes = {
        key: math.prod(shape)
        for key, shape in expected_tensors(config, "merged").items()
        if not key.endswith(".expert_bias")  # a buffer
    }
    routed = sum(size for key, size in sizes.items() if MERGED_KEY.fullmatch(key))
    total = sum(sizes.values())
    return {
        "total": total,
        "active": total - routed + routed * config.num_experts_per_tok // config.num_experts,
        "embedding": sizes["model.word_embeddings.weight"],
        "layer": max(
            sum(size for key, size in sizes.items() if key.startswith(f"model.layers.{index}."))
            for index in range(config.num_hidden_layers)
        ),
    }


def forward_flops(config: LLaDA2MoeConfig, tokens: int, keys: int) -> int:
    """FLOPs of a forward pass of ``tokens`` tokens, each of which attends to ``keys`` keys."""
    assert config.head_dim is not None
    counts = count_parameters(config)
    # the input table is looked up; a tied output table multiplies all the same
    matrices = counts["active"] - (0 if config.tie_word_embeddings else counts["embedding"])
    vectors = config.hidden_size * (2 * config.num_hidden_layers + 1) + 2 * config.head_dim * config.num_hidden_layers
    attention = 2 * config.num_attention_heads * config.head_dim * keys * config.num_hidden_layers
    return 2 * tokens * (matrices - vectors + attention)


def cache_bytes_per_token(config: LLaDA2MoeConfig, bytes_each: int = 2) -> int:
    """Bytes of keys and values a cached token takes."""
    assert config.head_dim is not None
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * bytes_each


def activation_bytes(config: LLaDA2MoeConfig, tokens: int, checkpointing: bool = True, bytes_each: int = 2) -> int:
    """Estimate of what the backward pass of ``tokens`` input tokens keeps.

    With checkpointing: each layer's input, and one layer's insides at a time. Attention weights are taken as never
    stored (a fused kernel).
    """
    assert config.head_dim is not None
    width = config.hidden_size
    heads = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    routed = config.num_experts_per_tok + (config.num_shared_experts or 0)
    sparse = 3 * routed * (config.moe_intermediate_size or 0) + config.num_experts_per_tok * width
    dense = 3 * (config.intermediate_size or 0)
    inside = 4 * width + heads + max(sparse, dense)
    layers = config.num_hidden_layers
    return bytes_each * tokens * (layers * width + inside if checkpointing else layers * (width + inside))


def training_cost(config: LLaDA2MoeConfig, length: int, batch: int = 1, devices: int = 1) -> dict[str, Any]:
    """One step of dFactory's training (2L layout, gradient checkpointing, AdamW) on fully sharded devices.

    Args:
        length: tokens of a sequence; the network sees twice as many.
        batch: sequences a device.
    """
    tokens = 2 * length * batch
    counts = count_parameters(config)
    forward = forward_flops(config, tokens, 2 * length)
    memory = {
        "weight_bytes": ADAMW_BYTES * counts["total"] // devices,
        "gathered_bytes": 2 * counts["layer"],
        "activation_bytes": activation_bytes(config, tokens),
        # of the noisy half only: float32, and once more for their gradient
        "logits_bytes": 2 * 4 * length * batch * config.vocab_size,
        "cache_bytes": 0,
    }
    return {
        **memory,
        "memory_bytes": sum(memory.values()),
        "flops": 4 * forward,  # forward, its recomputation, and a backward pass of twice the work
        "flops_per_token": 4 * forward // (length * batch),
    }


def inference_cost(
    config: LLaDA2MoeConfig, context: int, batch: int = 1, block_length: int = 32, passes: int = 32, bytes_each: int = 2
) -> dict[str, Any]:
    """Cached block decoding after ``context`` tokens.

    Args:
        passes: forward passes a block; one more writes the block into the cache.
        bytes_each: bytes of a weight and of a cached value (2 for bfloat16).
    """
    memory = {
        "weight_bytes": bytes_each * count_parameters(config)["total"],
        "gathered_bytes": 0,
        "activation_bytes": 0,
        "logits_bytes": 4 * batch * block_length * config.vocab_size,
        "cache_bytes": batch * context * cache_bytes_per_token(config, bytes_each),
    }
    block = forward_flops(config, block_length, context + block_length)
    return {
        **memory,
        "memory_bytes": sum(memory.values()),
        "prefill_flops": batch * forward_flops(config, context, context),
        "flops_per_token": (passes + 1) * block // block_length,
    }


def scale_table(
    models: Sequence[str] = (), *, length: int = 2048, batch: int = 1, devices: int = 8, passes: int = 16
) -> list[dict[str, Any]]:
    """One flat row a model and use, with all of the above.

    Args:
        models: names of released models, or checkpoint folders (``config.json`` is enough); all released if empty.
    """
    rows = []
    for name in models or RELEASED:
        config = _config(name)
        counts = count_parameters(config)
        common = {"model": name, "parameters": counts["total"], "active_parameters": counts["active"], "length": length}
        training = training_cost(config, length, batch, devices)
        rows.append({**common, "use": "training", "batch": batch, "devices": devices, **training})
        inference = inference_cost(config, length, batch, passes=passes)
        rows.append({**common, "use": "inference", "batch": batch, "devices": 1, "passes": passes, **inference})
    return rows


def _config(name: str) -> LLaDA2MoeConfig:
    if name in RELEASED:
        return released_config(name)
    if not Path(name).is_dir():
        raise UserError(f"{name} is neither a released model ({', '.join(RELEASED)}) nor a checkpoint folder")
    return buildable_config(Path(name))


def scale_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for people: GB are 10^9 bytes."""
    parts = ("memory", "weight", "gathered", "activation", "logits", "cache")
    header = "model use parameters active tokens batch devices GB weights gathered activations logits cache TFLOP/token"
    table = [header.split()]
    for row in rows:
        counts = [f"{row[name] / 1e9:.3f}B" for name in ("parameters", "active_parameters")]
        sizes = [str(row[name]) for name in ("length", "batch", "devices")]
        memory = [f"{row[f'{part}_bytes'] / 1e9:.2f}" for part in parts]
        table.append([row["model"], row["use"], *counts, *sizes, *memory, f"{row['flops_per_token'] / 1e12:.4f}"])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.rjust, cells, widths)) for cells in table)
