"""A real dataset, a grown checkpoint with merged experts, and an export made of both."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wmtoolkit.data import collect
from wmtoolkit.dfactory.any_order.layout import Layout
from wmtoolkit.dfactory.export import export
from wmtoolkit.llada2.convert import convert

STANDIN = Path(__file__).parent / "standin"
LENGTH = 4 * 64
"""Tokens of a sequence: the mission and three time steps."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect("BabyAI-GoToRedBallGrey-v0", 40, seed=3, out=tmp_path_factory.mktemp("data") / "episodes")


@pytest.fixture(scope="session")
def merged(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "LLaDA2-tiny-world-merged"
    convert("merge", grown, folder)
    return folder


@pytest.fixture(scope="session")
def checkout(data: Path, merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `wmtool export` lays out, in place of the dFactory checkout it is copied over."""
    folder = tmp_path_factory.mktemp("checkout") / "dFactory"
    export([str(data)], merged, folder, max_seq_len=LENGTH, ranks=2, micro_batch_size=2)
    return folder


@pytest.fixture(scope="session")
def layout(checkout: Path) -> Layout:
    return Layout.read(str(checkout / "data" / "any_order_babyai" / "world_layout.json"))


@pytest.fixture(scope="session")
def examples(checkout: Path) -> list[dict]:
    lines = (checkout / "data" / "any_order_babyai" / "train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def run_task(checkout: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the exported task as ``train.sh`` does (several processes by torchrun), a stand-in in place of VeOmni."""

    def run(
        output: Path, *options: object, processes: int = 1, folder: Path = checkout
    ) -> subprocess.CompletedProcess[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [
            *(sys.executable, *(launcher if processes > 1 else [])),
            *("tasks/train_any_order_babyai.py", "configs/sft/llada2_mini_any_order_babyai.yaml"),
            *task_options(output, *options),
        ]
        environment = environment_of_one_rank() if processes == 1 else environment_of_the_task()
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    return run


@pytest.fixture(scope="session")
def refusals(checkout: Path) -> Callable[..., list[str]]:
    """What the task says to each of many settings, all asked in one process."""

    def ask(output: Path, many: list[tuple[object, ...]]) -> list[str]:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("drive.py"))],
            input=json.dumps([task_options(output, *options) for options in many]),
            cwd=checkout, env=environment_of_one_rank(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


def task_options(output: Path, *options: object) -> list[str]:
    small = ("--data.num_workers", 0, "--train.lr", 1e-3, "--train.global_batch_size", 2)
    return [str(option) for option in ("--train.output_dir", output, *small, *options)]


def environment_of_the_task() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(STANDIN), "OMP_NUM_THREADS": "1"}


def environment_of_one_rank() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**environment_of_the_task(), **{name: str(value) for name, value in alone.items()}}


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict]]:
    def read(output: Path) -> list[dict]:
        return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]

    return read
