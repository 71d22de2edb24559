"""``wmtool evaluate``: prediction metrics of a checkpoint on held-out data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import check_out, command_options


@click.command(epilog="Example: wmtool evaluate --checkpoint runs/first/checkpoint --data ./gotolocal --out results")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint folder [the packaged model].")
@click.option("--data", multiple=True, required=True, metavar="ID|DIR", help="Dataset, or a folder of some; repeated.")
@click.option("--split", type=click.Choice(["validation", "test"]), default="test", show_default=True)
@click.option("--samples", type=click.IntRange(1), default=1000, show_default=True, help="Steps of each level.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws of steps and masks.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for results.json and results.md.")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out.")
@command_options
def evaluate(data: tuple[str, ...], out: Path | None, overwrite: bool, **options: Any) -> dict[str, Any]:
    """Measure predictions on held-out trajectories, level by level, beside copy-last-frame and the dead-reckoned map.

    Level seeds that the checkpoint was trained on are refused.
    """
    check_out(out, overwrite=overwrite)
    from wmtoolkit.evaluation.evaluate import evaluate as run

    return run(data=list(data), out=out, **options)
