"""``wmtool scale``: memory and FLOPs of LLaDA2 models, from their configurations."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool scale --model flash --length 4096 --devices 16")
@click.option("--model", "models", multiple=True, metavar="NAME|DIR", help="mini, flash, or a folder; repeat [both].")
@click.option("--length", type=click.IntRange(1), default=2048, show_default=True, help="Tokens of a sequence.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences a device.")
@click.option(
    "--devices", type=click.IntRange(1), default=8, show_default=True, help="Devices the training is sharded over."
)
@click.option("--passes", type=click.IntRange(1), default=16, show_default=True, help="Passes a decoded block of 32.")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def scale(models: tuple[str, ...], seed: int | None, **options: Any) -> dict[str, Any]:
    """Tell what a LLaDA2 model costs to train and to run: parameters, memory, FLOPs.

    Training is dFactory's: sequences of twice the length, AdamW in mixed precision, fully sharded, gradient
    checkpointing. Inference is cached block decoding in bfloat16 after --length tokens.
    """
    from wmtoolkit.llada2 import LLaDA2MoeConfig
    from wmtoolkit.llada2.released import RELEASED, released_config
    from wmtoolkit.llada2.scale import scale_table, scale_text

    names = models or tuple(RELEASED)
    configs = {n: released_config(n) if n in RELEASED else LLaDA2MoeConfig.from_pretrained(n) for n in names}
    rows = scale_table(configs, **options)
    return {"rows": rows, "text": scale_text(rows)}
