"""Traps of dFactory's training, each by its name: what would train wrong without a word does not happen here."""

import ast
import inspect
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import wmtoolkit.dfactory
from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.dfactory.any_order.layout import IGNORED, Layout
from wmtoolkit.dfactory.any_order.step import any_order_loss, network_inputs
from wmtoolkit.dfactory.any_order.transform import AnyOrderTransform
from wmtoolkit.dfactory.export import check_checkout
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
from wmtoolkit.llada2.checkpoint import open_checkpoint
from wmtoolkit.llada2.convert import convert

FOLDER = Path(inspect.getfile(wmtoolkit.dfactory)).parent
YAMLS = ("llada2_mini_any_order_babyai.yaml", "llada2_flash_any_order_babyai.yaml")


@pytest.fixture(scope="module")
def network(merged: Path) -> LLaDA2MoeForCausalLM:
    return LLaDA2MoeForCausalLM.from_pretrained(merged, dtype=torch.float32)


def batch_of(layout: Layout, examples: list[dict], **options: object) -> dict[str, torch.Tensor]:
    transform = AnyOrderTransform(layout, len(examples[0]["input_ids"]), seed=0, **options)
    rows = [transform(example)[0] for example in examples]
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


# Section 5 of the notes on LLaDA2: objective and noise


@pytest.mark.parametrize("twice", [True, False], ids=["block diffusion", "full attention"])
def test_trap_label_leak_the_clean_target_never_reaches_what_predicts_it(
    layout: Layout, examples: list[dict], network: LLaDA2MoeForCausalLM, twice: bool
) -> None:
    """dFactory's full-attention mode feeds the clean ids; here another clean target changes no score of its block."""
    options = {"full_share": 0.0 if twice else 1.0, "full_mixture": {"cell": 1.0}, "mixture": {"cell": 1.0}}
    batch = batch_of(layout, examples[:4], **options)
    other = {key: value.clone() for key, value in batch.items()}
    target = batch["labels"] != IGNORED
    other["input_ids"][target] = layout.kinds["cell"][0] + 7
    length = target.shape[1]
    with torch.no_grad():
        scores = [network(**network_inputs(given, layout, twice)).logits[:, :length] for given in (batch, other)]
    block = torch.arange(length) // layout.block_size
    for row in range(len(target)):
        first = block[target[row]].min()  # later blocks may see the clean past, which did change
        places = target[row] & (block == first) if twice else target[row]
        torch.testing.assert_close(scores[0][row, places], scores[1][row, places], atol=1e-5, rtol=0)


def test_trap_nothing_masked_gives_zero_and_not_nan(
    layout: Layout, examples: list[dict], network: LLaDA2MoeForCausalLM
) -> None:
    batch = batch_of(layout, examples[:2])
    batch["labels"][:], batch["loss_weights"][:] = IGNORED, 0
    network.zero_grad()
    total, kinds = any_order_loss(
        network(**network_inputs(batch, layout, True)).logits, batch, layout, layout.choices()
    )
    total.backward()
    assert total == 0
    assert kinds.sum() == 0
    assert all(value.grad is None or (value.grad == 0).all() for value in network.parameters())


def test_trap_nothing_masked_in_a_whole_run(run_task: Callable, metrics: Callable, tmp_path: Path) -> None:
    """The ratio 0 hides nothing: the loss is 0, the weights stay finite."""
    done = run_task(
        tmp_path, "--data.mask_mixture", '{"attribute": 1.0}', "--data.noise_range_high", 0,
        "--data.full_attention_share", 0, "--train.max_steps", 1, "--train.global_batch_size", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert metrics(tmp_path)[0]["loss"] == 0
    weights = load_file(tmp_path / "checkpoints" / "global_step_1" / "hf_ckpt" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_trap_padding_is_neither_trained_nor_attended_to(
    layout: Layout, examples: list[dict], network: LLaDA2MoeForCausalLM
) -> None:
    batch = batch_of(layout, examples[:8], full_share=0.5)
    padding = batch["input_ids"] == layout.pad
    assert padding.any()
    assert (batch["labels"][padding] == IGNORED).all()
    inputs = network_inputs(batch, layout, True)
    changed = torch.where(padding.repeat(1, 2), torch.tensor(5), inputs["input_ids"])
    with torch.no_grad():
        before = network(**inputs).logits
        after = network(**{**inputs, "input_ids": changed}).logits
    here = ~padding.repeat(1, 2)
    torch.testing.assert_close(before[here], after[here], atol=1e-5, rtol=0)


def test_trap_the_mask_is_never_a_label_nor_in_the_data(layout: Layout, examples: list[dict]) -> None:
    assert not (batch_of(layout, examples)["labels"] == layout.mask).any()
    spoiled = {**examples[0], "input_ids": [layout.mask, *examples[0]["input_ids"][1:]]}
    with pytest.raises(ValueError, match="holds a mask"):
        batch_of(layout, [spoiled])


def test_trap_a_prompt_that_fills_the_sequence_is_refused(layout: Layout, examples: list[dict]) -> None:
    with pytest.raises(ValueError, match="leave something to ask"):
        batch_of(layout, [{**examples[0], "prompt_lengths": len(examples[0]["input_ids"])}])


def test_trap_weight_by_token_not_by_rank(layout: Layout, examples: list[dict]) -> None:
    """See also test_two_processes_equal_one: a rank with few masked tokens must not weigh as much as one with many."""
    uneven = [batch_of(layout, examples[:1]), batch_of(layout, examples[1:2])]
    asked = [float(batch["loss_weights"].sum()) for batch in uneven]
    assert asked[0] != asked[1]


# Section 7: configuration


@pytest.mark.parametrize("name", YAMLS)
def test_trap_defaults_every_key_that_has_a_wrong_default_is_set(name: str) -> None:
    settings = yaml.safe_load((FOLDER / name).read_text())
    train, model = settings["train"], settings["model"]
    assert train["block_diffusion_mode"] is True
    assert train["same_token_labels"] is True
    assert train["rmpad"] is train["rmpad_with_pos_ids"] is False
    assert (train["data_parallel_mode"], train["init_device"]) == ("fsdp2", "meta")
    assert (train["tensor_parallel_size"], train["ulysses_parallel_size"]) == (1, 1)
    assert model["attn_implementation"] == "sdpa"
    assert settings["data"]["max_seq_len"] % train["block_size"] == 0
    assert settings["data"]["data_type"] == "tokenid"
    assert "log_steps" not in train  # no such argument: VeOmni ignores it
    size = "flash" if "flash" in name else "mini"  # dFactory's own flash YAML points to mini
    assert size in model["config_path"]
    assert size in model["model_path"]


def test_trap_unknown_keys_are_refused_where_veomni_ignores_them(run_task: Callable, tmp_path: Path) -> None:
    """One line and no traceback, as from every refusal."""
    done = run_task(tmp_path, "--train.log_steps", 1)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "train_any_order_babyai: unknown key train.log_steps; see --help for those that are known"
    )
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_one_line_before_anything_long_starts(
    refusals: Callable, grown: Path, merged: Path, checkout: Path, tmp_path: Path
) -> None:
    """Among them traps 4, 7, 13 and 14: shifted labels, other attention, random experts, a config of another layout."""
    config = json.loads((checkout / "configs/model_configs/llada2_mini_world/config.json").read_text())
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps({**config, "vocab_size": 352}))
    shutil.copytree(merged, tmp_path / "cut")
    file = next(file for file in (tmp_path / "cut").glob("*.safetensors") if "model.norm.weight" in load_file(file))
    save_file({name: value for name, value in load_file(file).items() if name != "model.norm.weight"}, file)
    wrong = {
        ("--train.same_token_labels", "false"): "same_token_labels must be true",
        ("--train.block_size", 32): "train.block_size is 32, the data has blocks of 64",
        ("--model.attn_implementation", "eager"): "only sdpa reads the mask",
        ("--train.rmpad", "true"): "the mask is dense",
        ("--train.ulysses_parallel_size", 2): "a dense mask is not split",
        ("--data.max_seq_len", 192): "a sequence has 256 tokens, data.max_seq_len is 192",
        ("--data.max_seq_len", 200): "must be a multiple of the 64 tokens of a block",
        ("--train.global_batch_size", 3): "should be a multiple of 2",
        ("--train.global_batch_size", 4): "Gradient accumulation is not supported with FSDP offload",
        ("--train.global_batch_size", 2000, "--train.micro_batch_size", 2000): "train.global_batch_size is 2000",
        ("--data.noise_range_low", 0.9, "--data.noise_range_high", 0.1): "a range in 0..1",
        ("--data.mask_mixture", '{"forwards": 1.0}'): "must be shares of forward, policy",
        ("--data.loss_weights", '{"cells": 1.0}'): "must name action, outcome",
        ("--data.layout_path", "nowhere.json"): "is no world_layout.json",
        ("--model.model_path", grown): "weights that would be random, the first model.layers.1.mlp.experts.down_proj",
        ("--model.model_path", tmp_path / "cut"): "the first model.norm.weight",
        ("--model.config_path", merged): "model_type is llada2_moe, not llada2_moe_veomni",
        ("--model.config_path", tmp_path / "small"): "the vocabulary was not grown",
    }
    said = refusals(tmp_path / "out", list(wrong))
    for (options, words), line in zip(wrong.items(), said, strict=True):
        assert line.startswith("train_any_order_babyai: "), (options, line)
        assert words in line
        assert "\n" not in line
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_trap_veomni_versions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def refused_checkout(words: str) -> None:
        with pytest.raises(UserError, match=words) as failure:
            check_checkout(tmp_path)
        assert "\n" not in str(failure.value)

    refused_checkout("no dFactory checkout")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "train_llada2_bd.py").touch()
    refused_checkout("fetch dFactory's submodule")
    (tmp_path / "VeOmni" / "veomni" / "utils").mkdir(parents=True)
    (tmp_path / "VeOmni" / "veomni" / "utils" / "arguments.py").touch()
    (tmp_path / "VeOmni" / "veomni" / "arguments").mkdir()
    refused_checkout("newer than dFactory's submodule")
    shutil.rmtree(tmp_path / "VeOmni" / "veomni" / "arguments")
    git = ["git", "-C", str(tmp_path / "VeOmni"), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "another version"], check=True)
    refused_checkout("the task is written for 600fe6d")


# Section 8: the list of bugs, by number


def test_trap_2_the_shifted_loss_inside_the_model_is_never_asked_for() -> None:
    """No call of the model passes labels; the stand-in's model does not even take them."""
    for file in ("train_any_order_babyai.py", "any_order/step.py"):
        for node in ast.walk(ast.parse((FOLDER / file).read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "model":
                assert "labels" not in {keyword.arg for keyword in node.keywords}
    source = inspect.getsource(network_inputs)
    assert '"labels"' not in source


def test_trap_3_full_attention_reads_the_noisy_ids(layout: Layout, examples: list[dict]) -> None:
    batch = batch_of(layout, examples[:2], full_share=1.0)
    assert torch.equal(network_inputs(batch, layout, False)["input_ids"], batch["noisy_input_ids"])


def test_trap_6_the_mask_id_comes_from_the_checkpoints_own_tokenizer(layout: Layout, text_checkpoint: Path) -> None:
    vocabulary = json.loads((text_checkpoint / "tokenizer.json").read_text())["added_tokens"]
    assert layout.mask == next(token["id"] for token in vocabulary if token["content"] == "<|mask|>")
    assert layout.mask != 156895


def test_trap_7_and_8_the_mask_is_bool_so_that_no_precision_misreads_it(
    layout: Layout, examples: list[dict], network: LLaDA2MoeForCausalLM
) -> None:
    inputs = network_inputs(batch_of(layout, examples[:2]), layout, True)
    assert inputs["attention_mask"].dtype == torch.bool
    length = inputs["input_ids"].shape[1]
    assert inputs["attention_mask"].shape == (2, 1, length, length)  # the original does not broadcast
    assert inputs["attention_mask"].diagonal(dim1=-2, dim2=-1).all()  # no row without a key: no NaN
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            assert network.to(dtype)(**inputs).logits.isfinite().all()
    network.to(torch.float32)


def test_trap_10_no_cache_in_training() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse((FOLDER / "any_order" / "step.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "model"
    ]
    (call,) = calls
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    assert given["use_cache"].value is False
    assert given["output_router_logits"].value is False


def test_trap_12_a_checkpoint_rounded_to_bfloat16_is_read_back(merged: Path, tmp_path: Path) -> None:
    """dFactory saves everything in bfloat16, the router's bias too."""
    shutil.copytree(merged, tmp_path / "rounded")
    for file in (tmp_path / "rounded").glob("*.safetensors"):
        tensors = {name: value.to(torch.bfloat16) for name, value in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    convert("split", tmp_path / "rounded", tmp_path / "split")
    model = AnyOrderWorldModel.from_pretrained(tmp_path / "split", precision="float32")
    biases = [layer.mlp.gate.expert_bias for layer in model.network.llada2.model.layers if layer.sparse]
    assert all(bias.dtype == torch.float32 and (bias != 0).any() for bias in biases)


def test_trap_14_the_exported_config_asks_for_merged_experts(checkout: Path, merged: Path) -> None:
    """The merged folder keeps the hub's model_type, by which dFactory would choose separate experts."""
    assert json.loads((merged / "config.json").read_text())["model_type"] == "llada2_moe"
    exported = json.loads((checkout / "configs/model_configs/llada2_mini_world/config.json").read_text())
    assert exported["model_type"] == "llada2_moe_veomni"


def test_trap_15_merged_keys_are_those_of_the_code_not_of_the_readme(merged: Path) -> None:
    keys = open_checkpoint(merged).tensors
    assert keys["model.layers.1.mlp.experts.gate_proj"].shape == (8, 16, 32)
    assert keys["model.layers.1.mlp.experts.down_proj"].shape == (8, 32, 16)
    assert not any(key.endswith(".mlp.experts.gate_proj.weight") for key in keys)


def test_trap_16_a_stale_shard_is_refused(merged: Path, data: Path, tmp_path: Path) -> None:
    from wmtoolkit.dfactory.export import export

    shutil.copytree(merged, tmp_path / "stale")
    save_file({"model.norm.weight": torch.ones(32)}, tmp_path / "stale" / "model-00009-of-00009.safetensors")
    with pytest.raises(UserError, match="model-00009-of-00009"):
        export([str(data)], tmp_path / "stale", tmp_path / "out")


def test_trap_17_the_pad_row_gets_no_gradient_and_nobody_misses_it(
    layout: Layout, examples: list[dict], network: LLaDA2MoeForCausalLM
) -> None:
    batch = batch_of(layout, examples[:4])
    network.zero_grad()
    total, _ = any_order_loss(network(**network_inputs(batch, layout, True)).logits, batch, layout, layout.choices())
    total.backward()
    gradient = network.model.word_embeddings.weight.grad
    assert gradient is not None
    assert (gradient[layout.pad] == 0).all()
    assert (gradient[layout.mask] != 0).any()
    assert network.lm_head.weight.grad is not None
    assert (network.lm_head.weight.grad[: layout.first] == 0).all()  # the text's rows are no possible answer


def test_trap_18_every_sequence_has_exactly_the_length(layout: Layout, examples: list[dict]) -> None:
    for length in (-1, 1):
        ids = (examples[0]["input_ids"] * 2)[: len(examples[0]["input_ids"]) + length]
        transform = AnyOrderTransform(layout, len(examples[0]["input_ids"]), seed=0)
        with pytest.raises(ValueError, match="set it to"):
            transform({**examples[0], "input_ids": ids})
