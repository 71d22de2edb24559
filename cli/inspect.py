"""``wmtool inspect``: tell what a dataset, run, checkpoint or results folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool inspect wmtoolkit/BabyAI-GoToLocal/mixed-v0 --html report.html")
@click.argument("path", default="wmtoolkit/BabyAI-GoToLocal/mixed-v0")
@click.option("--split", type=click.Choice(["train", "validation", "test"]), help="Look at one split only.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with histograms and films.")
@click.option("--films", type=click.IntRange(0), default=6, show_default=True, help="Sample episodes on the page.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Draws the sample episodes.")
@click.option("--verify", is_flag=True, help="Also compare every stored byte with its fingerprint.")
@command_options
def inspect(path: str, **options: Any) -> dict[str, Any]:
    """Tell what a dataset, run, checkpoint or results folder is.

    Of a dataset: episodes, steps, success, actions, events, missions, newly seen cells, duplicates.
    """
    from wmtoolkit.data.artifacts import inspect_path

    return inspect_path(path, **options)
