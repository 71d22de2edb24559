"""``wmtool plan-cluster``: memory, FLOPs and hours of training the released models on a number of GPUs."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool plan-cluster --model mini --gpus 1 --gpus 8 --data episodes --epochs 3")
@click.option("--model", "models", multiple=True, metavar="NAME", help="mini or flash. [default: both]")
@click.option("--gpus", multiple=True, type=click.IntRange(1), default=[8], show_default=True, help="May be repeated.")
@click.option("--setup", "setups", multiple=True, metavar="NAME", help="One of those below. [default: all]")
@click.option("--max-seq-len", type=int, default=2048, show_default=True, help="Tokens of a sequence.")
@click.option("--micro-batch-size", type=click.IntRange(1), default=1, show_default=True, help="Sequences a GPU.")
@click.option("--data", multiple=True, metavar="ID|DIR", help="Dataset whose training split is counted.")
@click.option("--sequences", type=click.IntRange(1), default=40_000, show_default=True, help="Without --data.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--lora-rank", type=click.IntRange(1), default=16, show_default=True, help="Of the adapters.")
@click.option("--memory", type=float, default=80.0, show_default=True, help="GB of a GPU.")
@click.option("--host-memory", type=float, default=250.0, show_default=True, help="GB of main memory a GPU.")
@click.option("--peak", type=float, default=989.0, show_default=True, help="TFLOP/s of a GPU in bfloat16, dense.")
@click.option("--utilisation", type=float, default=0.3, show_default=True, help="Share of it that is reached.")
@click.option("--links", type=float, default=0.0, help="GB/s to other GPUs. [default: 300 in a node of 8, else 50]")
@click.option("--host", type=float, default=25.0, show_default=True, help="GB/s of a GPU's share of the host.")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def plan_cluster(
    models: tuple[str, ...],
    gpus: tuple[int, ...],
    setups: tuple[str, ...],
    data: tuple[str, ...],
    sequences: int,
    seed: int | None,
    memory: float,
    host_memory: float,
    peak: float,
    utilisation: float,
    links: float,
    host: float,
    **options: Any,
) -> dict[str, Any]:
    """Tell what training LLaDA2.0-mini and -flash on trajectories takes: parameters, memory a GPU, FLOPs, hours.

    Computed from the configurations by the formulas that it prints; nothing is loaded, and no GPU was measured. What a
    plain LLaDA2 costs, and what decoding costs, tells wmtool scale.

    \b
    dfactory      dFactory, all weights, states on the CPU (its default)
    dfactory-gpu  the same with states on the GPUs
    fsdp2         wmtool train, all weights but the text's rows, sharded
    lora          wmtool train, adapters on frozen bfloat16 weights
    """
    from wmtoolkit.dfactory.plan import BLOCK_LENGTH, FORMULAS, Speeds, plan, plan_text

    speeds = Speeds(memory, host_memory, peak, utilisation, links, host)
    if data:
        from wmtoolkit.data import open_store
        from wmtoolkit.dfactory.sequences import sequence_count

        store = open_store(list(data), "train")
        sequences = sequence_count(store.lengths, BLOCK_LENGTH, options["max_seq_len"])
    rows = plan(models, gpus, setups=setups, sequences=sequences, speeds=speeds, **options)
    return {"rows": rows, "formulas": FORMULAS.splitlines(), "text": plan_text(rows, speeds)}
