"""A LLaDA2 network of a few thousand weights in which every part of the real one is at work."""

from __future__ import annotations

import pytest
import torch

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


@pytest.fixture
def config():
    return tiny_config()


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def make_config():
    return tiny_config


@pytest.fixture
def make_model():
    return tiny_model


@pytest.fixture
def ids():
    """Token ids (2, 12)."""
    return torch.randint(0, PAD, (2, 12), generator=torch.Generator().manual_seed(1))
