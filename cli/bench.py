"""``wmtool bench``: benchmark suites."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from wmtoolkit.benchmarks.plans import TRAINED
from wmtoolkit.cli.common import check_out, command_options


@click.group(epilog="Example: wmtool bench speed --quick --json")
def bench() -> None:
    """Run a benchmark suite and report; `wmtool bench SUITE --help` tells what it measures."""


@bench.command(epilog="Example: wmtool bench speed --part llada2 --rounds 8 --out results/speed")
@click.option(
    "--part",
    "parts",
    multiple=True,
    metavar="NAME",
    help="llada2, data or imagination; may be repeated. [default: all]",
)
@click.option(
    "--checkpoint", type=click.Path(path_type=Path), metavar="DIR", help="What imagines. [default: the packaged model]"
)
@click.option("--quick", is_flag=True, help="Small sizes, one round: shows that it runs, proves little.")
@click.option("--rounds", type=click.IntRange(1), help="Turns each variant takes. [default: 4]")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch. [default: one a core]")
@click.option(
    "--clock",
    type=click.Choice(["wall", "cpu"]),
    default="wall",
    show_default=True,
    help="cpu counts this process alone: fair on a busy machine, with --threads 1.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights and tokens.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for results.json.")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out.")
@command_options
def speed(parts: tuple[str, ...], out: Path | None, overwrite: bool, **options: Any) -> dict[str, Any]:
    """Measure how fast the toolkit's parts are here, as ratios within one run.

    The variants of a comparison take turns, so that other work on the machine falls on all alike; each variant's
    fastest round counts, and the ratio is to the comparison's first variant. A spread far above 1 says that the
    machine was busy: measure again, or with --clock cpu --threads 1.

    \b
    llada2       tokens a second of the network, forward, training and decoding:
                 implementations of experts and attention, batch sizes, and
                 decoding with and without the cache of keys and values
    data         levels played, stored and read a second, and memory meanwhile
    imagination  steps a second in the world model by batch size, beside the
                 real level; the cache beside reading the context anew
    """
    check_out(out, overwrite=overwrite)
    from wmtoolkit.benchmarks.speed import speed as run

    return run(parts, out=out, **options)


SUITES = {
    "prediction": "Measure predictions level by level: known, revealed and changed cells, events, outcomes, "
    "calibration, completion, likelihood.",
    "success": "Let agents play levels on the same fresh seeds: success, return, length, with intervals, over levels "
    "and in pairs.",
    "robustness": "Measure success and predictions when cells are hidden, views small, colours wrong or frames lost, "
    "with and without belief completion.",
    "fidelity": "Compare imagination with reality: drift by horizon, and success imagined against success real.",
    "efficiency": "Train on fewer and fewer episodes and measure what is left.",
    "ablation": "Train variants that each change one thing, several seeds each, and compare them.",
    "baselines": "Train rivals on the world model's data and budget and measure all alike.",
    "pairs": "Train without missions that name some colour-object pairs and measure on these and on others.",
}


_OPTIONS = {
    "plan": click.option("--plan", type=click.Path(path_type=Path), metavar="FILE", help="YAML [the packaged plan]."),
    "quick": click.option("--quick", is_flag=True, help="A small plan: shows that it runs, proves little."),
    "checkpoint": click.option(
        "--checkpoint", type=click.Path(path_type=Path), help="Checkpoint folder [the packaged model]."
    ),
    "level": click.option("--level", "levels", multiple=True, metavar="ID", help="Instead of the plan's; repeated."),
    "episodes": click.option("--episodes", type=click.IntRange(1), help="Instead of the plan's."),
    "seed": click.option("--seed", type=click.IntRange(0), help="First level seed, instead of the plan's."),
    "out": click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path("bench"),
        show_default=True,
        metavar="DIR",
        help="Folder of the suites; each gets its own in it.",
    ),
    "resume": click.option("--resume", is_flag=True, help="Keep what is finished in --out and go on."),
    "overwrite": click.option("--overwrite", is_flag=True, help="Replace what is in --out."),
}


_TRAINS = "What is trained says the plan, so that no checkpoint or level is given. "


def _options(suite: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a suite; one that trains has no use for those of the packaged model's levels, nor pairs, where
    nobody plays, for a number of episodes."""

    useless = {"checkpoint", "level"} if suite in TRAINED else set()
    if suite == "pairs":
        useless.add("episodes")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name, option in reversed(_OPTIONS.items()):
            if name not in useless:
                command = option(command)
        return command

    return decorate


def _add(suite: str, purpose: str) -> None:
    trains = suite in TRAINED
    purpose += f"\n\n{_TRAINS if trains else ''}Finished work is kept: an interrupted suite goes on with --resume."
    checkpoint = "" if trains else "--checkpoint runs/first/checkpoint "

    @bench.command(name=suite, help=purpose, epilog=f"Example: wmtool bench {suite} --quick {checkpoint}--out results")
    @_options(suite)
    @command_options
    def command(out: Path, resume: bool, overwrite: bool, **options: Any) -> dict[str, Any]:
        from wmtoolkit.benchmarks.suites import clear, run_suite

        check_out(out / suite, resume=resume, overwrite=overwrite)
        if overwrite:
            clear(out / suite)
        return run_suite(suite, out, changes=_changes(options), **options)


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options that override entries of a plan out of all options."""
    return {name: options.pop(name, None) for name in ("levels", "episodes", "seed")}


for _suite, _purpose in SUITES.items():
    _add(_suite, _purpose)


@bench.command(name="all", epilog="Example: wmtool bench all --quick --checkpoint runs/first/checkpoint --out results")
@click.option("--trainings", is_flag=True, help="Also the suites that train, which take hours.")
@_options()
@command_options
def every(out: Path, resume: bool, overwrite: bool, plan: Path | None, **options: Any) -> dict[str, Any]:
    """Run every suite and write the report; those that train only with --trainings, or with --quick, where they are
    small.

    Finished work is kept: interrupted suites go on with --resume.
    """
    from wmtoolkit.benchmarks.suites import run_all

    if plan is not None:
        raise click.UsageError("each suite has a plan of its own: give --plan to one suite at a time")
    check_out(out, resume=resume, overwrite=overwrite)
    return run_all(out, overwrite=overwrite, changes=_changes(options), **options)


@bench.command(epilog="Example: wmtool bench report results --out results/report.html")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Page to write. [FOLDER/report.html]")
@click.option("--title", default="wmtoolkit benchmarks", show_default=True, help="Heading of the page.")
@command_options
def report(folder: Path, out: Path | None, title: str) -> dict[str, Any]:
    """Write the report of whatever suites a folder holds: a page that works offline, Markdown and CSV beside it."""
    from wmtoolkit.benchmarks.suites import write_report

    return write_report(folder, out, title)
