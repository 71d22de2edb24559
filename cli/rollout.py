"""``wmtool rollout``: run an agent, really or in imagination, and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import check_out, command_options


@click.command(
    epilog="Example: wmtool rollout --level BabyAI-GoToLocal-v0 --agent best-first --checkpoint runs/a/checkpoint "
    "--episodes 100 --seed 900000 --video episode.gif --out results/best-first"
)
@click.option("--level", default="BabyAI-GoToLocal-v0", show_default=True, metavar="ID", help="Level id, or module:Id.")
@click.option(
    "--agent",
    default="best-first",
    show_default=True,
    metavar="NAME",
    help="Who acts; sb3:RUN is a policy, perfect:NAME a planner that imagines with a faultless copy of the level.",
)
@click.option("--trust", is_flag=True, help="Read an agent sb3:FILE.zip, which runs code in it.")
@click.option("--checkpoint", metavar="DIR", help="World model [the packaged one].")
@click.option("--imagined/--real", default=False, show_default=True, help="Act in imagination or in the level.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Of imagination; 0: the likeliest, in which nothing new ever comes into view.",
)
@click.option(
    "--start",
    type=click.Choice(["level", "look_around", "dream"]),
    default="level",
    show_default=True,
    help="Imagination begins with the level's first view; with a look around too; or with a dreamt view.",
)
@click.option("--episodes", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@click.option(
    "--seed", type=click.IntRange(0), default=900_000, show_default=True, help="Episode i takes level seed SEED + i."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option of the agent; repeated.")
@click.option(
    "--mask-ratio", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of hidden cells."
)
@click.option("--video", type=click.Path(dir_okay=False, path_type=Path), help="GIF or MP4 of one episode.")
@click.option(
    "--explain",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for a page (and a film) of why it did what it did in one episode.",
)
@click.option("--video-episode", type=click.IntRange(0), default=0, show_default=True, help="Of --video and --explain.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for results.json.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@command_options
def rollout(out: Path | None, overwrite: bool, **options: Any) -> dict[str, Any]:
    """Run an agent, really or in imagination, and report success, length and return with 95 % intervals."""
    from wmtoolkit.benchmarks.rollouts import rollout as run

    check_out(out, overwrite=overwrite)
    return run(out=out, **options)
