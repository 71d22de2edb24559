"""``wmtool compare``: put runs and results side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool compare runs/a results/best-first results/bot --out report.html")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write: .html, .md or .csv.")
@click.option("--title", default="wmtoolkit report", show_default=True, help="Heading of the page.")
@command_options
def compare(folders: tuple[Path, ...], out: Path | None, title: str) -> dict[str, Any]:
    """Put runs and results side by side, as a page that works offline, Markdown or CSV."""
    from wmtoolkit.benchmarks.report import compare as run

    return run(list(folders), out, title)
