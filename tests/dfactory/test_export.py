"""What `wmtool export` lays out, and what it refuses before it writes anything."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import AutoTokenizer

import wmtoolkit
from wmtoolkit import AnyOrderWorldModel, Trajectory, WorldTokenizer
from wmtoolkit.cli.main import main
from wmtoolkit.data import open_store
from wmtoolkit.dfactory.export import export, filled
from wmtoolkit.dfactory.plain import export_plain
from wmtoolkit.dfactory.readme import readme
from wmtoolkit.dfactory.sequences import sequences
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM, block_causal_mask
from wmtoolkit.world import grid
from wmtoolkit.world.checkpoint import load
from wmtoolkit.world.config import BEYOND_LLADA2, WorldConfig
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import BLOCK
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig, world_config

LENGTH = 256
TOKENIZER = WorldTokenizer()


def vocabulary_of(folder: Path) -> TextVocabulary:
    world = world_config(json.loads((folder / "world.json").read_text())["world"])
    assert isinstance(world, TextWorldConfig)
    return world.text


def test_the_folder_holds_all_that_a_checkout_needs(checkout: Path, merged: Path) -> None:
    files = {str(file.relative_to(checkout)) for file in checkout.rglob("*") if file.is_file()}
    assert files == {
        "README_any_order_babyai.md",
        "configs/model_configs/llada2_mini_world/config.json",
        "configs/sft/llada2_mini_any_order_babyai.yaml",
        "data/any_order_babyai/train.jsonl",
        "data/any_order_babyai/world.json",
        "data/any_order_babyai/world_layout.json",
        "tasks/any_order/__init__.py",
        "tasks/any_order/arguments.py",
        "tasks/any_order/layout.py",
        "tasks/any_order/masks.py",
        "tasks/any_order/step.py",
        "tasks/any_order/transform.py",
        "tasks/train_any_order_babyai.py",
    }
    settings = yaml.safe_load((checkout / "configs/sft/llada2_mini_any_order_babyai.yaml").read_text())
    assert settings["model"]["model_path"] == str(merged)
    assert settings["data"]["max_seq_len"] == LENGTH
    assert settings["train"]["block_size"] == 64
    assert settings["train"]["global_batch_size"] == 4
    text = (checkout / "README_any_order_babyai.md").read_text()
    assert "export NPROC_PER_NODE=2\n" in text
    assert "sh train.sh tasks/train_any_order_babyai.py" in text
    for path in re.findall(r"`((?:tasks|configs|data)/[^`]*)`", text):
        assert (checkout / path).exists(), path


def test_the_readme_of_two_nodes_says_how_each_is_started() -> None:
    settings = {"model_path": "/w", "max_seq_len": 2048, "global_batch_size": 16, "micro_batch_size": 1}
    text = readme("llada2_flash", 16, 102_890_000_000, settings)
    assert "export NNODES=2 NODE_RANK=0 NPROC_PER_NODE=8 " in text
    assert "on each of 2 nodes" in text
    assert "MASTER_ADDR=" in text
    assert "takes about\n  1,440.5 GB" in text
    assert "NNODES=3 NODE_RANK=0 NPROC_PER_NODE=3 " in readme("llada2_mini", 9, 1, settings)


def test_what_runs_in_a_checkout_imports_nothing_of_ours(checkout: Path) -> None:
    for file in (checkout / "tasks").rglob("*.py"):
        assert "import wmtoolkit" not in file.read_text()
        assert "from wmtoolkit" not in file.read_text()


def test_sequences_are_the_trajectories_and_nothing_is_lost(data: Path, merged: Path, examples: list[dict]) -> None:
    text, store = vocabulary_of(merged), open_store([str(data)], "train")
    back = {int(row): token for token, row in enumerate(text.rows)}
    position = 0
    for episode in range(len(store)):
        trajectory = store.trajectory(episode)
        frames: list[np.ndarray] = []
        while True:
            example = examples[position]
            assert example["id"] == position
            assert len(example["input_ids"]) == LENGTH
            position += 1
            tokens = np.array([back[row] for row in example["input_ids"]]).reshape(-1, text.block_length)
            part = [block[:BLOCK] for block in tokens[1:] if block[0] != TOKENIZER.pad]
            assert example["first_frame"] == max(0, len(frames) - 1)
            frames += part if not frames else part[1:]
            if len(frames) == len(trajectory) + 1:
                break
        assert np.array_equal(frames, TOKENIZER.encode(trajectory)[1:])
    assert position == len(examples)


def test_dfactorys_own_tokenid_task_could_read_them_too(examples: list[dict]) -> None:
    """Its contract: exactly L ids, and ``prompt_lengths`` with an s."""
    for example in examples:
        assert {"input_ids", "prompt_lengths"} <= example.keys()
        assert 0 < example["prompt_lengths"] < len(example["input_ids"])


def test_one_frame_is_shared_by_the_parts_of_a_long_episode(merged: Path, episodes: list[Trajectory]) -> None:
    long = max(episodes, key=len)
    parts = list(sequences(long, vocabulary_of(merged), 6 * 64))
    assert [part["first_frame"] for part in parts] == list(range(0, len(long), 4))
    assert [part["prompt_lengths"] for part in parts] == [64] + [128] * (len(parts) - 1)
    for before, after in itertools.pairwise(parts):
        assert before["input_ids"][5 * 64 :] == after["input_ids"][64:128]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"block_size": 32}, "--block-size is 32, a time step of this checkpoint's vocabulary takes 64"),
        ({"max_seq_len": 2000}, "--max-seq-len 2000 must be three or more whole blocks of 64 tokens; 1984"),
        ({"max_seq_len": 128}, "192 is the nearest"),
        ({"ranks": 3, "global_batch_size": 8}, "--global-batch-size 8 is no multiple of 3 ranks"),
        ({"global_batch_size": 16}, "which CPU offload forbids; take 8, or --no-offload"),
        ({"ranks": 0}, "must be at least 1"),
        ({"recent": 0}, "recent is 0 and span 12; they must be at least 1 and 2"),
        ({"ranks": 64, "micro_batch_size": 64, "max_seq_len": 256}, "fewer than a batch of 4096"),
    ],
)
def test_settings_that_cannot_train_are_refused(
    data: Path, merged: Path, tmp_path: Path, options: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words) as failure:
        export([str(data)], merged, tmp_path / "out", **options)
    assert "\n" not in str(failure.value)
    assert not list(tmp_path.iterdir())


def test_accumulation_is_allowed_without_offload(data: Path, merged: Path, tmp_path: Path) -> None:
    result = export(
        [str(data)], merged, tmp_path / "out", max_seq_len=LENGTH, ranks=2, global_batch_size=8, offload=False
    )
    settings = yaml.safe_load((tmp_path / "out/configs/sft/llada2_mini_any_order_babyai.yaml").read_text())
    assert settings["train"]["enable_fsdp_offload"] is False
    assert settings["train"]["global_batch_size"] == 8
    assert result["tokens"] == result["sequences"] * LENGTH


def test_checkpoints_that_cannot_train_are_refused(
    data: Path, text_checkpoint: Path, grown: Path, merged: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from wmtoolkit.llada2.convert import convert

    def refused(folder: Path, words: str) -> None:
        with pytest.raises(UserError, match=words) as failure:
            export([str(data)], folder, tmp_path / "out")
        assert "\n" not in str(failure.value)
        assert not (tmp_path / "out").exists()

    refused(grown, "separate experts, dFactory trains merged ones; wmtool convert --mode merge")
    convert("merge", text_checkpoint, tmp_path / "text")
    refused(tmp_path / "text", "the vocabulary was not grown .*; wmtool export --target grown")
    convert("merge", checkpoint, tmp_path / "own")
    shutil.copy(checkpoint / "world.json", tmp_path / "own")
    refused(tmp_path / "own", "a vocabulary of its own")
    shutil.copytree(merged, tmp_path / "stale")
    document = json.loads((merged / "world.json").read_text())
    document["world"]["text"]["size"] += 128
    (tmp_path / "stale" / "world.json").write_text(json.dumps(document))
    refused(tmp_path / "stale", "world.json is for 1024 tokens, vocab_size in config.json is 896")
    document = json.loads((merged / "world.json").read_text())
    document["world"]["slot_features"] = True
    (tmp_path / "stale" / "world.json").write_text(json.dumps(document))
    refused(tmp_path / "stale", "world.slot_features, which dFactory's LLaDA2 does not have")
    shutil.copytree(merged, tmp_path / "fewer")
    config = json.loads((merged / "config.json").read_text())
    (tmp_path / "fewer" / "config.json").write_text(json.dumps({**config, "num_experts": 16}))
    refused(tmp_path / "fewer", "is of 8 experts, but num_experts in config.json is 16")


def test_a_full_disk_is_known_before_anything_is_written(
    data: Path, merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="its disk has 1,000 left"):
        export([str(data)], merged, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_values_of_the_yaml_are_replaced_and_comments_kept() -> None:
    text = "a:\n  max_seq_len: 2048   # whole blocks\n  path: ./x   # where\n"
    changed = filled(text, {"max_seq_len": 256, "path": "/mnt/my models #2: new"})
    assert changed.split("\n")[1] == "  max_seq_len: 256    # whole blocks"
    assert yaml.safe_load(changed) == {"a": {"max_seq_len": 256, "path": "/mnt/my models #2: new"}}
    assert changed.split("\n")[2].endswith(" # where")


def test_the_command_does_all_three(data: Path, text_checkpoint: Path, merged: Path, tmp_path: Path) -> None:
    def wmtool(*arguments: object) -> dict:
        done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    grown = wmtool("export", "--target", "grown", "--checkpoint", text_checkpoint, "--out", tmp_path / "grown")
    assert grown["vocab_size"] == 896
    task = ("export", "--data", data, "--checkpoint", merged, "--out", tmp_path / "task", "--max-seq-len", LENGTH)
    assert wmtool(*task)["train"]["global_batch_size"] == 8
    plain = wmtool("export", "--target", "llada2", "--checkpoint", tmp_path / "grown", "--out", tmp_path / "plain")
    assert plain["dropped"] == []
    again = CliRunner().invoke(main, [*map(str, task)])
    assert again.exit_code == 1
    assert "is not empty" in again.stderr
    assert (
        CliRunner().invoke(main, ["export", "--checkpoint", str(merged), "--out", str(tmp_path / "x")]).exit_code == 2
    )


# The other way: a world model as a plain LLaDA2


@pytest.fixture
def plain_options() -> WorldConfig:
    return WorldConfig(compositional=True, **dict.fromkeys(BEYOND_LLADA2, False), memory=0, recent=2)


@pytest.mark.parametrize("layout", ["separate", "merged"])
def test_a_composed_vocabulary_written_out_gives_the_same_predictions(
    tiny: dict, plain_options: WorldConfig, episodes: list[Trajectory], tmp_path: Path, layout: str
) -> None:
    torch.manual_seed(0)
    config = LLaDA2MoeConfig(**tiny, initializer_range=0.2)
    model = AnyOrderWorldModel(WorldNetwork(WorldNetwork.fitted(config, plain_options), plain_options))
    model.save_pretrained(tmp_path / "world")
    result = export_plain(tmp_path / "world", tmp_path / "plain", layout=layout)
    assert result["dropped"] == []
    plain = LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "plain")
    history, action = episodes[0].prefix(1), int(episodes[0].actions[1])
    blocks = TOKENIZER.encode(history)
    blocks[0, 0] = TOKENIZER.behaviours.start  # a rollout asks for the bot
    asked = np.full(BLOCK, TOKENIZER.mask)
    asked[0], asked[3:] = TOKENIZER.actions.start + action, TOKENIZER.masked_cell
    ids = torch.tensor(np.concatenate([*blocks, asked]))[None]
    mask = block_causal_mask(ids.shape[1], BLOCK) & (ids != TOKENIZER.pad)
    mask[1:, 0] = mask[0, 1:] = False  # who acts is known to those alone that ask for the policy
    with torch.no_grad():
        logits = plain(ids, attention_mask=mask[None, None]).logits[0, -BLOCK:]
    outcomes = logits[1, TOKENIZER.outcomes.start : TOKENIZER.outcomes.stop].softmax(-1).numpy()
    cells = np.array([TOKENIZER.cell_ids(np.array(cell)) for cell in np.ndindex(11, 6, 4)])
    shown = TOKENIZER.cell_attributes(cells[logits[3:][:, cells].argmax(-1)]).reshape(7, 7, 3)
    prediction = model.predict([history], [action])
    np.testing.assert_allclose(outcomes, prediction.outcome_probabilities[0], atol=1e-5)
    assert np.array_equal(shown, prediction.images[0])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    assert tokenizer.convert_tokens_to_ids("[action:forward]") == TOKENIZER.actions.start + grid.FORWARD
    assert (
        tokenizer("go to the red ball").input_ids == TOKENIZER.mission_block("go to the red ball", "bot")[1:6].tolist()
    )
    assert tokenizer.mask_token_id == TOKENIZER.mask


def test_what_a_plain_llada2_does_not_have_is_refused_or_left_out_and_said(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"world\.slot_features, world\.action_features, world\.mission_features, world\.axes"
    ):
        export_plain(checkpoint, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
    result = export_plain(checkpoint, tmp_path / "plain", drop_front_end=True)
    assert result["dropped"] == [name for name in BEYOND_LLADA2 if name != "expectation"]  # it had none of that
    assert "predictions differ" in (tmp_path / "plain" / "README.md").read_text()
    plain = LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "plain")
    assert plain.config.rope_axes == 1
    assert "rope_axes" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    network, _ = load(checkpoint)
    assert torch.equal(plain.model.word_embeddings.weight, network.input_table().detach())


def test_the_packaged_model_as_a_plain_llada2_predicts_the_same_given_what_its_front_end_adds(
    episodes: list[Trajectory], tmp_path: Path
) -> None:
    """Its composed tables and its network are all there; features and places are added to the embeddings outside."""
    model = AnyOrderWorldModel.from_pretrained(precision="float32")
    network = model.network
    source = Path(wmtoolkit.__file__).parent / "checkpoints" / "compact"
    assert export_plain(source, tmp_path / "plain", drop_front_end=True)["dropped"]
    plain = LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    assert plain.config.rope_axes == 1  # what any other program computes with
    plain.config.rope_axes = plain.model.rotary_emb.axes = network.llada2.config.rope_axes
    asked: list[tuple] = []
    hook = network.register_forward_pre_hook(lambda _, arguments: asked.append(arguments[:2]))
    model.nll(episodes[:1])
    hook.remove()
    tokens, mask = asked[0]
    with torch.no_grad():
        torch.testing.assert_close(plain.model.word_embeddings.weight, network.input_table(), atol=1e-6, rtol=1e-5)
        expected = network(tokens, mask) @ network.output_table().T
        embedded, places = network.embed(tokens)
        given = plain(inputs_embeds=embedded, attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(given, expected, atol=1e-3, rtol=1e-3)
    cells = network.completions
    assert torch.equal(given[..., cells].argmax(-1), expected[..., cells].argmax(-1))
