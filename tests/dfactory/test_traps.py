"""Traps of dFactory's training, each by its name: what would train wrong without a word does not happen here."""

import ast
import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import transformers
import yaml
from safetensors.torch import load_file, save_file

import wmtoolkit.dfactory
from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.dfactory.any_order.layout import IGNORED, Layout
from wmtoolkit.dfactory.any_order.step import any_order_loss, backward, network_inputs
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


def test_trap_5_nothing_masked_gives_zero_and_not_nan(
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


def test_trap_5_nothing_masked_in_a_whole_run(run_task: Callable, metrics: Callable, tmp_path: Path) -> None:
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


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_trap_weight_by_token_not_by_micro_batch(
    layout: Layout, examples: list[dict], network: LLaDA2MoeForCausalLM, alone: None
) -> None:
    """Much asked in one micro-batch, little in the other: together they are what one batch of both is."""
    parts = [batch_of(layout, examples[:1], mixture={"forward": 1.0}), batch_of(layout, examples[1:2])]
    asked = [float(part["loss_weights"].sum()) for part in parts]
    assert not 0.8 < asked[0] / asked[1] < 1.25
    together = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
    network.train()
    ends = []
    for micro_batches in (parts, [together], parts[:1], parts[1:]):
        network.zero_grad()
        options = {"block_diffusion": True, "contexts": (nullcontext(), nullcontext())}
        loss, _ = backward(network, micro_batches, layout, layout.choices(), **options)
        gradient = network.model.layers[1].mlp.gate.weight.grad
        assert gradient is not None
        ends.append((loss, gradient.clone()))
    network.eval()
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-5)
    torch.testing.assert_close(ends[0][1], ends[1][1], atol=1e-6, rtol=1e-3)
    assert abs((ends[2][0] + ends[3][0]) / 2 - ends[0][0]) > 1e-3  # the mean of means is something else


# Section 7: configuration


@pytest.mark.parametrize("name", YAMLS)
def test_trap_4_every_key_that_has_a_wrong_default_is_set(name: str) -> None:
    settings = yaml.safe_load((FOLDER / name).read_text())
    train, model = settings["train"], settings["model"]
    assert train["block_diffusion_mode"] is True
    assert train["same_token_labels"] is True
    assert train["rmpad"] is train["rmpad_with_pos_ids"] is False
    assert (train["data_parallel_mode"], train["init_device"]) == ("fsdp2", "meta")
    assert (train["tensor_parallel_size"], train["ulysses_parallel_size"]) == (1, 1)
    assert model["attn_implementation"] == "sdpa"
    assert settings["data"]["max_seq_len"] % train["block_size"] == 0
    assert (settings["data"]["data_type"], settings["data"]["text_keys"]) == ("tokenid", "input_ids")
    assert "log_steps" not in train  # no such argument: VeOmni ignores it
    size = "flash" if "flash" in name else "mini"  # dFactory's own flash YAML points to mini
    assert size in model["config_path"]
    assert size in model["model_path"]


def test_trap_4_the_tasks_own_defaults_are_the_right_ones() -> None:
    """Also without a YAML: those of dFactory's task are false, 32 and false."""
    tree = ast.parse((FOLDER / "any_order" / "arguments.py").read_text())
    defaults = {
        node.target.id: next(given.value.value for given in node.value.keywords if given.arg == "default")
        for group in ast.walk(tree)
        if isinstance(group, ast.ClassDef) and group.name == "AnyOrderTrainingArguments"
        for node in group.body
        if isinstance(node, ast.AnnAssign)
    }
    assert (defaults["block_diffusion_mode"], defaults["same_token_labels"]) == (True, True)
    assert defaults["block_size"] == 64


def test_trap_wandb_is_imported_only_where_it_is_asked_for() -> None:
    """dFactory's task needs it installed, whatever use_wandb says."""
    for file in (FOLDER / "train_any_order_babyai.py", *(FOLDER / "any_order").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            assert "wandb" not in ast.dump(node) or isinstance(node, ast.ClassDef)


def test_trap_unknown_keys_are_refused_where_veomni_ignores_them(run_task: Callable, tmp_path: Path) -> None:
    """One line and no traceback, as from every refusal."""
    done = run_task(tmp_path, "--train.log_steps", 1)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "train_any_order_babyai: unknown key train.log_steps; --help lists those that are known"
    )
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def said(
    refusals: Callable, grown: Path, merged: Path, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """What the task ends with, for each of many wrong settings; nothing was trained by then."""
    folder = tmp_path_factory.mktemp("wrong")
    config = json.loads((checkout / "configs/model_configs/llada2_mini_world/config.json").read_text())
    (folder / "small").mkdir()
    (folder / "small" / "config.json").write_text(json.dumps({**config, "vocab_size": 352}))
    shutil.copytree(merged, folder / "cut")
    file = next(file for file in (folder / "cut").glob("*.safetensors") if "model.norm.weight" in load_file(file))
    save_file({name: value for name, value in load_file(file).items() if name != "model.norm.weight"}, file)
    lines = (checkout / "data/any_order_babyai/train.jsonl").read_text().splitlines()
    longer = json.loads(lines[-1])
    longer["input_ids"] += longer["input_ids"][-64:]
    (folder / "mixed.jsonl").write_text("\n".join([*lines[:40], json.dumps(longer)]))
    places = {"SMALL": folder / "small", "CUT": folder / "cut", "MIXED": folder / "mixed.jsonl"}
    places |= {"GROWN": grown, "MERGED": merged}
    answers = refusals(folder / "out", [tuple(places.get(str(value), value) for value in wrong) for wrong in WRONG])
    assert not (folder / "out" / "metrics.jsonl").exists()
    assert not (folder / "out" / "checkpoints").exists()
    by_setting = dict(zip(WRONG, answers, strict=True))

    def ask(*setting: object) -> str:
        line = by_setting[setting]
        assert line.startswith("train_any_order_babyai: "), line
        assert "\n" not in line
        return line

    return ask


WRONG: dict[tuple[object, ...], str] = {
    ("--train.block_size", 32): "train.block_size is 32, the data has blocks of 64: set it to that",
    ("--data.max_seq_len", 192): "a sequence has 256 tokens, data.max_seq_len is 192: set it to 256, or export",
    ("--data.max_seq_len", 200): "must be a multiple of the 64 tokens of a block",
    ("--data.train_path", "MIXED"): "a sequence has 320 tokens, data.max_seq_len is 256",
    ("--data.train_path", "nowhere.jsonl"): "'nowhere.jsonl' is not there; add --data.train_path",
    ("--data.layout_path", "nowhere.json"): "is no world_layout.json",
    ("--data.noise_range_low", 0.9, "--data.noise_range_high", 0.1): "a range in 0..1",
    ("--data.mask_mixture", '{"forwards": 1.0}'): "must be shares of forward, policy",
    ("--data.loss_weights", '{"cells": 1.0}'): "must name action, outcome",
    ("--data.full_attention_share", 1.5): "must be shares from 0 to 1",
    ("--train.global_batch_size", 3): "add --train.global_batch_size 4",
    ("--train.global_batch_size", 4): "forbids; add --train.global_batch_size 2, or --train.enable_fsdp_offload false",
    ("--train.global_batch_size", 2000, "--train.micro_batch_size", 2000): "export more data",
    ("--train.init_device", "cuda"): "fsdp2 needs meta",
    ("--train.rmpad", "true"): "the mask is dense",
    ("--train.ulysses_parallel_size", 2): "a dense mask is not split",
    ("--train.tensor_parallel_size", 2): "VeOmni can do 1 alone",
    ("--train.same_token_labels", "false"): "same_token_labels must be true",
    ("--train.lrr", 1): "unknown key train.lrr",
    ("--model.attn_implementation", "eager"): "only sdpa reads the mask",
    ("--model.tokenizer_path", "nowhere"): "'nowhere' is not there; add --model.tokenizer_path",
    ("--model.model_path", "nowhere"): "'nowhere' is not there; add --model.model_path",
    ("--model.model_path", "GROWN"): "weights that would be random, the first model.layers.1.mlp.experts.down_proj",
    ("--model.model_path", "CUT"): "the first model.norm.weight",
    ("--model.config_path", "nowhere"): "nowhere/config.json",
    ("--model.config_path", "MERGED"): "model_type is llada2_moe, not llada2_moe_veomni",
    ("--model.config_path", "SMALL"): "the vocabulary was not grown",
    ("--train.save_steps", 1, "--train.num_train_epochs", 10**12): "its disk has",
}


@pytest.mark.parametrize("setting", WRONG, ids=lambda setting: " ".join(map(str, setting)))
def test_a_wrong_setting_is_one_line_before_anything_long_starts(said: Callable, setting: tuple) -> None:
    assert WRONG[setting] in said(*setting)


def test_trap_4_shifted_labels_are_refused(said: Callable) -> None:
    assert "not the next token" in said("--train.same_token_labels", "false")


def test_trap_13_weights_that_would_be_random_are_refused(said: Callable) -> None:
    """Separate experts, and one norm that is missing: VeOmni trains on with random ones."""
    assert "lacks 6 weights that would be random" in said("--model.model_path", "GROWN")
    assert "lacks 1 weights that would be random" in said("--model.model_path", "CUT")


def test_trap_14_a_config_that_asks_for_separate_experts_is_refused(said: Callable) -> None:
    assert "use the exported one" in said("--model.config_path", "MERGED")


def test_trap_19_what_dfactorys_pages_advise_and_its_code_cannot_do(said: Callable) -> None:
    """Tensor parallel 2, and streaming data."""
    assert "tensor_parallel_size is 2" in said("--train.tensor_parallel_size", 2)
    for name in YAMLS:
        settings = yaml.safe_load((FOLDER / name).read_text())
        assert settings["train"]["tensor_parallel_size"] == 1
        assert settings["data"]["datasets_type"] == "mapping"


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


def test_every_trap_of_the_list_has_a_test_with_its_number() -> None:
    names = [
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text())
    ]
    numbers = {int(number) for name in names if "trap" in name for number in re.findall(r"_(\d+)(?=_)", name)}
    assert set(range(1, 23)) <= numbers


def test_trap_1_temperature_0_is_greedy(network: LLaDA2MoeForCausalLM, layout: Layout) -> None:
    """The original samples at temperature 1: two seeds would differ."""
    prompt = torch.arange(20)[None] + 260
    options = {"gen_length": 64, "steps": 4, "eos_id": layout.pad, "mask_id": layout.mask}
    answers = [
        network.generate(prompt, temperature=temperature, generator=torch.Generator().manual_seed(seed), **options)
        for temperature in (0.0, 1.0)
        for seed in (0, 1)
    ]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[2], answers[3])


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


def test_trap_9_an_end_token_in_the_prompt_ends_nothing_and_the_prompt_is_not_returned(
    network: LLaDA2MoeForCausalLM, layout: Layout
) -> None:
    prompt = torch.arange(20)[None] + 260
    prompt[0, 5] = layout.pad
    for early in (False, True):
        options = {"eos_id": layout.pad, "mask_id": layout.mask, "eos_early_stop": early}
        answer = network.generate(prompt, gen_length=32, steps=4, **options)
        assert 0 < answer.shape[1] <= 32
        assert not torch.equal(answer[0, :5], prompt[0, :5])


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


def test_trap_20_every_path_of_the_yaml_is_there(checkout: Path) -> None:
    """dFactory's pages name a file that its script does not write."""
    settings = yaml.safe_load((checkout / "configs/sft/llada2_mini_any_order_babyai.yaml").read_text())
    paths = [settings["data"][name] for name in ("train_path", "layout_path")]
    paths += [settings["model"][name] for name in ("config_path", "model_path", "tokenizer_path")]
    assert all((checkout / path).exists() for path in paths)


def test_trap_21_a_checkpoint_of_the_hub_loads_under_transformers_5(text_checkpoint: Path) -> None:
    """The original's code imports names that are gone; it is never run, though config.json names it (auto_map)."""
    assert int(transformers.__version__.split(".")[0]) >= 5
    assert "auto_map" in json.loads((text_checkpoint / "config.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(text_checkpoint)
    assert isinstance(model, LLaDA2MoeForCausalLM)


def test_trap_22_the_order_of_the_routers_ids_means_nothing(network: LLaDA2MoeForCausalLM) -> None:
    """It is another one where topk does not sort."""
    block = network.model.layers[1].mlp
    hidden = torch.randn(9, network.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, weights, ids = block.gate(hidden)
        torch.testing.assert_close(
            block.experts(hidden, ids, weights), block.experts(hidden, ids.flip(1), weights.flip(1))
        )
