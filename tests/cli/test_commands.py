"""``wmtool`` as users meet it: exit codes, one-line errors, clean stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wmtoolkit.cli.main import COMMANDS


def _wmtool(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}
    )


def test_help_lists_every_command() -> None:
    done = _wmtool("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert name in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(name: str) -> None:
    from click.testing import CliRunner

    from wmtoolkit.cli.main import main

    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Example: wmtool" in done.output
    assert "--json" in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rollout", "--agent", "random", "--level", "BabyAI-GoToNowhere-v0"), "BabyAI-GoToNowhere-v0"),
        (("rollout", "--agent", "clairvoyant"), "clairvoyant"),
        (("rollout", "--agent", "policy", "--checkpoint", "no-such-folder"), "no-such-folder"),
        (("evaluate", "--data", "no-such-data"), "no-such-data"),
        (("train", "--config", "no-such-config"), "no-such-config"),
        (("train", "--config", "tiny", "--set", "training.stps=1"), "did you mean steps"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wmtoolkit.cli", *arguments],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_wrong_usage_exits_with_two() -> None:
    assert _wmtool("train", "--no-such-option").returncode == 2
    assert _wmtool("no-such-command").returncode == 2


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    done = _wmtool("train", "--config", "tiny", "--out", tmp_path)
    assert done.returncode == 1
    assert "not empty" in done.stderr
    done = _wmtool("train", "--config", "tiny", "--out", tmp_path, "--overwrite")
    assert done.returncode == 1
    assert "not a run" in done.stderr
    assert (tmp_path / "kept.txt").read_text() == "mine"


def test_json_is_all_that_reaches_stdout(tmp_path: Path) -> None:
    """A level whose reset prints to stdout must not spoil the document."""
    done = _wmtool("rollout", "--agent", "random", "--level", "BabyAI-BossLevel-v0", "--episodes", 3, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["metrics"]["success_rate"]["n"] == 3
    assert [row["seed"] for row in document["rows"]] == [900_000, 900_001, 900_002]


def test_a_dry_run_tells_the_cost_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = _wmtool("train", "--config", "tiny", "--out", out, "--dry-run", "--json")
    document = json.loads(done.stdout)
    assert document["parameters"] > 10_000
    assert document["expected_hours"] > 0
    assert not out.exists()


def test_a_dry_run_of_a_large_model_builds_nothing() -> None:
    done = _wmtool("train", "--config", "llada2_mini", "--dry-run", "--json")
    document = json.loads(done.stdout)
    assert document["parameters"] > 15e9
    assert document["expected_hours"] is None
    assert "wmtool plan-cluster" in document["text"]
