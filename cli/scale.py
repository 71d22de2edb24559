"""``wmtool scale``: memory and FLOPs of LLaDA2 models, from their configurations."""

from __future__ import annotations

from typing import Any

import click

from wmtoolkit.cli.common import command_options


@click.command(epilog="Example: wmtool scale --model flash --length 4096 --devices 16")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|DIR",
    help="mini, flash, or a checkpoint folder (config.json is enough); may be repeated. [default: mini and flash]",
)
@click.option("--length", type=click.IntRange(1), default=2048, show_default=True, help="Tokens of a sequence.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences a device.")
@click.option(
    "--devices", type=click.IntRange(1), default=8, show_default=True, help="Devices the training is sharded over."
)
@click.option("--passes", type=click.IntRange(1), default=16, show_default=True, help="Passes a decoded block of 32.")
@click.option("--seed", type=int, help="Accepted as everywhere; nothing here is random.")
@command_options
def scale(models: tuple[str, ...], seed: int | None, **options: Any) -> dict[str, Any]:
    """Tell what a LLaDA2 model costs to train and to run: parameters, memory, FLOPs. Nothing is loaded or measured.

    Training is dFactory's: sequences of twice the length (noisy and clean), AdamW in mixed precision, fully sharded
    over the devices, gradient checkpointing. Inference is cached block decoding in bfloat16 on one device, after
    --length tokens; fewer passes a block are faster.

    \b
    GB           10^9 bytes a device, the sum of the five columns behind it
    weights      training: 16 bytes a parameter (float32 weight, gradient, two
                 moments), a device's share; inference: 2
    gathered     the layer at work, whole, in bfloat16
    activations  what the backward pass keeps
    logits       in float32; training: of the noisy half, and their gradient
    cache        keys and values of the --length tokens
    TFLOP/token  10^12 floating-point operations a token trained or decoded
    """
    from wmtoolkit.llada2.scale import scale_table, scale_text

    rows = scale_table(models, **options)
    return {"rows": rows, "text": scale_text(rows)}
