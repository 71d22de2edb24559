"""A LLaDA2 network of a few thousand weights in which every part of the real one is at work."""

from __future__ import annotations

import pytest
import torch
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM

VOCABULARY, PAD, END, MASK = 50, 46, 47, 48


def tiny_config(**changes):
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,  # not hidden_size / num_attention_heads
        "partial_rotary_factor": 0.5,
        "rope_theta": 600000,
        "use_bias": False,
        "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "num_shared_experts": 2,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 12,
        "first_k_dense_replace": 1,
        "initializer_range": 0.2,
        "use_cache": False,
        "pad_token_id": PAD,
    }
    return LLaDA2MoeConfig(**{**fields, **changes})


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    model = LLaDA2MoeForCausalLM(tiny_config(**changes)).eval()
    with torch.no_grad():  # biased routers and norms that do something, as in trained networks
        for name, tensor in model.state_dict().items():
            if name.endswith("expert_bias"):
                tensor.normal_(std=0.5)
            elif "norm" in name:
                tensor.normal_(mean=1.0, std=0.2)
    return model


def glm4_moe_names(tensors, config):
    """Tensors of our network (its weights, or their gradients) under the names of Transformers' Glm4Moe."""
    names = {
        "word_embeddings": "embed_tokens",
        ".attention.": ".self_attn.",
        "query_layernorm": "q_norm",
        "key_layernorm": "k_norm",
        ".dense.": ".o_proj.",
        "expert_bias": "e_score_correction_bias",
    }
    sizes = [n * config.head_dim for n in (config.num_attention_heads, *[config.num_key_value_heads] * 2)]
    mapped = {}
    for key, tensor in tensors.items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if key.endswith("query_key_value.weight"):
            for part, rows in zip("qkv", tensor.split(sizes), strict=True):
                mapped[key.replace("query_key_value", f"{part}_proj")] = rows
        else:
            mapped[key] = tensor
    return mapped


def glm4_moe(model):
    """Transformers' Glm4Moe with our network's weights: the closest stock model, causal unless given a 4-D mask."""
    config = model.config
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "rms_norm_eps moe_intermediate_size num_experts_per_tok routed_scaling_factor n_group topk_group "
        "first_k_dense_replace"
    )
    twin = Glm4MoeForCausalLM(
        Glm4MoeConfig(
            **{name: getattr(config, name) for name in same.split()},
            n_shared_experts=config.num_shared_experts,
            n_routed_experts=config.num_experts,
            norm_topk_prob=True,
            use_qk_norm=True,
            attention_bias=False,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "partial_rotary_factor": config.partial_rotary_factor,
            },
        )
    )
    twin.load_state_dict(glm4_moe_names(model.state_dict(), config))
    return twin.eval()


@pytest.fixture
def config():
    return tiny_config()


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture(scope="session")
def make_config():
    return tiny_config


@pytest.fixture(scope="session")
def make_model():
    return tiny_model


@pytest.fixture(scope="session")
def twin():
    return glm4_moe


@pytest.fixture(scope="session")
def twin_names():
    return glm4_moe_names


@pytest.fixture
def ids():
    """Token ids (2, 12)."""
    return torch.randint(0, PAD, (2, 12), generator=torch.Generator().manual_seed(1))
