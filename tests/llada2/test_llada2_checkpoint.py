"""Both layouts on disk: keys, shapes, round trips."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, Trainer, TrainingArguments

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM, LLaDA2MoeModel
from wmtoolkit.llada2.layouts import expected_tensors, from_fused
from wmtoolkit.llada2.released import RELEASED

LAYOUTS = ["separate", "merged"]


def stored(folder):
    """All tensors of a folder, as the safetensors library reads them."""
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    return tensors


def same(a, b):
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].shape == b[key].shape and torch.equal(a[key], b[key]) for key in a
    )


def test_keys_and_shapes_are_those_of_the_original(model, tmp_path):
    h, d, n, k, f, i, e, v = 32, 12, 4, 2, 40, 12, 8, 50
    everywhere = {
        "model.word_embeddings.weight": (v, h),
        "model.norm.weight": (h,),
        "lm_head.weight": (v, h),
        "model.layers.0.mlp.gate_proj.weight": (f, h),
        "model.layers.0.mlp.up_proj.weight": (f, h),
        "model.layers.0.mlp.down_proj.weight": (h, f),
    }
    for layer in range(3):
        p = f"model.layers.{layer}"
        everywhere |= {
            f"{p}.input_layernorm.weight": (h,),
            f"{p}.post_attention_layernorm.weight": (h,),
            f"{p}.attention.query_key_value.weight": ((n + 2 * k) * d, h),
            f"{p}.attention.query_layernorm.weight": (d,),
            f"{p}.attention.key_layernorm.weight": (d,),
            f"{p}.attention.dense.weight": (h, n * d),
        }
        if layer > 0:
            everywhere |= {
                f"{p}.mlp.gate.weight": (e, h),
                f"{p}.mlp.gate.expert_bias": (e,),
                f"{p}.mlp.shared_experts.gate_proj.weight": (2 * i, h),
                f"{p}.mlp.shared_experts.up_proj.weight": (2 * i, h),
                f"{p}.mlp.shared_experts.down_proj.weight": (h, 2 * i),
            }
    separate, merged = dict(everywhere), dict(everywhere)
    for layer in (1, 2):
        p = f"model.layers.{layer}.mlp.experts"
        for x in range(e):
            separate |= {f"{p}.{x}.{name}.weight": (i, h) for name in ("gate_proj", "up_proj")}
            separate[f"{p}.{x}.down_proj.weight"] = (h, i)
        merged |= {f"{p}.gate_proj": (e, i, h), f"{p}.up_proj": (e, i, h), f"{p}.down_proj": (e, h, i)}
    for layout, expected in (("separate", separate), ("merged", merged)):
        model.save_pretrained(tmp_path / layout, layout=layout)
        shapes = {key: tuple(tensor.shape) for key, tensor in stored(tmp_path / layout).items()}
        assert shapes == expected
        assert expected_tensors(model.config, layout) == expected


def test_merged_tensors_are_the_stacked_separate_ones(model, tmp_path):
    for layout in LAYOUTS:
        model.save_pretrained(tmp_path / layout, layout=layout)
    separate, merged = stored(tmp_path / "separate"), stored(tmp_path / "merged")
    fused = model.model.layers[2].mlp.experts.gate_up_proj
    for expert in range(8):
        for name in ("gate_proj", "up_proj", "down_proj"):
            one = separate[f"model.layers.2.mlp.experts.{expert}.{name}.weight"]
            assert torch.equal(one, merged[f"model.layers.2.mlp.experts.{name}"][expert])
        gate = separate[f"model.layers.2.mlp.experts.{expert}.gate_proj.weight"]
        assert torch.equal(gate, fused[expert, :12])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_round_trips_are_bit_exact_and_complete(make_model, ids, tmp_path, layout, dtype, shard):
    model = make_model().to(dtype)
    model.save_pretrained(tmp_path / "a", layout=layout, max_shard_size=shard)
    assert (tmp_path / "a" / "model.safetensors.index.json").exists() == (shard == "20KB")
    loaded, info = LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "a", output_loading_info=True)
    assert not any(info.values())
    assert not loaded.training
    assert same(loaded.state_dict(), model.state_dict())
    assert loaded.state_dict()["model.layers.1.mlp.gate.expert_bias"].dtype == torch.float32
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    loaded.save_pretrained(tmp_path / "b", layout=layout)
    assert same(stored(tmp_path / "a"), stored(tmp_path / "b"))
    assert (tmp_path / "a" / "config.json").read_text() == (tmp_path / "b" / "config.json").read_text()


def test_the_type_can_be_changed_on_loading_and_the_bias_keeps_its_own(model, tmp_path):
    model.save_pretrained(tmp_path)
    for key in ("dtype", "torch_dtype"):
        half = LLaDA2MoeForCausalLM.from_pretrained(tmp_path, **{key: torch.bfloat16})
        assert half.dtype == torch.bfloat16
        name = "model.layers.1.mlp.gate.expert_bias"
        assert torch.equal(half.state_dict()[name], model.state_dict()[name])


def test_a_bias_stored_in_bfloat16_is_read(model, tmp_path):
    """dFactory's converter rounds it; the network computes with what is there, in float32."""
    model.save_pretrained(tmp_path)
    tensors = stored(tmp_path)
    name = "model.layers.1.mlp.gate.expert_bias"
    tensors[name] = tensors[name].bfloat16()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = LLaDA2MoeForCausalLM.from_pretrained(tmp_path).state_dict()[name]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, tensors[name].float())


def test_without_a_type_in_the_config_the_weights_tell_it(model, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["torch_dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert LLaDA2MoeForCausalLM.from_pretrained(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model_type", ["llada2_moe", "llada2_moe_veomni"])
def test_the_layout_is_told_by_the_keys_and_never_by_the_model_type(make_model, ids, tmp_path, layout, model_type):
    model = make_model(model_type=model_type, auto_map=RELEASED["mini"]["auto_map"])  # ours goes before remote code
    model.save_pretrained(tmp_path, layout=layout)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config["auto_map"] == RELEASED["mini"]["auto_map"]
    assert config["architectures"] == ["LLaDA2MoeModelLM"]
    assert type(AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)) is LLaDA2MoeConfig
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", trust_remote_code=True)
    assert type(loaded) is LLaDA2MoeForCausalLM
    assert loaded.config._attn_implementation == "eager"
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-5, rtol=0)


def test_the_transformer_without_its_head(model, ids, tmp_path):
    model.save_pretrained(tmp_path / "whole")
    for kind in (AutoModel, LLaDA2MoeModel):
        bare = kind.from_pretrained(tmp_path / "whole")
        assert type(bare) is LLaDA2MoeModel
        assert torch.equal(bare(ids).last_hidden_state, model.model(ids).last_hidden_state)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "bare")


def test_config_fields_can_be_given_on_loading(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert LLaDA2MoeForCausalLM.from_pretrained(tmp_path, rope_axes=3).model.rotary_emb.axes == 3
    with pytest.raises(TypeError):
        LLaDA2MoeForCausalLM.from_pretrained(tmp_path, rope_axis=3)


@pytest.mark.parametrize("changes", [{"num_shared_experts": 0}, {"num_shared_experts": None}, {"use_bias": True}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_variants_round_trip(make_model, tmp_path, layout, changes):
    model = make_model(use_qkv_bias=True, **changes)
    model.save_pretrained(tmp_path, layout=layout)
    assert same(LLaDA2MoeForCausalLM.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_tied_embeddings_are_stored_once(make_model, ids, tmp_path):
    model = make_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in stored(tmp_path)
    loaded = LLaDA2MoeForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.word_embeddings.weight
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_network_outlives_its_files_and_can_be_saved_over_them(model, ids, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    loaded = LLaDA2MoeForCausalLM.from_pretrained(tmp_path)
    expected = model(ids).logits
    loaded.save_pretrained(tmp_path, layout="merged")
    assert torch.equal(loaded(ids).logits, expected)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(tmp_path)(ids).logits, expected)
    loaded.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(tmp_path)(ids).logits, expected)


def test_a_gathered_state_dict_can_be_saved(make_model, tmp_path):
    model, other = make_model(), make_model(seed=9)
    model.save_pretrained(tmp_path, state_dict=other.state_dict())
    assert same(LLaDA2MoeForCausalLM.from_pretrained(tmp_path).state_dict(), other.state_dict())


def test_transformers_trainer_trains_it_and_its_checkpoint_is_the_originals(model, ids, tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, save_steps=2, learning_rate=1e-2, use_cpu=True, report_to=[]
    )
    before = model(ids, labels=ids).loss
    Trainer(model, arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids]).train()
    model.eval()
    assert model(ids, labels=ids).loss < before
    folder = tmp_path / "checkpoint-2"
    assert stored(folder).keys() == expected_tensors(model.config, "separate").keys()
    assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(folder)(ids).logits, model(ids).logits)


def test_loading_and_saving_are_silent(model, tmp_path):
    model.save_pretrained(tmp_path)
    code = (
        "import sys\nfrom wmtoolkit.llada2 import LLaDA2MoeForCausalLM as M\n"
        "M.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1] + '/again')"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""


def test_layouts_of_a_state_dict_are_views_where_they_can_be(model):
    separate = from_fused(model.state_dict(), "separate")
    fused = model.model.layers[1].mlp.experts.gate_up_proj
    expert = separate["model.layers.1.mlp.experts.5.up_proj.weight"]
    assert expert.untyped_storage().data_ptr() == fused.untyped_storage().data_ptr()
    assert os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is None  # silence does not come from the environment
