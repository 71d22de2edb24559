"""Every way a checkpoint folder can be wrong, as the library and ``wmtool convert`` say it."""

import json
import re
import struct

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from wmtoolkit.cli.main import main
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM

LAYOUTS = ["separate", "merged"]


def complains(folder, words):
    """Loading and converting fail with the same line, which names the folder and the words; nothing is written."""
    with pytest.raises(UserError) as failure:
        LLaDA2MoeForCausalLM.from_pretrained(folder)
    message = str(failure.value)
    assert "\n" not in message
    assert str(folder) in message
    for word in words:
        assert word in message
    output = folder / "converted"
    run = CliRunner().invoke(main, ["convert", "--input-path", str(folder), "--output-path", str(output)])
    assert (run.exit_code, run.stdout, run.stderr) == (1, "", f"wmtool: {message}\n")
    assert not output.exists()


def rewrite(folder, change, file="model.safetensors"):
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def drop_expert(folder):
    rewrite(folder, lambda t: t.pop("model.layers.2.mlp.experts.3.up_proj.weight"))


def drop_norm(folder):
    rewrite(folder, lambda t: t.pop("model.norm.weight"))


def add_key(folder):
    rewrite(folder, lambda t: t.update({"model.layers.7.input_layernorm.weight": torch.ones(32)}))


def readme_key(folder):
    rewrite(folder, lambda t: t.update({"model.layers.1.mlp.experts.gate_proj.weight": torch.ones(8, 12, 32)}))


def wrong_shape(folder):
    rewrite(folder, lambda t: t.update({"model.layers.0.attention.dense.weight": torch.ones(32, 47)}))


def more_experts(folder):
    extra = {f"model.layers.1.mlp.experts.8.{n}.weight": torch.ones(12, 32) for n in ("gate_proj", "up_proj")}
    rewrite(folder, lambda t: t.update(extra))


def edit_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def expert_count(folder):
    edit_config(folder, num_experts=4, n_group=2)


def vocabulary(folder):
    edit_config(folder, vocab_size=60)


def integers(folder):
    rewrite(folder, lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int32)}))


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def truncate_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])


def append(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"\0" * 8)


def scramble_header(folder):
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8] = ord("!")
    file.write_bytes(data)


def edit_header(folder, change):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def lying_header(folder):
    """A shape that does not fit its offsets."""
    edit_header(folder, lambda header: header["model.norm.weight"].update(shape=[33]))


def overlap(folder):
    """Two tensors of one size in one place; nothing is where the second was."""
    first, second = (f"model.layers.1.mlp.experts.{e}.up_proj.weight" for e in (0, 1))
    edit_header(folder, lambda header: header[second].update(data_offsets=header[first]["data_offsets"]))


def half_an_entry(folder):
    edit_header(folder, lambda header: header["model.norm.weight"].pop("data_offsets"))


def empty_file(folder):
    (folder / "model.safetensors").write_bytes(b"")


def no_config(folder):
    (folder / "config.json").unlink()


def both_layouts_in_one_file(folder):
    rewrite(folder, lambda t: t.update({"model.layers.1.mlp.experts.down_proj": torch.ones(8, 32, 12)}))


def both_layouts_in_two_files(folder):
    save_file({"model.layers.1.mlp.experts.down_proj": torch.ones(8, 32, 12)}, folder / "merged.safetensors")


def pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def nothing(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_expert, ["model.safetensors", "model.layers.2.mlp.experts.3.up_proj.weight", "missing"]),
        (drop_norm, ["model.safetensors", "model.norm.weight", "missing"]),
        (add_key, ["model.safetensors", "model.layers.7.input_layernorm.weight"]),
        (readme_key, ["model.safetensors", "model.layers.1.mlp.experts.gate_proj.weight"]),
        (wrong_shape, ["model.safetensors", "model.layers.0.attention.dense.weight", "[32, 47]", "[32, 48]"]),
        (more_experts, ["model.safetensors", "model.layers.1.mlp.experts", "9 experts", "num_experts", "8"]),
        (expert_count, ["model.safetensors", "model.layers.1.mlp.experts", "8 experts", "num_experts", "4"]),
        (vocabulary, ["model.safetensors", "model.word_embeddings.weight", "[50, 32]", "vocab_size", "60"]),
        (integers, ["model.safetensors", "model.norm.weight", "I32"]),
        (truncate, ["model.safetensors", "cut off"]),
        (truncate_header, ["model.safetensors", "cut off"]),
        (append, ["model.safetensors", "8 bytes follow"]),
        (scramble_header, ["model.safetensors", "header"]),
        (lying_header, ["model.safetensors", "model.norm.weight", "shape [33]"]),
        (overlap, ["model.safetensors", "experts.1.up_proj.weight overlaps"]),
        (half_an_entry, ["model.safetensors", "model.norm.weight is incomplete"]),
        (empty_file, ["model.safetensors", "header"]),
        (no_config, ["config.json"]),
        (both_layouts_in_one_file, ["model.safetensors", ".down_proj.weight", "experts.down_proj is merged", "both"]),
        (both_layouts_in_two_files, ["model.safetensors", "merged.safetensors", "experts.down_proj is merged", "both"]),
        (pickle, ["pytorch_model.bin", "pickle"]),
        (nothing, ["model.safetensors"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_is_said_in_one_line_that_names_file_and_key(model, tmp_path, damage, words):
    model.save_pretrained(tmp_path)
    damage(tmp_path)
    complains(tmp_path, words)


def first_shard(folder):
    return sorted(folder.glob("model-*.safetensors"))[0].name


def lose_shard(folder):
    (folder / first_shard(folder)).unlink()


def lose_index(folder):
    (folder / "model.safetensors.index.json").unlink()


def break_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")


def edit_index(folder, change):
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


def index_misplaces(folder):
    last = sorted(folder.glob("model-*.safetensors"))[-1].name
    key = next(iter(load_file(folder / first_shard(folder))))
    edit_index(folder, lambda w: w.update({key: last}))


def index_forgets(folder):
    edit_index(folder, lambda w: w.pop("model.norm.weight"))


def index_escapes(folder):
    edit_index(folder, lambda w: w.update({"model.norm.weight": "../elsewhere.safetensors"}))


def stale_shard(folder):
    save_file({"model.norm.weight": torch.ones(32)}, folder / "model-00099-of-00099.safetensors")


def stale_single(folder):
    save_file({"model.norm.weight": torch.ones(32)}, folder / "model.safetensors")


def truncated_shard(folder):
    file = folder / first_shard(folder)
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lose_shard, ["model.safetensors.index.json", "model-00001-of-", "missing"]),
        (lose_index, ["model.safetensors.index.json"]),
        (break_index, ["model.safetensors.index.json"]),
        (index_misplaces, ["model.safetensors.index.json", "stale"]),
        (index_forgets, ["model.norm.weight", "index"]),
        (index_escapes, ["model.norm.weight", "elsewhere.safetensors", "missing"]),
        (stale_shard, ["model-00099-of-00099.safetensors", "model.norm.weight"]),
        (stale_single, ["model.safetensors", "model.norm.weight"]),
        (truncated_shard, ["model-00001-of-", "cut off"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_wrong_with_shards_is_said_too(model, tmp_path, damage, words, layout):
    (tmp_path / "elsewhere.safetensors").touch()
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder, max_shard_size="20KB", layout=layout)
    damage(folder)
    complains(folder, words)


def test_a_merged_checkpoint_with_another_number_of_experts(model, tmp_path):
    model.save_pretrained(tmp_path, layout="merged")
    rewrite(tmp_path, lambda t: t.update({"model.layers.2.mlp.experts.up_proj": torch.ones(6, 12, 32)}))
    with pytest.raises(UserError, match=r"model\.layers\.2\.mlp\.experts\.\w+ is of 6 experts, but num_experts .* 8"):
        LLaDA2MoeForCausalLM.from_pretrained(tmp_path)


def test_other_files_in_the_folder_do_no_harm(model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    save_file({"front.weight": torch.ones(3)}, tmp_path / "world.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "nowhere"])
def test_a_folder_that_is_not_there(path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=re.escape(path)) as failure:
        LLaDA2MoeForCausalLM.from_pretrained(path)
    assert "\n" not in str(failure.value)
