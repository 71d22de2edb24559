"""``wmtool evaluate``: prediction metrics of a checkpoint on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import check_out, command_options


@click.command(epilog="Example: wmtool evaluate --checkpoint runs/first/checkpoint --data ./gotolocal --out results")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint folder [the packaged model].")
@click.option("--data", multiple=True, metavar="ID|DIR", help="Dataset, or a folder of some; repeated.")
@click.option("--level", "levels", multiple=True, metavar="ID", help="Play fresh episodes of this level; repeated.")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
@click.option("--samples", type=click.IntRange(1), default=1000, show_default=True, help="Steps of each level.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws of steps and masks.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.json and results.md.")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out.")
@command_options
def evaluate(
    data: tuple[str, ...], levels: tuple[str, ...], out: Path | None, overwrite: bool, **options: Any
) -> dict[str, Any]:
    """Measure predictions on held-out trajectories, level by level, beside predictors that learn nothing.

    Without --data, fresh episodes of the checkpoint's levels are played for it, once. Level seeds that the checkpoint
    was trained on are refused.
    """
    check_out(out, overwrite=overwrite)
    paths = list(data)
    if levels or not data:
        from wmtoolkit.benchmarks.fresh import fresh_levels

        paths += fresh_levels(options["checkpoint"], levels)
    from wmtoolkit.evaluation.evaluate import evaluate as run

    return run(data=paths, out=out, **options)
