"""Training from a text LLaDA2, with adapters, with recomputed activations, and sharded over processes."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.data import collect, open_store
from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import open_checkpoint
from wmtoolkit.llada2.released import released_config
from wmtoolkit.llada2.scale import count_parameters
from wmtoolkit.training.config import load_config
from wmtoolkit.training.loop import train
from wmtoolkit.training.scale import LORA_TARGETS, lay_out, plain
from wmtoolkit.training.scale_config import ScaleConfig
from wmtoolkit.training.start import starting_network
from wmtoolkit.world import grid
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig

TEXT = """\
base: tiny
name: text
model: {head_dim: 16, num_hidden_layers: 3, num_experts: 8, n_group: 4, topk_group: 2, partial_rotary_factor: 0.5,
        rope_theta: 10000}
world: {compositional: false, slot_features: false, action_features: false, axes: false, egomotion: false,
        start_heading: false, mission_features: false, expectation: false, memory: 0}
scale: {optimizer: adamw}
masking: {mission_share: 0}
training: {learning_rate: 3.0e-3, steps: 4, checkpoint_every: 2, batch_size: 4}
logging: {every: 1, trackers: []}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(collect("BabyAI-GoToRedBallGrey-v0", 40, out=tmp_path_factory.mktemp("data") / "episodes"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("config") / "text.yaml"
    file.write_text(TEXT)
    return str(file)


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def state(out: Path) -> dict[str, torch.Tensor]:
    folder = sorted((out / "checkpoints").glob("step-*"))[-1]
    files = [file for file in folder.glob("*.safetensors")]
    return {f"{file.name}/{key}": value for file in files for key, value in load_file(file).items()}


def wmtool_train(processes: int, *options: object) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-P", *launcher, "-m", "wmtoolkit.cli", "train", *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_text_llada2_is_trained_and_stays_one(data: str, text: str, grown: Path, tmp_path: Path) -> None:
    result = train(load_config(text, ["training.steps=12"]), tmp_path / "run", [data], init=grown)
    assert np.mean(losses(tmp_path / "run")[-3:]) < np.mean(losses(tmp_path / "run")[:3])
    model = AnyOrderWorldModel.from_pretrained(result["checkpoint"], precision="float32")
    trained = open_checkpoint(Path(result["checkpoint"]))
    assert trained.config.vocab_size == 896
    before, after = (
        folder.tensors["model.word_embeddings.weight"].load().float() for folder in (open_checkpoint(grown), trained)
    )
    assert torch.equal(before[:352], after[:352])  # the text's rows are not touched
    assert not torch.equal(before[352:793], after[352:793])
    history = open_store([data], "train").trajectory(0).prefix(1)
    assert model.predict([history], [2]).images.shape == (1, 7, 7, 3)


@pytest.mark.parametrize("adapters", [False, True], ids=["weights", "adapters"])
def test_a_run_over_text_resumes_exactly(data: str, text: str, grown: Path, tmp_path: Path, adapters: bool) -> None:
    config = load_config(text, ["scale.lora_rank=4", "scale.frozen_weights=float32"] if adapters else [])
    train(config, tmp_path / "whole", [data], init=grown)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-0000004")
    train(config, tmp_path / "cut", [data], resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_adapters_train_a_hundredth_and_leave_the_rest(data: str, text: str, grown: Path, tmp_path: Path) -> None:
    """The checkpoint is a plain one, with the adapters in its weights; a training checkpoint holds what is trained."""
    config = load_config(text, ["scale.lora_rank=2", "training.steps=6", "training.checkpoint_every=6"])
    result = train(config, tmp_path / "run", [data], init=grown)
    before, after = open_checkpoint(grown).tensors, open_checkpoint(Path(result["checkpoint"])).tensors
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key].load().float(), after[key].load().float())}
    adapted = {key for key in before if ".mlp.experts." not in key and key.split(".")[-2] in LORA_TARGETS}
    assert changed == {*adapted, "model.word_embeddings.weight", "lm_head.weight"}
    (step,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert {file.name for file in step.iterdir()} == {"training_state.json", "training_state.safetensors"}
    model = AnyOrderWorldModel.from_pretrained(result["checkpoint"], precision="float32")
    assert np.isfinite(model.policy([open_store([data], "train").trajectory(0).prefix(1)])).all()


def test_weights_with_their_adapters_compute_what_both_compute(text: str, grown: Path) -> None:
    network, _ = starting_network(load_config(text), grown)
    lay_out(network, ScaleConfig(optimizer="adamw", lora_rank=2), torch.device("cpu"), False, grown)
    adapters = [value for name, value in network.named_parameters() if "lora_B" in name]
    assert adapters
    with torch.no_grad():
        for value in adapters:
            value.normal_(std=0.2)
    together = plain(network.eval(), True)
    assert together is not None
    assert not any("lora" in name for name, _ in together.named_parameters())
    ids = torch.randint(0, 350, (2, 30))
    with torch.no_grad():
        both = network.llada2(ids).logits
        torch.testing.assert_close(together.eval().llada2(ids).logits, both, atol=1e-4, rtol=1e-4)
        untouched = AnyOrderWorldModel.from_pretrained(grown, precision="float32").network.llada2(ids).logits
    assert not torch.allclose(both, untouched, atol=1e-2)


def test_frozen_weights_in_bfloat16_with_adapters_in_float32(data: str, text: str, grown: Path, tmp_path: Path) -> None:
    settings = ["scale.lora_rank=2", "scale.frozen_weights=bf16", "training.mixed_precision=bf16", "training.steps=2"]
    result = train(load_config(text, settings), tmp_path / "run", [data], init=grown)
    assert all(np.isfinite(losses(tmp_path / "run")))
    stored = open_checkpoint(Path(result["checkpoint"])).tensors
    assert stored["model.layers.0.attention.dense.weight"].dtype == torch.bfloat16
    trained = state(tmp_path / "run")
    assert all(value.dtype == torch.float32 for name, value in trained.items() if "lora_" in name)


def test_recomputed_activations_change_no_loss(data: str, text: str, grown: Path, tmp_path: Path) -> None:
    for name, setting in (("kept", "false"), ("again", "true")):
        config = load_config(text, [f"scale.activation_checkpointing={setting}", "training.steps=3"])
        train(config, tmp_path / name, [data], init=grown)
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "kept"), rel=1e-6)


def test_sharded_over_two_processes_equals_one(data: str, text: str, grown: Path, tmp_path: Path) -> None:
    """FSDP2 from the meta device: losses, weights, and a checkpoint that one process goes on from."""
    train(load_config(text), tmp_path / "one", [data], init=grown)
    options = ("--config", text, "--data", data, "--init", grown, "--set", "scale.sharding=fsdp2")
    done = wmtool_train(2, *options, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=2e-4, rtol=1e-3, msg=name)
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-0000004")
    resumed = wmtool_train(2, "--data", data, "--out", tmp_path / "two", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_the_set_up_of_llada2_mini_on_two_processes_equals_one(data: str, grown: Path, tmp_path: Path) -> None:
    """DDP, adapters on frozen weights, recomputed activations, as llada2_mini.yaml has them; here in float32."""
    small = (
        *("hidden_size=32", "intermediate_size=64", "num_hidden_layers=3", "num_attention_heads=2"),
        *("num_key_value_heads=1", "head_dim=16", "num_experts=8", "num_experts_per_tok=2", "n_group=4"),
        *("topk_group=2", "moe_intermediate_size=16", "rope_theta=10000"),
    )
    overrides = [
        *(f"model.{name}" for name in small),
        *("training.steps=3", "training.checkpoint_every=3", "training.batch_size=6", "logging.every=1"),
        *("training.validation_windows=8", "training.mixed_precision=float32", "scale.frozen_weights=float32"),
        "logging.trackers=[]",
    ]
    config = load_config("llada2_mini", overrides)
    assert config.scale.lora_rank
    assert config.scale.activation_checkpointing
    train(config, tmp_path / "one", [data], init=grown)
    settings = [part for override in overrides for part in ("--set", override)]
    done = wmtool_train(
        2, "--config", "llada2_mini", *settings, "--data", data, "--init", grown, "--out", tmp_path / "two"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("scale.sharding=zero",), "scale.sharding is 'zero'; known are none, fsdp2"),
        (("scale.optimizer=muon", "scale.sharding=fsdp2"), "need scale.optimizer=adamw"),
        (("scale.lora_rank=4", "scale.sharding=fsdp2"), "needs scale.sharding=none"),
        (("scale.offload=true",), "scale.offload needs scale.sharding=fsdp2"),
        (("scale.frozen_weights=bf16",), "scale.frozen_weights=bf16 needs scale.lora_rank"),
        (("scale.lora_rank=-1",), "scale.lora_rank must be at least 0"),
        (("scale.lora_rank=4", "training.ema=0.9"), "training.ema must be 0"),
        (("scale.lora_ranks=4",), "unknown key scale.lora_ranks; did you mean lora_rank"),
    ],
)
def test_settings_that_do_not_go_together_are_named(text: str, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_config(text, overrides)


def test_starts_that_do_not_fit_are_one_line(
    data: str, text: str, grown: Path, text_checkpoint: Path, checkpoint: Path, tmp_path: Path
) -> None:
    def refused(words: str, init: Path, *overrides: str) -> None:
        with pytest.raises(UserError, match=words) as failure:
            train(load_config(text, overrides), tmp_path / "run", [data], init=init)
        assert "\n" not in str(failure.value)

    refused("add --set model.num_hidden_layers=3", grown, "model.num_hidden_layers=2")
    refused("compositional must be false", grown, "world.compositional=true")
    refused("does not fit the config's model", checkpoint)
    refused("no checkpoint folder", tmp_path / "nowhere")
    refused("was not grown by the world's tokens; wmtool export --target grown", text_checkpoint)
    with pytest.raises(UserError, match="add --init"):
        train(load_config(text, ["scale.lora_rank=4"]), tmp_path / "run", [data])
    refused("needs a group of processes", grown, "scale.sharding=fsdp2")


@pytest.mark.parametrize(("name", "active"), [("llada2_mini", 1.433e9), ("llada2_flash", 6.152e9)])
def test_the_large_configs_are_the_released_models_on_the_meta_device(name: str, active: float) -> None:
    """Built without weights: the architecture of the release, its adapters, and the rows of the world's tokens."""
    config = load_config(name)
    released = released_config(name.removeprefix("llada2_"))
    for field in config.model.__dataclass_fields__:
        if field != "attention":
            assert getattr(config.model, field) == getattr(released, field), field
    words = tuple((index,) for index in range(len(grid.WORDS)))
    text = TextVocabulary(size=157696, first=157184, pad=156892, mask=156895, words=words, block_length=64)
    world = TextWorldConfig(**asdict(config.world), text=text)
    with torch.device("meta"):
        network = WorldNetwork(WorldNetwork.fitted(released, world), world)
        if config.scale.lora_rank:
            lay_out(network, config.scale, torch.device("meta"), False, None)
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    rows = 2 * len(text.new) * released.hidden_size
    counts = count_parameters(network.llada2.config)
    assert counts["active"] == pytest.approx(active, rel=0.02)
    if config.scale.lora_rank:
        assert 1e6 < trained - rows < 0.001 * counts["total"]
    else:
        frozen = 2 * text.size * released.hidden_size
        assert trained == counts["total"] - frozen + rows


SHARDED = """
import torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from wmtoolkit.llada2.released import released_config
from wmtoolkit.llada2.scale import training_cost
from wmtoolkit.training.scale import shard
from wmtoolkit.world import grid
from wmtoolkit.world.config import BEYOND_LLADA2
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig

words = tuple((index,) for index in range(len(grid.WORDS)))
text = TextVocabulary(size=157696, first=157184, pad=156892, mask=156895, words=words, block_length=64)
plain = dict.fromkeys(("compositional", *BEYOND_LLADA2), False)
world = TextWorldConfig(**plain, memory=0, text=text)
config = WorldNetwork.fitted(released_config("flash"), world)
with torch.device("meta"):
    network = WorldNetwork(config, world)
dist.init_process_group("fake", rank=3, world_size=32, store=FakeStore())
shard(network, torch.device("cpu"), bf16=True)
held = sum(value.to_local().numel() for value in network.parameters())
total = sum(value.numel() for value in network.parameters())
print(held, total, training_cost(config, 2048, devices=32)["weight_bytes"])
"""


def test_the_largest_model_is_shared_evenly_by_its_32_processes() -> None:
    """The sharding itself, on the meta device, as one of 32 processes sees it."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", SHARDED], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    held, total, planned = map(int, done.stdout.split())
    assert held == pytest.approx(total / 32, rel=0.01)
    assert planned == pytest.approx(16 * held, rel=0.02)  # what plan-cluster says a process holds
