"""``wmtool bench``: benchmark suites."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import check_out, command_options


@click.group(epilog="Example: wmtool bench speed --quick --json")
def bench() -> None:
    """Run a benchmark suite and report; `wmtool bench SUITE --help` tells what it measures."""


@bench.command(epilog="Example: wmtool bench speed --part llada2 --rounds 8 --out results/speed")
@click.option("--part", "parts", multiple=True, metavar="NAME", help="llada2; may be repeated. [default: all]")
@click.option("--quick", is_flag=True, help="Small sizes, one round: shows that it runs, proves little.")
@click.option("--rounds", type=click.IntRange(1), help="Turns each variant takes. [default: 4]")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch. [default: one a core]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights and tokens.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for results.json.")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out.")
@command_options
def speed(parts: tuple[str, ...], out: Path | None, overwrite: bool, **options: Any) -> dict[str, Any]:
    """Measure how fast the toolkit's parts are here, as ratios within one run.

    The variants of a comparison take turns, so that other work on the machine falls on all alike; each variant's
    fastest round counts, and the ratio is to the comparison's first variant. A spread far above 1 says that the
    machine was busy: trust the ratios, not the speeds.

    \b
    llada2  tokens a second of the network, forward, training and decoding:
            implementations of experts and attention, batch sizes, and
            decoding with and without the cache of keys and values
    """
    check_out(out, overwrite=overwrite)
    from wmtoolkit.benchmarks.speed import speed as run

    return run(parts, out=out, **options)
