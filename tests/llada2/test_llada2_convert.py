import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from wmtoolkit.cli.main import main
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
from wmtoolkit.llada2.convert import convert
from wmtoolkit.llada2.layouts import expected_tensors
from wmtoolkit.llada2.safetensors_files import StoredTensor


def stored(folder):
    tensors = {}
    for file in folder.glob("*.safetensors"):
        tensors.update(load_file(file))
    return tensors


def same(a, b):
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_merge_and_split_are_exact_and_equal_what_the_network_saves(make_model, ids, tmp_path, dtype, shard):
    model = make_model().to(dtype)
    model.save_pretrained(tmp_path / "separate", max_shard_size=shard)
    model.save_pretrained(tmp_path / "merged", layout="merged")
    result = convert("merge", tmp_path / "separate", tmp_path / "a", max_shard_size=shard)
    assert same(stored(tmp_path / "a"), stored(tmp_path / "merged"))
    assert result["tensors"] == len(stored(tmp_path / "merged"))
    convert("split", tmp_path / "a", tmp_path / "b", max_shard_size=shard)
    assert same(stored(tmp_path / "b"), stored(tmp_path / "separate"))
    for folder in ("a", "b"):
        assert (tmp_path / folder / "model.safetensors.index.json").exists() == (shard == "20KB")
        assert torch.equal(LLaDA2MoeForCausalLM.from_pretrained(tmp_path / folder)(ids).logits, model(ids).logits)


def test_index_lists_every_tensor_in_a_file_no_larger_than_asked(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    result = convert("merge", tmp_path / "in", tmp_path / "out", max_shard_size="20KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    count = len(result["files"])
    assert result["files"] == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in stored(tmp_path / "in").values())
    assert list(index["weight_map"]) == sorted(index["weight_map"])
    for name in result["files"]:
        with safe_open(tmp_path / "out" / name, "pt") as file:
            assert file.metadata() == {"format": "pt"}
        tensors = load_file(tmp_path / "out" / name)
        assert {key for key, file in index["weight_map"].items() if file == name} == tensors.keys()
        assert len(tensors) == 1 or sum(t.numel() * 4 for t in tensors.values()) <= 20_000


def test_small_files_come_along_and_weights_do_not(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "configuration_llada2_moe.py", "LICENSE"):
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "in" / "pytorch_model.bin").write_bytes(b"never read")
    (tmp_path / "in" / "folder").mkdir()
    convert("merge", tmp_path / "in", tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "LICENSE",
        "config.json",
        "configuration_llada2_moe.py",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    for name in ("config.json", "vocab.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_the_type_changes_only_when_asked_and_never_that_of_the_bias(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    convert("merge", tmp_path / "in", tmp_path / "out", dtype="bfloat16")
    before, after = stored(tmp_path / "in"), stored(tmp_path / "out")
    for key, tensor in after.items():
        assert tensor.dtype == (torch.float32 if key.endswith("expert_bias") else torch.bfloat16), key
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"].bfloat16())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    expected = model.state_dict()["model.layers.1.mlp.gate.expert_bias"]
    loaded = LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.state_dict()["model.layers.1.mlp.gate.expert_bias"], expected)


def test_values_that_a_type_cannot_hold_are_refused(model, tmp_path):
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    model.save_pretrained(tmp_path / "in")
    with pytest.raises(UserError, match=r"lm_head\.weight"):
        convert("merge", tmp_path / "in", tmp_path / "out", dtype="float16")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_nothing_is_left_of_a_conversion_that_fails(model, tmp_path, monkeypatch):
    """The disk fails in the middle of the weights."""
    model.save_pretrained(tmp_path / "in")
    read, calls = StoredTensor.read, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) > 60:
            raise OSError(28, "No space left on device")
        return read(self, *args)

    monkeypatch.setattr(StoredTensor, "read", failing)
    with pytest.raises(OSError, match="No space"):
        convert("merge", tmp_path / "in", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_a_killed_conversion_leaves_no_output_and_can_be_repeated(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    code = (
        "import os, sys\nfrom wmtoolkit.llada2 import convert, safetensors_files\n"
        "safetensors_files.os.fsync = lambda _: os._exit(9)\n"
        "convert.convert('merge', sys.argv[1], sys.argv[2])"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.glob(".out.tmp-*"))) == 1
    convert("merge", tmp_path / "in", tmp_path / "out")
    assert list(tmp_path.glob(".out.tmp-*")) == []
    assert same(stored(tmp_path / "in"), stored_split(tmp_path))


def test_a_folder_that_another_process_is_writing_is_left_to_it(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        partial = tmp_path / f".out.tmp-{other.pid}"
        (partial / "half").mkdir(parents=True)
        with pytest.raises(UserError, match=f"process {other.pid}"):
            convert("merge", tmp_path / "in", tmp_path / "out")
        assert (partial / "half").exists()
        convert("merge", tmp_path / "in", tmp_path / "elsewhere")
        assert (partial / "half").exists()
        other.communicate(b"\n")
    convert("merge", tmp_path / "in", tmp_path / "out")
    assert not partial.exists()


def stored_split(tmp_path):
    convert("split", tmp_path / "out", tmp_path / "back")
    return stored(tmp_path / "back")


def test_memory_stays_small_whatever_the_model(make_config, tmp_path):
    """A checkpoint of 200 MB of zeros, there and back; the process may grow by a quarter of it."""
    config = make_config(
        hidden_size=512, moe_intermediate_size=512, num_experts=64, num_hidden_layers=2, vocab_size=1000, pad_token_id=0
    )
    config.save_pretrained(tmp_path / "in")
    header, offset = {}, 0
    for key, shape in expected_tensors(config, "separate").items():
        size = 4 * torch.Size(shape).numel()
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with (tmp_path / "in" / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)  # a hole, which reads as zeros
    assert offset > 200e6
    code = (
        "import resource, sys\nfrom wmtoolkit.llada2.convert import convert\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "convert('merge', sys.argv[1] + '/in', sys.argv[1] + '/out')\n"
        "convert('split', sys.argv[1] + '/out', sys.argv[1] + '/back')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    grown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert int(grown) * 1024 < offset / 4
    for folder in ("out", "back"):
        assert (tmp_path / folder / "model.safetensors").stat().st_size > offset
    shutil.rmtree(tmp_path)


def test_input_that_is_not_to_be_converted(model, make_model, tmp_path):
    model.save_pretrained(tmp_path / "separate")
    model.save_pretrained(tmp_path / "merged", layout="merged")
    with pytest.raises(UserError, match="separate experts already: nothing to split"):
        convert("split", tmp_path / "separate", tmp_path / "out")
    with pytest.raises(UserError, match="merged experts already: nothing to merge"):
        convert("merge", tmp_path / "merged", tmp_path / "out")
    make_model(first_k_dense_replace=3).save_pretrained(tmp_path / "dense")
    with pytest.raises(UserError, match="no experts: nothing to merge"):
        convert("merge", tmp_path / "dense", tmp_path / "out")
    with pytest.raises(UserError, match="nowhere"):
        convert("merge", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(UserError, match="mode"):
        convert("swap", tmp_path / "merged", tmp_path / "out")
    with pytest.raises(UserError, match="dtype"):
        convert("merge", tmp_path / "separate", tmp_path / "out", dtype="int8")
    with pytest.raises(UserError, match="max_shard_size"):
        convert("merge", tmp_path / "separate", tmp_path / "out", max_shard_size="a lot")
    assert not (tmp_path / "out").exists()


def test_output_that_is_in_the_way(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(UserError, match="not empty"):
        convert("merge", tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="not empty"):
        convert("merge", tmp_path / "in", tmp_path / "in")
    (tmp_path / "empty").mkdir()
    convert("merge", tmp_path / "in", tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()


def test_experts_of_different_types_cannot_be_merged(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    tensors = stored(tmp_path / "in")
    key = "model.layers.1.mlp.experts.3.up_proj.weight"
    tensors[key] = tensors[key].bfloat16()
    save_file(tensors, tmp_path / "in" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=key):
        convert("merge", tmp_path / "in", tmp_path / "out")


def test_the_disk_is_asked_first(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "in")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="1,000 left"):
        convert("merge", tmp_path / "in", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_the_command_converts_and_reports(model, tmp_path):
    model.save_pretrained(tmp_path / "in")
    arguments = ["convert", "--mode", "merge", "--input-path", str(tmp_path / "in")]
    run = CliRunner().invoke(main, [*arguments, "--output-path", str(tmp_path / "out"), "--json"])
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["files"] == ["model.safetensors"]
    (tmp_path / "in" / "model.safetensors").unlink()
    run = CliRunner().invoke(main, [*arguments, "--output-path", str(tmp_path / "again")])
    assert run.exit_code == 1
    assert run.stdout == ""
    assert len(run.stderr.strip().splitlines()) == 1
    assert os.fspath(tmp_path / "in") in run.stderr
    assert "Example:" in CliRunner().invoke(main, ["convert", "--help"]).stdout
