import json
import re
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.llada2.layouts import expected_tensors, from_fused
from wmtoolkit.llada2.released import RELEASED, released_config


@pytest.mark.parametrize("name", ["mini", "flash"])
@pytest.mark.parametrize("model_type", ["llada2_moe", "llada2_moe_veomni"])
def test_every_field_of_a_released_config_is_written_back_as_it_was(tmp_path, name, model_type):
    original = {**RELEASED[name], "model_type": model_type, "transformers_version": "4.52.3"}
    (tmp_path / "config.json").write_text(json.dumps(original))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = AutoConfig.from_pretrained(tmp_path)
        config.save_pretrained(tmp_path / "saved")
    assert type(config) is LLaDA2MoeConfig
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    del saved["transformers_version"], original["transformers_version"]
    # the only additions: class arguments that the file leaves to their defaults
    assert {key: saved[key] for key in original} == original
    assert saved.keys() - original.keys() == {"sliding_window", "use_qk_norm"}


def test_reading_the_same_folder_through_the_class_gives_the_same(tmp_path, caplog):
    released_config("mini", model_type="llada2_moe_veomni").save_pretrained(tmp_path)
    direct = LLaDA2MoeConfig.from_pretrained(tmp_path)
    assert direct.to_diff_dict() == AutoConfig.from_pretrained(tmp_path).to_diff_dict()
    assert direct.model_type == "llada2_moe_veomni"
    assert not caplog.records


def test_omitted_fields_take_the_defaults_of_the_original_class():
    config = LLaDA2MoeConfig()
    expected = {
        "vocab_size": 30592,
        "hidden_size": 1024,
        "intermediate_size": None,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "silu",
        "use_qkv_bias": False,
        "use_qk_norm": False,
        "use_bias": True,
        "rms_norm_eps": 1e-5,
        "norm_head": False,
        "tie_word_embeddings": False,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "output_dropout": 0.1,
        "initializer_range": 0.02,
        "max_position_embeddings": 16384,
        "rope_theta": 10000.0,
        "use_cache": True,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "rope_scaling": None,
        "pad_token_id": 126081,
        "num_experts": 16,
        "num_shared_experts": 0,
        "num_experts_per_tok": 2,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "moe_intermediate_size": None,
        "first_k_dense_replace": 0,
        "output_router_logits": False,
        "partial_rotary_factor": 0.5,
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.head_dim == 1024 // 16
    assert config.num_key_value_heads == 16


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_both_names_of_the_type_are_read(name):
    config = LLaDA2MoeConfig(**{name: "bfloat16"})
    assert config.dtype == config.torch_dtype == torch.bfloat16
    assert config.to_dict()["torch_dtype"] == "bfloat16"


def test_rotary_fields_folded_by_newer_transformers_are_unfolded():
    folded = {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25}
    config = LLaDA2MoeConfig(rope_parameters=folded)
    assert (config.rope_theta, config.partial_rotary_factor, config.rope_scaling) == (5000.0, 0.25, None)
    assert "rope_parameters" not in config.to_dict()


def test_rope_scaling_is_kept_and_unfolded_too(tmp_path):
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    LLaDA2MoeConfig(rope_scaling=scaling).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_scaling"] == scaling
    assert LLaDA2MoeConfig.from_pretrained(tmp_path).rope_type == "yarn"
    folded = LLaDA2MoeConfig(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0})
    assert (folded.rope_theta, folded.rope_scaling) == (5000.0, {"rope_type": "yarn", "factor": 4.0})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"hiden_size": 64}, "'hiden_size' is unknown; did you mean hidden_size"),
        ({"num_experts_per_token": 2}, "num_experts_per_tok"),
        ({"colour": "red"}, "'colour' is unknown"),
        ({"hidden_size": "64"}, "hidden_size must be int, not '64'"),
        ({"num_experts": None}, "num_experts must be int"),
        ({"num_experts": 8.0}, "num_experts must be int"),
        ({"num_experts": True}, "num_experts must be int"),
        ({"rope_theta": "big"}, "rope_theta must be float"),
        ({"use_bias": 1}, "use_bias must be bool"),
        ({"rope_scaling": 2.0}, "rope_scaling must be dict"),
        ({"rope_parameters": 2.0}, "rope_parameters must be dict"),
        ({"torch_dtype": "bfloat17"}, "dtype"),
        ({"torch_dtype": "int8"}, "dtype"),
        ({"model_type": "llama"}, "model_type"),
    ],
)
def test_a_field_that_is_unknown_or_of_the_wrong_type_is_named(tmp_path, fields, named):
    with pytest.raises(UserError) as failure:
        LLaDA2MoeConfig(**fields)
    assert named in str(failure.value)
    if "model_type" not in fields:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llada2_moe", **fields}))
        with pytest.raises(UserError) as failure:
            LLaDA2MoeConfig.from_pretrained(tmp_path)
        assert str(tmp_path / "config.json") in str(failure.value)
        assert named in str(failure.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff"])
def test_a_file_that_holds_no_fields_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "config.json"))):
        LLaDA2MoeConfig.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is missing"):
        LLaDA2MoeConfig.from_pretrained(tmp_path, subfolder="nowhere")


def test_ignored_and_generic_fields_are_kept():
    fields = {"rotary_dim": 64, "score_function": "sigmoid", "use_qk_norm": True, "eos_token_id": 7, "_private": 1}
    config = LLaDA2MoeConfig(**fields)
    assert {name: config.to_dict()[name] for name in fields} == fields


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_attention_heads": 0, "num_key_value_heads": 0, "head_dim": None}, "num_attention_heads"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"head_dim": -2}, "head_dim"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"n_group": 0}, "n_group"),
        ({"n_group": 3}, "n_group"),
        ({"n_group": 8}, "n_group"),
        ({"topk_group": 5}, "topk_group"),
        ({"num_experts": 0}, "num_experts"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok"),
        ({"num_shared_experts": -1}, "num_shared_experts"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace"),
        ({"moe_intermediate_size": None}, "moe_intermediate_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"pad_token_id": 50}, "pad_token_id"),
        ({"pad_token_id": -51}, "pad_token_id"),
        ({"hidden_act": "wiggle"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_scaling"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": "1"}}, "rope_scaling"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "head_dim": 4}, "rope_scaling"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor"),
    ],
)
def test_a_network_that_cannot_be_built_names_the_field(make_model, changes, named):
    with pytest.raises(UserError, match=f"config field {named} "):
        make_model(**changes)


SIZES = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "num_experts",
    "num_experts_per_tok",
    "num_shared_experts",
    "n_group",
    "topk_group",
    "moe_intermediate_size",
    "intermediate_size",
    "first_k_dense_replace",
    "pad_token_id",
]


@settings(max_examples=100, deadline=None)
@example({"hidden_size": 1}, 0.5)
@given(st.dictionaries(st.sampled_from(SIZES), st.integers(-1, 9), max_size=4), st.floats(-0.5, 1.5))
def test_a_config_is_refused_or_its_network_runs(make_config, changes, factor):
    try:
        config = make_config(**{"pad_token_id": 0, **changes}, partial_rotary_factor=factor)
        model = LLaDA2MoeForCausalLM(config)
    except UserError as failure:
        refused = str(failure)
    else:
        refused = None
    if refused is not None:
        assert refused.startswith("config field ")
        return
    ids = torch.arange(3)[None] % config.vocab_size
    assert model(ids).logits.isfinite().all()
    assert {k: tuple(t.shape) for k, t in from_fused(model.state_dict(), "merged").items()} == expected_tensors(
        config, "merged"
    )
