"""Checkpoints: what is saved comes back; what is damaged or foreign is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.errors import UserError


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def test_a_loaded_model_predicts_the_same(
    world_model: AnyOrderWorldModel, checkpoint: Path, episodes: list[Trajectory]
) -> None:
    loaded = AnyOrderWorldModel.from_pretrained(checkpoint, precision="float32")
    assert loaded.levels == ["BabyAI-GoToLocal-v0"]
    before, after = (model.predict(episodes[:3], [0, 1, 2]) for model in (world_model, loaded))
    np.testing.assert_array_equal(before.images, after.images)
    np.testing.assert_array_equal(before.log_prob, after.log_prob)


def test_the_folder_is_a_plain_llada2_checkpoint(world_model: AnyOrderWorldModel, checkpoint: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    network = world_model.network
    torch.testing.assert_close(plain.model.word_embeddings.weight, network.input_table().detach(), rtol=0, atol=0)
    torch.testing.assert_close(plain.lm_head.weight, network.output_table().detach(), rtol=0, atol=0)


def test_missing_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint folder"):
        AnyOrderWorldModel.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no world\.json"):
        AnyOrderWorldModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "world.safetensors", "config.json"])
def test_a_truncated_file_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=name):
        AnyOrderWorldModel.from_pretrained(copy)


def test_a_lost_file_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        AnyOrderWorldModel.from_pretrained(copy)


@pytest.mark.parametrize(
    ("key", "value", "said"), [("format", 99, "another version"), ("vocabulary", "x", "vocabulary")]
)
def test_another_version_or_vocabulary_is_refused(copy: Path, key: str, value: object, said: str) -> None:
    document = json.loads((copy / "world.json").read_text())
    (copy / "world.json").write_text(json.dumps({**document, key: value}))
    with pytest.raises(UserError, match=said):
        AnyOrderWorldModel.from_pretrained(copy)


def test_saving_again_replaces_the_folder_and_leaves_nothing_else(world_model: AnyOrderWorldModel, copy: Path) -> None:
    world_model.save_pretrained(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    AnyOrderWorldModel.from_pretrained(copy)


def test_a_failed_save_keeps_the_old_checkpoint(
    world_model: AnyOrderWorldModel, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wmtoolkit.world.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        world_model.save_pretrained(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    AnyOrderWorldModel.from_pretrained(copy)
