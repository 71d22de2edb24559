"""``wmtool convert``: LLaDA2 checkpoints between the hub's layout and dFactory's."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(
    epilog="Example: wmtool convert --mode merge --input-path LLaDA2.0-mini --output-path LLaDA2.0-mini-merged"
)
@click.option("--mode", "-m", type=click.Choice(["merge", "split"]), default="merge", show_default=True)
@click.option("--input-path", "-i", required=True, metavar="DIR", help="Folder of the checkpoint.")
@click.option("--output-path", "-o", required=True, metavar="DIR", help="Folder to be made.")
@click.option(
    "--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Type of the weights [as they are]."
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Largest file, as 5GB or 300MB.")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def convert(mode: Any, input_path: str, output_path: str, seed: int | None, **options: Any) -> dict[str, Any]:
    """Convert a LLaDA2 checkpoint: merge for dFactory's training, split for the hub, Transformers and inference.

    Streams the weights, so memory stays small whatever the model; values are copied bit by bit.
    """
    from wmtoolkit.llada2.convert import convert as convert_checkpoint

    result = convert_checkpoint(mode, input_path, output_path, **options)
    text = (
        f"{result['output_path']}: {result['tensors']} tensors, {result['bytes']:,} bytes, {len(result['files'])} files"
    )
    return {**result, "text": text}
