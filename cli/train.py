"""``wmtool train``: train an any-order world model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import check_out, command_options, say


@click.command(epilog="Example: wmtool train --config quickstart --set training.steps=500 --out runs/first")
@click.option("--config", "name", default="compact", show_default=True, metavar="NAME|FILE", help="Packaged or YAML.")
@click.option("--data", multiple=True, metavar="ID|DIR", help="Dataset; may be repeated. Omitted: collects its own.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config entry; repeated.")
@click.option("--seed", type=click.IntRange(0), help="Same as --set training.seed=N.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/train"), show_default=True, help="Run folder."
)
@click.option("--init", type=click.Path(path_type=Path), metavar="CHECKPOINT", help="Start from these weights.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes for collecting.")
@click.option(
    "--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes that share each batch (DDP)."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in --out, with its own config.")
@click.option("--overwrite", is_flag=True, help="Replace what is in --out.")
@click.option("--dry-run", is_flag=True, help="Print the resolved config and what it costs.")
@command_options
def train(
    name: str,
    data: tuple[str, ...],
    overrides: tuple[str, ...],
    seed: int | None,
    out: Path,
    init: Path | None,
    workers: int,
    processes: int,
    resume: bool,
    overwrite: bool,
    dry_run: bool,
) -> dict[str, Any]:
    """Train an any-order world model into a run folder; Ctrl-C saves, --resume goes on exactly.

    With --processes, or under torchrun or accelerate launch, several processes share each batch.
    """
    from wmtoolkit.training.config import load_config
    from wmtoolkit.training.processes import is_worker, run_processes
    from wmtoolkit.training.runs import prepare_run

    changes = (*overrides, *(() if seed is None else (f"training.seed={seed}",)))
    if dry_run:
        from wmtoolkit.training.dry_run import dry_run_report

        return dry_run_report(load_config(name, changes))
    if not is_worker():
        check_out(out, resume=resume, overwrite=overwrite)
    overwrite = overwrite and not is_worker()
    config, paths = prepare_run(out, name, changes, data, resume=resume, overwrite=overwrite)
    if processes > 1 and not is_worker():
        sys.exit(run_processes(processes, sys.argv[1:]))
    from wmtoolkit.training.loop import train as run

    result = run(config, out, paths, resume=resume, init=init, workers=workers)
    say(f"best validation NLL {result['best_validation_nll']:.3f} nats a step; checkpoint {result['checkpoint']}")
    return result
