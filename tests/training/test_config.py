"""Configs: what is wrong is named, with what is allowed."""

from dataclasses import asdict
from pathlib import Path

import pytest

from wmtoolkit.errors import UserError
from wmtoolkit.training.config import load_config, packaged_configs, write_config


@pytest.mark.parametrize("name", packaged_configs())
def test_packaged_configs_load(name: str) -> None:
    assert load_config(name).name == name.rpartition("/")[2]


def test_an_ablation_changes_one_thing() -> None:
    assert {"tiny", "quickstart", "compact", "base", "ablation/base"} <= set(packaged_configs())
    base = asdict(load_config("ablation/base"))
    for name in packaged_configs():
        if name.startswith("ablation/") and name != "ablation/base":
            changed = {group for group, value in asdict(load_config(name)).items() if value != base[group]} - {"name"}
            assert len(changed) == 1, (name, changed)


def test_a_config_of_another_version_is_refused() -> None:
    with pytest.raises(UserError, match="version 2, this toolkit reads version 1"):
        load_config("tiny", ["version=2"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.stps=5", "did you mean steps"),
        ("nonsense.key=1", "known are version, name"),
        ("training.steps=many", "training.steps"),
        ("training.steps=0", "at least 1"),
        ("masking.strategy=guess", "known are mixture, scheduled, forward"),
        ("masking.mixture.guess=1", "unknown strategy 'guess'"),
        ("masking.full_share=2", "not a share"),
        ("training.mixed_precision=fp8", "auto, bf16, float32"),
        ("world.memory=-1", "memory -1"),
        ("training.steps", "write key=value"),
    ],
)
def test_a_wrong_override_is_named(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_config("tiny", [override])


def test_a_file_builds_on_a_base(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiny\nname: mine\ntraining: {steps: 7}\n")
    config = load_config(str(file), ["training.seed=3"])
    assert (config.name, config.training.steps, config.training.seed) == ("mine", 7, 3)
    assert config.model.hidden_size == load_config("tiny").model.hidden_size


def test_a_written_config_reads_back_equal(tmp_path: Path) -> None:
    config = load_config("quickstart", ["training.steps=11"])
    write_config(config, tmp_path / "config.yaml")
    assert load_config(str(tmp_path / "config.yaml")) == config


@pytest.mark.parametrize(
    ("text", "said"), [("a: [1", "not YAML"), ("- 1\n- 2\n", "not a mapping"), ("base: nowhere", "no config 'nowhere'")]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        load_config(str(file))


def test_lone_outcomes_need_windows_to_be_asked_in() -> None:
    assert load_config("tiny", ["masking.lone_outcomes=true"]).masking.lone_outcomes
    with pytest.raises(UserError, match="full_share=1 leaves none"):
        load_config("tiny", ["masking.lone_outcomes=true", "masking.full_share=1"])


def test_bases_that_go_round_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"base: {two}")
    two.write_text(f"base: {one}")
    with pytest.raises(UserError, match="circle"):
        load_config(str(one))
