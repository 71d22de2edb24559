"""``wmtool train-policy`` and ``rollout --agent sb3:...`` as users meet them."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from wmtoolkit.cli.main import main

pytest.importorskip("stable_baselines3")

SMALL = ["--level", "BabyAI-GoToObjS4-v0", "--real", "--envs", "4", "--episodes", "4", "--evaluate-every", "32"]
SMALL += [part for size in ("n_steps=8", "batch_size=16", "channels=4") for part in ("--set", size)]


def test_a_policy_is_trained_resumed_and_played(tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wmtoolkit.cli", "train-policy", *SMALL, "--steps", "32", "--out", run, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((run / "results.json").read_text()) | {"text": document["text"]}
    assert document["metrics"]["success_rate"]["n"] == 4
    again = CliRunner().invoke(main, ["train-policy", "--out", str(run)])
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    longer = CliRunner().invoke(main, ["train-policy", "--out", str(run), "--resume", "--steps", "64", "--json"])
    assert longer.exit_code == 0, longer.stderr
    assert [row["step"] for row in json.loads(longer.stdout)["rows"]] == [0, 32, 64]
    played = CliRunner().invoke(
        main, ["rollout", "--agent", f"sb3:{run}", "--level", "BabyAI-GoToObjS4-v0", "--episodes", "2", "--json"]
    )
    assert played.exit_code == 0, played.stderr
    assert json.loads(played.stdout)["metrics"]["errors"]["value"] == 0


def test_a_dry_run_of_a_resumed_run_has_its_settings(tmp_path):
    run = str(tmp_path / "run")
    done = CliRunner().invoke(main, ["train-policy", *SMALL, "--steps", "32", "--out", run])
    assert done.exit_code == 0, done.stderr
    dry = CliRunner().invoke(main, ["train-policy", "--out", run, "--resume", "--steps", "64", "--dry-run", "--json"])
    assert dry.exit_code == 0, dry.stderr
    config = json.loads(dry.stdout)["config"]
    assert (config["level"], config["mode"], config["steps"]) == ("BabyAI-GoToObjS4-v0", "real", 64)
    assert config["settings"]["n_steps"] == 8
    done = CliRunner().invoke(main, ["train-policy", "--out", run, "--resume", "--dry-run", "--json"])
    assert json.loads(done.stdout)["expected_hours"] == 0
    assert json.loads(dry.stdout)["expected_hours"] > 0


def test_a_dry_run_writes_nothing(tmp_path):
    done = CliRunner().invoke(
        main, ["train-policy", *SMALL, "--steps", "32", "--out", str(tmp_path / "a"), "--dry-run"]
    )
    assert done.exit_code == 0, done.stderr
    assert "hours here" in done.stdout
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train-policy", "--algo", "a2c"], "known are ppo, recurrent-ppo, dqn, maskable-ppo"),
        (["train-policy", "--level", "BabyAI-GoToNowhere-v0", "--real"], "BabyAI-GoToNowhere-v0"),
        (["train-policy", "--checkpoint", "/nowhere"], "/nowhere"),
        (["train-policy", "--set", "speed"], "key=value"),
        (["train-policy", "--set", "n_steps=many"], "must be a whole number"),
        (["train-policy", "--algo", "dqn", "--clone", "10"], "nothing to clone"),
        (["train-policy", "--resume"], "no policy training to resume"),
        (["rollout", "--agent", "sb3:nowhere"], "no policy folder nowhere"),
        (["rollout", "--agent", "sb3:a.zip"], "add --trust"),
        (["rollout", "--agent", "sb3:a.zip", "--trust"], "no file a.zip"),
        (["rollout", "--agent", "bot", "--trust"], "no option 'trust'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_overwritten_folder_must_be_a_run(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    done = CliRunner().invoke(main, ["train-policy", *SMALL, "--out", str(tmp_path), "--overwrite"])
    assert done.exit_code == 1
    assert "not a policy training" in done.stderr
    assert (tmp_path / "kept.txt").read_text() == "mine"
