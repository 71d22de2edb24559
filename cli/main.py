"""``wmtool``: the command line. One file a command; a command's module is imported only when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

COMMANDS = {
    "collect": "Record trajectories of levels into a dataset.",
    "train": "Train an any-order world model.",
    "evaluate": "Measure a checkpoint's predictions on held-out trajectories.",
    "rollout": "Run an agent, really or in imagination, and report.",
    "train-policy": "Train an SB3 policy in imagination, for real, or by Dyna.",
    "play": "Act inside the imagination by hand, the real level beside it.",
    "convert": "Convert a LLaDA2 checkpoint between the hub's layout and dFactory's.",
    "download": "Fetch a LLaDA2 checkpoint from the Hugging Face hub.",
    "export": "Write checkpoints and data for other programs, dFactory first of all.",
    "scale": "Tell what a LLaDA2 model costs to train and to run.",
    "plan-cluster": "Tell what training LLaDA2.0-mini and -flash takes on a number of GPUs.",
    "bench": "Run a benchmark suite and report.",
    "compare": "Put runs and results side by side, as a page, Markdown or CSV.",
    "inspect": "Tell what a dataset, run or checkpoint is.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(import_module(f"wmtoolkit.cli.{name.replace('-', '_')}"), name.replace("-", "_"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wmtoolkit", prog_name="wmtool")
def main() -> None:
    """Any-order world models of MiniGrid/BabyAI: collect, train, imagine, plan, measure.

    Each command does something useful with no option at all; `wmtool COMMAND --help` shows an example.
    """


ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""glibc gives freed tensors back to the system and takes them again page by page, which makes a training step several
times slower; these settings keep them. They only work when set before the process starts."""


def entry() -> None:
    """The program ``wmtool``: starts itself again with settings for the allocator, once, then runs the command."""
    if sys.platform == "linux" and "MALLOC_TOP_PAD_" not in os.environ:
        command = [sys.executable, "-P", "-m", "wmtoolkit.cli", *sys.argv[1:]]
        os.execve(sys.executable, command, {**ALLOCATOR, **os.environ})
    main(prog_name="wmtool")
