"""``wmtool play``: act inside the imagination, the real level beside it."""

from __future__ import annotations

import sys
from typing import Any

import click

from wmtoolkit.cli.common import command_options, say


@click.command(
    epilog="Example: wmtool play --level BabyAI-GoToLocal-v0 --seed 7. Keys may also come from a pipe: "
    "printf 'wwaw' | wmtool play"
)
@click.option("--level", default="BabyAI-GoToLocal-v0", show_default=True, metavar="ID", help="Level id, or module:Id.")
@click.option("--checkpoint", metavar="DIR", help="World model [the packaged one].")
@click.option("--seed", type=click.IntRange(0), default=900_000, show_default=True, help="Of the first level.")
@click.option(
    "--horizon", type=click.IntRange(1), default=64, show_default=True, help="Imagined steps before it looks again."
)
@command_options
def play(**options: Any) -> dict[str, Any]:
    """Act by hand: the real view and the imagined one side by side, what differs reversed, what is unsure dim."""
    from wmtoolkit.envs.playing import play as run

    interactive = sys.stdin.isatty()

    def show(screen: str) -> None:
        if interactive:
            click.clear()
        say(screen)

    document = run(click.getchar if interactive else lambda: sys.stdin.read(1), show, **options)
    lines = [f"{document['steps']} steps in {document['episodes']} episodes of {document['level']}"]
    lines += [
        f"imagined {row['step']:>2} steps ahead: {row['cell_accuracy']:.1%} of the cells, n = {row['n']}"
        for row in document["drift"]
    ]
    return {"command": "play", **document, "text": "\n".join(lines)}
