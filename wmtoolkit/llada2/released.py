"""Architectures of the released models, field by field as their ``config.json`` states them."""

from __future__ import annotations

from typing import Any

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.configuration import ORIGINAL_ARCHITECTURE, LLaDA2MoeConfig

_COMMON: dict[str, Any] = {
    "architectures": [ORIGINAL_ARCHITECTURE],
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_llada2_moe.LLaDA2MoeConfig",
        "AutoModel": "modeling_llada2_moe.LLaDA2MoeModel",
        "AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM",
    },
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 16384,
    "model_type": "llada2_moe",
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
    "norm_head": False,
    "num_experts": 256,
    "num_key_value_heads": 4,
    "rope_theta": 600000,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_rmsnorm": True,
    "rms_norm_eps": 1e-06,
    "head_dim": 128,
    "num_shared_experts": 1,
    "use_cache": False,
    "use_qkv_bias": False,
    "embedding_dropout": 0.0,
    "output_dropout": 0.0,
    "norm_softmax": False,
    "vocab_size": 157184,
    "rotary_dim": 64,
    "using_split_qkv_in_self_attention": False,
    "router_dtype": "fp32",
    "moe_router_enable_expert_bias": True,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "score_function": "sigmoid",
    "initializer_range": 0.02,
    "max_window_layers": 28,
    "output_router_logits": False,
    "pad_token_id": 156892,
    "partial_rotary_factor": 0.5,
    "use_sliding_window": False,
}
RELEASED: dict[str, dict[str, Any]] = {
    "mini": {
        **_COMMON,
        "num_hidden_layers": 20,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "num_attention_heads": 16,
    },
    "flash": {
        **_COMMON,
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 9216,
        "moe_intermediate_size": 1024,
        "num_attention_heads": 32,
    },
}


def released_config(name: str, **changes: Any) -> LLaDA2MoeConfig:
    """Configuration of LLaDA2.0-``name`` (``mini`` or ``flash``), with some fields changed."""
    if name not in RELEASED:
        raise UserError(f"{name!r} is no released model; there are {', '.join(RELEASED)}")
    return LLaDA2MoeConfig(**{**RELEASED[name], **changes})
