"""``wmtool export``: checkpoints and data for other programs, dFactory first of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wmtoolkit.cli.common import command_options

TARGETS = ("dfactory", "grown", "llada2")


@click.command(
    epilog="Example: wmtool export --target dfactory --data episodes --checkpoint LLaDA2.0-mini-world-merged --out task"
)
@click.option("--target", type=click.Choice(TARGETS), default="dfactory", show_default=True, help="What to write.")
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), metavar="DIR", help="What to read.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder to be made.")
@click.option("--data", multiple=True, metavar="ID|DIR", help="dfactory: dataset; may be repeated.")
@click.option("--max-seq-len", type=int, default=2048, show_default=True, help="dfactory: tokens of a sequence.")
@click.option("--block-size", type=int, help="grown: of the model [32]. dfactory: of a time step, to be checked.")
@click.option("--ranks", type=int, help="dfactory: GPUs. [default: 8 for mini, 16 for flash]")
@click.option("--micro-batch-size", type=int, default=1, show_default=True, help="dfactory: sequences a GPU at a time.")
@click.option("--global-batch-size", type=int, help="dfactory: sequences a step. [default: one micro-batch a GPU]")
@click.option("--offload/--no-offload", default=True, show_default=True, help="dfactory: optimiser on the CPU.")
@click.option("--dfactory", type=click.Path(path_type=Path), metavar="DIR", help="dfactory: checkout to be checked.")
@click.option("--mask-token", default="<|mask|>", show_default=True, help="grown: text of the mask token.")
@click.option("--rows", type=click.Choice(["words", "random"]), default="words", help="grown: start of new rows.")
@click.option("--layout", type=click.Choice(["separate", "merged"]), default="separate", help="llada2: of experts.")
@click.option("--drop-front-end", is_flag=True, help="llada2: leave out what a LLaDA2 does not have.")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def export(target: str, checkpoint: Path, out: Path, seed: int | None, **options: Any) -> dict[str, Any]:
    """Write checkpoints and data for other programs; the folder appears whole or not at all.

    \b
    dfactory  a folder to copy into a dFactory checkout: task, YAML, model config, data as tokenid JSONL, and a README
              with the one command that runs it. Everything is checked against the checkpoint first.
    grown     a text LLaDA2 with the world's tokens in its vocabulary; each new row starts as the mean of the rows of
              the words that describe it. Train it with dFactory, or with wmtool train --config llada2_mini --init DIR.
    llada2    a world model as a plain LLaDA2, its composed tables written out. Slot and action features and rotary
              positions on time and place are no part of a LLaDA2: a model that uses them is refused, or written
              without them and then predicts differently.

    \b
    From the hub to dFactory:
      wmtool download --repo-id inclusionAI/LLaDA2.0-mini
      wmtool export --target grown --checkpoint LLaDA2.0-mini --out LLaDA2.0-mini-world
      wmtool convert --mode merge -i LLaDA2.0-mini-world -o LLaDA2.0-mini-world-merged
      wmtool export --target dfactory --data ... --checkpoint LLaDA2.0-mini-world-merged --out task
    """
    if target == "grown":
        from wmtoolkit.world.growth import BLOCK_SIZE, grow

        size = options["block_size"] or BLOCK_SIZE
        grown = grow(checkpoint, out, mask_token=options["mask_token"], block_size=size, rows=options["rows"])
        return {**grown, "text": f"{out}: {grown['new_tokens']} new tokens, vocab_size {grown['vocab_size']:,}"}
    if target == "llada2":
        from wmtoolkit.dfactory.plain import export_plain

        plain = export_plain(checkpoint, out, layout=options["layout"], drop_front_end=options["drop_front_end"])
        lost = f", without {', '.join(plain['dropped'])}: its predictions differ" if plain["dropped"] else ""
        return {**plain, "text": f"{out}: plain LLaDA2, {plain['layout']} experts{lost}"}
    if not options["data"]:
        raise click.UsageError("--target dfactory needs --data")
    from wmtoolkit.dfactory.export import export as export_task

    names = ["max_seq_len", "block_size", "ranks", "micro_batch_size", "global_batch_size", "offload", "dfactory"]
    result = export_task(options["data"], checkpoint, out, **{name: options[name] for name in names})
    unchecked = "" if options["dfactory"] else "; versions unchecked: --dfactory DIR checks those of a checkout"
    made = f"{out}: {result['sequences']:,} sequences, {result['tokens']:,} tokens; its README says what comes next"
    return {**result, "text": made + unchecked}
