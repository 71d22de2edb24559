"""The loop: it learns, resumes exactly, survives interrupts, and two processes equal one."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.data import collect
from wmtoolkit.errors import UserError
from wmtoolkit.training.config import load_config
from wmtoolkit.training.curriculum import curriculum, plot_curriculum
from wmtoolkit.training.loop import train

COMMON = ("logging.trackers=[]", "training.mixed_precision=float32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(collect("BabyAI-GoToRedBallGrey-v0", 60, out=tmp_path_factory.mktemp("data") / "episodes"))


def _tiny(*overrides: str):
    return load_config("tiny", (*COMMON, *overrides))


def _losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def _weights(out: Path) -> dict[str, torch.Tensor]:
    folder = sorted((out / "checkpoints").glob("step-*"))[-1]
    files = ("model.safetensors", "world.safetensors", "training_state.safetensors")
    return {f"{name}/{key}": value for name in files for key, value in load_file(folder / name).items()}


def test_training_lowers_the_held_out_likelihood_bound(data: str, tmp_path: Path) -> None:
    result = train(
        _tiny("training.steps=60", "training.checkpoint_every=20", "logging.every=1"), tmp_path / "run", [data]
    )
    losses = list(_losses(tmp_path / "run").values())
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    bounds = [line["validation_nll_per_step"] for line in lines if "validation_nll_per_step" in line]
    assert bounds[-1] < bounds[0]
    assert result["best_validation_nll"] == min(bounds)
    model = AnyOrderWorldModel.from_pretrained(result["checkpoint"])
    assert model.levels == ["BabyAI-GoToRedBallGrey-v0"]
    assert model.facts["steps"] in (20, 40, 60)


def test_a_resumed_run_equals_an_uninterrupted_one(data: str, tmp_path: Path) -> None:
    config = _tiny("training.steps=12", "training.checkpoint_every=4", "logging.every=1", "training.keep_last=3")
    train(config, tmp_path / "whole", [data])
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in ("step-0000008", "step-0000012"):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / step)
    train(config, tmp_path / "cut", [data], resume=True)
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name


def test_bf16_trains_as_float32_does(data: str, tmp_path: Path) -> None:
    settings = ("training.steps=8", "logging.every=1", "training.muon_learning_rate=1e-3")
    train(_tiny(*settings), tmp_path / "wide", [data])
    train(_tiny(*settings, "training.mixed_precision=bf16"), tmp_path / "narrow", [data])
    assert _losses(tmp_path / "narrow") == pytest.approx(_losses(tmp_path / "wide"), rel=0.05)


def test_the_newest_checkpoints_are_kept(data: str, tmp_path: Path) -> None:
    train(_tiny("training.steps=8", "training.checkpoint_every=2", "training.keep_last=2"), tmp_path / "run", [data])
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-0000006", "step-0000008"]


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_intact(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(_tiny("training.steps=4", "training.checkpoint_every=4"), out, [data])
    # An absurd weight overflows the loss, as a run that diverges does.
    with pytest.raises(UserError, match="not finite at step 5"):
        train(_tiny("training.steps=8", "loss.cell=1e39"), out, [data], resume=True)
    assert json.loads((out / "not_finite.json").read_text())["step"] == 4
    AnyOrderWorldModel.from_pretrained(out / "checkpoints" / "step-0000004")


def test_changed_data_is_refused_on_resume(data: str, tmp_path: Path) -> None:
    train(_tiny("training.steps=2", "training.checkpoint_every=2"), tmp_path / "run", [data])
    other = str(collect("BabyAI-GoToRedBallGrey-v0", 61, out=tmp_path / "other"))
    with pytest.raises(UserError, match="data has changed"):
        train(_tiny("training.steps=4"), tmp_path / "run", [other], resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    train(_tiny("training.steps=2", "training.checkpoint_every=2"), out, [data])

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wmtoolkit.world.checkpoint.save_file", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        train(_tiny("training.steps=4", "training.checkpoint_every=2"), out, [data], resume=True)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-0000002"]
    AnyOrderWorldModel.from_pretrained(out / "checkpoint")


def test_an_interrupt_saves_and_says_how_to_go_on(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", "train", "--config", "tiny", "--data", data,
               "--out", str(out), "--set", "training.steps=100000", "--set", "logging.every=1",
               "--set", "logging.trackers=[]"]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not ((out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").read_text().count("\n") > 2):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"wmtool train --resume --out {out}" in errors
    assert "Traceback" not in errors
    (saved,) = (out / "checkpoints").glob("step-*")
    AnyOrderWorldModel.from_pretrained(saved)


def test_a_killed_run_resumes_from_its_last_checkpoint(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", "train", "--data", data, "--out", str(out), "--quiet"]
    settings = ["training.steps=40", "training.checkpoint_every=5", "logging.every=1", "logging.trackers=[]"]
    options = [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--config", "tiny", *options], env=environment)
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    subprocess.run([*command, "--resume"], env=environment, check=True, timeout=120)
    assert sorted(_losses(out)) == list(range(1, 41))
    whole = tmp_path / "whole"
    train(load_config("tiny", settings), whole, [data])
    assert _losses(out) == pytest.approx(_losses(whole), rel=1e-4)


def test_two_processes_equal_one(data: str, tmp_path: Path) -> None:
    # Muon orthogonalises in bf16, which makes a visible update out of the last bits of a gradient; at a low rate of it
    # what is left to see is whether both processes together have the gradient of one.
    settings = (
        "training.steps=6",
        "training.checkpoint_every=6",
        "logging.every=1",
        "training.muon_learning_rate=1e-6",
    )
    train(_tiny(*settings), tmp_path / "one", [data])
    options = [part for setting in (*COMMON, *settings) for part in ("--set", setting)]
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", "train", "--processes", "2", "--config", "tiny",
               "--data", data, "--out", str(tmp_path / "two"), *options]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert _losses(tmp_path / "two") == pytest.approx(_losses(tmp_path / "one"), rel=1e-4)


def test_a_failure_in_several_processes_is_said_once(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", "train", "--processes", "2", "--config", "tiny",
               "--data", missing, "--out", str(tmp_path / "run")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert done.stderr.count("does not exist") == 1
    assert "Traceback" not in done.stderr


def test_training_starts_from_given_weights(data: str, tmp_path: Path) -> None:
    first = train(_tiny("training.steps=20"), tmp_path / "first", [data])
    settings = ("training.steps=1", "logging.every=1", "training.seed=5")
    train(_tiny(*settings), tmp_path / "scratch", [data])
    train(_tiny(*settings), tmp_path / "tuned", [data], init=Path(first["checkpoint"]))
    assert _losses(tmp_path / "tuned")[1] < 0.8 * _losses(tmp_path / "scratch")[1]
    with pytest.raises(UserError, match="does not fit"):
        train(_tiny("model.head_dim=8"), tmp_path / "other", [data], init=Path(first["checkpoint"]))


def test_a_batch_must_divide_among_parts(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 windows cannot be divided among 1 processes in 5 parts"):
        train(_tiny("training.accumulation=5"), tmp_path / "run", [data])


def test_a_batch_in_parts_equals_a_whole_one(data: str, tmp_path: Path) -> None:
    settings = ("training.steps=6", "logging.every=1", "training.muon_learning_rate=1e-6")
    train(_tiny(*settings), tmp_path / "one", [data])
    train(_tiny(*settings, "training.accumulation=3"), tmp_path / "three", [data])
    assert _losses(tmp_path / "three") == pytest.approx(_losses(tmp_path / "one"), rel=1e-4)


def test_batches_drawn_ahead_are_the_same(data: str, tmp_path: Path) -> None:
    train(_tiny(), tmp_path / "inline", [data])
    train(_tiny("training.loaders=2"), tmp_path / "ahead", [data])
    assert _losses(tmp_path / "ahead") == _losses(tmp_path / "inline")


def test_the_moving_average_is_what_is_kept(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ("training.steps=6", "training.checkpoint_every=3", "training.keep_last=3")
    train(_tiny(*settings, "training.ema=0.5", "training.schedule=cosine"), out, [data])
    last = _weights(out)
    name = "model.layers.0.attention.dense.weight"
    average = last[f"training_state.safetensors/average.llada2.{name}"]
    assert not torch.equal(average, last[f"model.safetensors/{name}"])
    kept = load_file(out / "checkpoint" / "model.safetensors")[name]
    before = load_file(out / "checkpoints" / "step-0000003" / "training_state.safetensors")
    assert torch.equal(kept, average) or torch.equal(kept, before[f"average.llada2.{name}"])


def test_a_resumed_average_equals_an_uninterrupted_one(data: str, tmp_path: Path) -> None:
    settings = ("training.steps=4", "training.checkpoint_every=2", "training.ema=0.9")
    train(_tiny(*settings), tmp_path / "whole", [data])
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-0000004")
    train(_tiny(*settings), tmp_path / "cut", [data], resume=True)
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert [name for name, value in whole.items() if not torch.equal(value, cut[name])] == []


def test_training_stops_early_without_gain(data: str, tmp_path: Path) -> None:
    # At a rate that destroys what was learnt, the first checkpoint stays the best.
    settings = ("training.steps=40", "training.checkpoint_every=2", "training.patience=2", "training.warmup=1")
    result = train(
        _tiny(*settings, "training.learning_rate=30", "training.gradient_clip=1e9"), tmp_path / "run", [data]
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    bounds = [line["validation_nll_per_step"] for line in lines if "validation_nll_per_step" in line]
    assert result["step"] < 40
    assert min(bounds) not in bounds[-2:]
    assert result["best_validation_nll"] == min(bounds)


def test_a_batch_in_which_nothing_counts_is_an_error(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is asked in the batch of step 1"):
        train(_tiny("masking.strategy=outcome", "masking.full_share=0", "loss.outcome=0", "loss.action=0"),
              tmp_path / "run", [data])  # fmt: skip


def test_trackers_write_into_the_run_and_unknown_ones_are_named(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = ["tensorboard"]
    if importlib.util.find_spec("wandb"):
        monkeypatch.setenv("WANDB_MODE", "offline")
        trackers.append("wandb")
    train(_tiny("training.steps=2", f"logging.trackers=[{','.join(trackers)}]"), tmp_path / "run", [data])
    for name in trackers:
        assert any((tmp_path / "run" / name).rglob("*")), name
    with pytest.raises(UserError, match="unknown tracker 'paper'; known are aim, "):
        train(_tiny("logging.trackers=[paper]"), tmp_path / "other", [data])
    with pytest.raises(UserError, match="pip install aim"):
        train(_tiny("logging.trackers=[aim]"), tmp_path / "other", [data])


def test_curriculum_ends_at_the_mixture() -> None:
    masking = load_config("tiny", ["masking.strategy=scheduled", "masking.curriculum=0.5"]).masking
    start, ratio = curriculum(masking, 0.0)
    assert start["cell"] == 1
    assert ratio == masking.first_ratio
    assert curriculum(masking, 0.25)[1] == pytest.approx((1 + masking.first_ratio) / 2)
    for progress in (0.5, 1.0):
        mixture, ratio = curriculum(masking, progress)
        assert ratio == 1
        assert mixture == pytest.approx(masking.mixture, abs=1e-9)


def test_the_curriculum_is_drawn(tmp_path: Path) -> None:
    plot_curriculum(load_config("tiny").masking, tmp_path / "curriculum.svg")
    text = (tmp_path / "curriculum.svg").read_text()
    assert "<svg" in text
    assert "scale of ratios" in text or "matplotlib" in text
