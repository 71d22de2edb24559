"""`wmtool plan-cluster`: its counts against networks that are built, its words against bad arguments."""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from wmtoolkit import Trajectory
from wmtoolkit.cli.main import main
from wmtoolkit.data import open_store
from wmtoolkit.dfactory.plan import BLOCK_LENGTH, FORMULAS, SETUPS, Speeds, _cost, adapter_parameters, plan
from wmtoolkit.dfactory.sequences import sequence_count, sequences
from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.llada2.released import released_config
from wmtoolkit.training.config import load_config
from wmtoolkit.training.scale import LORA_TARGETS, lay_out
from wmtoolkit.world import grid
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig


def wmtool(*arguments: object) -> dict:
    done = CliRunner().invoke(main, ["plan-cluster", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "setup"), [("llada2_mini", "lora"), ("llada2_flash", "fsdp2")])
def test_parameters_are_those_of_the_network_that_the_config_builds(name: str, setup: str) -> None:
    """On the meta device, with the adapters of the config: all parameters, and those that are trained."""
    config = load_config(name)
    words = tuple((index,) for index in range(len(grid.WORDS)))
    text = TextVocabulary(size=157696, first=157184, pad=156892, mask=156895, words=words, block_length=BLOCK_LENGTH)
    world = TextWorldConfig(**asdict(config.world), text=text)
    model = name.removeprefix("llada2_")
    (row,) = plan([model], setups=[setup], lora_rank=config.scale.lora_rank or 1)
    with torch.device("meta"):
        network = WorldNetwork(WorldNetwork.fitted(released_config(model), world), world)
        built = sum(value.numel() for value in network.parameters())
        if config.scale.lora_rank:
            lay_out(network, config.scale, torch.device("meta"), False, None)
    assert row["vocab_size"] == 157696
    assert row["parameters"] == built
    assert row["trained_parameters"] == sum(value.numel() for value in network.parameters() if value.requires_grad)


def test_the_adapters_counted_are_those_of_the_trainer(tiny: dict) -> None:
    config = LLaDA2MoeConfig(**tiny, vocab_size=100, pad_token_id=0)
    width = {key: sum(value.shape) for key, value in LLaDA2MoeForCausalLM(config).named_parameters()}
    expected = sum(size for key, size in width.items() if key.split(".")[-2] in LORA_TARGETS and "norm" not in key)
    assert adapter_parameters(config, 3) == 3 * expected


def test_flops_are_those_that_a_training_step_executes(tiny: dict) -> None:
    """Forward, each layer once more, and backward, on twice the length under a dense mask."""
    config = LLaDA2MoeConfig(**tiny, vocab_size=100, pad_token_id=0)
    config._attn_implementation = "eager"
    model = LLaDA2MoeForCausalLM(config).train()
    model.set_experts_implementation("eager")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = torch.randint(0, 100, (2, 2 * 64))
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):
        model(ids).logits.sum().backward()
    assert _cost(config, "dfactory", 64, 2, 1).flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_sequences_are_counted_as_they_are_cut(data: Path, episodes: list[Trajectory]) -> None:
    words = tuple((index + 5,) for index in range(len(grid.WORDS)))
    text = TextVocabulary(size=896, first=352, pad=0, mask=1, words=words, block_length=BLOCK_LENGTH)
    for length in (3 * 64, 6 * 64, 32 * 64):
        for episode in episodes:
            cut = len(list(sequences(episode, text, length)))
            assert sequence_count(np.array([len(episode)]), BLOCK_LENGTH, length) == cut
    store = open_store([str(data)], "train")
    (row,) = wmtool("--model", "mini", "--setup", "lora", "--data", data, "--max-seq-len", 384, "--gpus", 2)["rows"]
    assert row["sequences"] == sequence_count(store.lengths, BLOCK_LENGTH, 384)
    assert row["tokens"] == 384 * row["sequences"]
    assert row["steps"] == row["sequences"] // 2


def test_more_gpus_hold_less_each_unless_each_holds_all() -> None:
    rows = {(row["setup"], row["gpus"]): row for row in plan(["mini"], [1, 8])}
    assert set(rows) == {(setup, count) for setup in SETUPS for count in (1, 8)}
    for setup in ("dfactory-gpu", "fsdp2"):
        assert rows[setup, 1]["state_bytes"] == pytest.approx(8 * rows[setup, 8]["state_bytes"])
    assert rows["lora", 1]["memory_bytes"] == rows["lora", 8]["memory_bytes"]
    assert rows["dfactory", 8]["host_bytes"] == rows["dfactory-gpu", 8]["state_bytes"]
    assert rows["dfactory", 8]["seconds_per_step"] > rows["dfactory-gpu", 8]["seconds_per_step"]
    for row in rows.values():
        parts = row["state_bytes"] + row["kept_bytes"] + max(row["score_bytes"], row["layer_bytes"])
        assert row["memory_bytes"] >= parts
    # 16 bytes a parameter, the rule of thumb that everybody knows
    assert rows["dfactory-gpu", 1]["state_bytes"] == 16 * rows["dfactory-gpu", 1]["parameters"]
    assert [rows["lora", 1]["fits"], rows["dfactory-gpu", 1]["fits"], rows["dfactory-gpu", 8]["fits"]] == [
        True, False, True,
    ]  # fmt: skip


def test_hours_are_bound_by_what_is_slowest() -> None:
    fast = Speeds(links=1e6)
    (row,) = plan(["mini"], [8], setups=["fsdp2"], speeds=fast, micro_batch_size=4)
    seconds = 4 * row["flops_per_sequence"] / (989e12 * 0.3)
    assert row["seconds_per_step"] == pytest.approx(seconds)
    assert row["hours"] == pytest.approx(row["steps"] * seconds / 3600)
    (slow,) = plan(["mini"], [8], setups=["fsdp2"], speeds=Speeds(links=10.0))
    assert slow["seconds_per_step"] == pytest.approx(8 * slow["parameters"] * 7 / 8 / 10e9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-seq-len", 2000), "must be three or more whole blocks of 64 tokens; 1984 is the nearest"),
        (("--model", "midi"), "'midi' is no released model; there are mini, flash"),
        (("--setup", "zero"), "--setup 'zero' is none of dfactory, dfactory-gpu, fsdp2, lora"),
        (("--gpus", 64, "--sequences", 60), "60 sequences are fewer than a step of 64"),
        (("--host-memory", 0), "--host-memory 0.0 must be above 0"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple, words: str) -> None:
    done = CliRunner().invoke(main, ["plan-cluster", *map(str, arguments)])
    assert done.exit_code == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


# docs/scaling.md

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
COMMANDS = [
    command.removeprefix("`").removesuffix("`")
    for command in re.findall(r"(?m)^(?:wmtool|torchrun) .*$|`(?:wmtool|torchrun) [^`]+ --[^`]+`", DOCUMENT)
]


def test_the_tables_of_the_guide_are_what_its_commands_print() -> None:
    """Where this fails, write what the commands print now into docs/scaling.md."""
    tables = re.findall(r"(?m)^`wmtool (plan-cluster .*)`\n\n```\n((?:.*\n)+?)```$", DOCUMENT)
    assert len(tables) == 2
    for command, table in tables:
        printed = CliRunner().invoke(main, shlex.split(command)).stdout
        assert printed.startswith(table)
    assert FORMULAS in DOCUMENT


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_guide_is_one(command: str) -> None:
    """Options are known, the set-up of a training is a valid config, and its batch can be shared by its GPUs."""
    words = shlex.split(command)
    start = words.index("-m") + 2 if words[0] == "torchrun" else 1
    context = main.make_context("wmtool", [*words[start:]], resilient_parsing=True)
    name, command_of, arguments = main.resolve_command(context, words[start:])
    assert command_of is not None
    options = command_of.make_context(name, arguments).params
    if name == "train":
        config = load_config(options["name"], options["overrides"])
        gpus = int(words[words.index("--nproc-per-node") + 1]) if words[0] == "torchrun" else 1
        assert config.training.batch_size % (gpus * config.training.accumulation) == 0
        if "--init" in words:
            assert config.scale.lora_rank or config.scale.sharded


def test_the_guide_has_a_set_up_for_each_number_of_gpus() -> None:
    """Of our own trainer for 1, 2, 4 and 8; and none of dFactory's is named that by the plan does not fit."""
    for count in (2, 4, 8):
        assert f"--nproc-per-node {count} -m wmtoolkit.cli train --config llada2_mini" in DOCUMENT
    rows = plan(["mini", "flash"], [1, 2, 4, 8, 16, 64])
    fits = {(row["model"], row["setup"], row["gpus"]): row["fits"] for row in rows}
    table = re.findall(r"(?m)^\| (\d+) \| (.*) \| (.*) \|$", DOCUMENT)
    assert [int(gpus) for gpus, *_ in table] == [1, 2, 4, 8, 16, 64]
    for gpus, *cells in table:
        for model, cell in zip(("mini", "flash"), cells, strict=True):
            named = f"--ranks {gpus}" in cell
            on_gpus = f"--ranks {gpus} --no-offload" in cell
            assert not named or fits[model, "dfactory-gpu" if on_gpus else "dfactory", int(gpus)]
            assert (
                named or not fits[model, "dfactory", int(gpus)] or (model, gpus) == ("mini", "64")
            )  # more than it needs
