"""``wmtool convert``: LLaDA2 checkpoints between the hub's layout and dFactory's."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool convert -m merge -i LLaDA2.0-mini -o LLaDA2.0-mini-merged")
@click.option(
    "--mode",
    "-m",
    type=click.Choice(["merge", "split"]),
    default="merge",
    show_default=True,
    help="merge: separate to merged experts. split: back again.",
)
@click.option("--input-path", "-i", required=True, metavar="DIR", help="Folder with config.json and safetensors.")
@click.option("--output-path", "-o", required=True, metavar="DIR", help="Folder to be made; must be new or empty.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Type of the weights written; expert_bias keeps its own. [default: as they are]",
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Largest file, as 5GB or 300MB.")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def convert(mode: Any, input_path: str, output_path: str, seed: int | None, **options: Any) -> dict[str, Any]:
    """Convert a LLaDA2 checkpoint between its two layouts, which differ in how experts are stored.

    \b
    separate  three matrices an expert: what the hub publishes
    merged    three stacked tensors a layer: what dFactory trains

    wmtoolkit itself loads both. The layout is told by the keys of the weights; model_type in config.json is copied
    as it is, so give dFactory its own config (model_type llada2_moe_veomni), and a split checkpoint the hub's.

    Every key and shape is checked against config.json before anything is written. Weights are streamed bit by bit:
    memory stays at some megabytes whatever the model, and split(merge(x)) equals x. Config, tokenizer and other
    small files come along. The output folder appears whole or not at all.
    """
    from wmtoolkit.llada2.convert import convert as convert_checkpoint

    result = convert_checkpoint(mode, input_path, output_path, **options)
    text = (
        f"{result['output_path']}: {result['tensors']} tensors, {result['bytes']:,} bytes, {len(result['files'])} files"
    )
    return {**result, "text": text}
