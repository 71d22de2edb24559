"""What training a LLaDA2 with the world's tokens takes on a number of GPUs, from its configuration alone.

Counts of parameters and FLOPs are exact (``llada2/scale.py``); memory is an estimate from what FSDP2 and DDP hold at
once; seconds rest on assumed speeds, which are arguments. Nothing here was measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.llada2.layouts import expected_tensors
from wmtoolkit.llada2.released import RELEASED, released_config
from wmtoolkit.llada2.scale import activation_bytes, count_parameters, forward_flops
from wmtoolkit.world.growth import BLOCK_SIZE, grown_size
from wmtoolkit.world.tokenizer import BLOCK
from wmtoolkit.world.vocabulary import describing_words

SETUPS = {
    "dfactory": "dFactory, all weights, weights and optimiser on the CPU (enable_fsdp_offload, its default)",
    "dfactory-gpu": "the same with both on the GPUs (wmtool export --no-offload)",
    "fsdp2": "wmtool train, all weights but the text's rows, scale.sharding=fsdp2",
    "lora": "wmtool train, adapters on frozen bfloat16 weights, every GPU holds all",
}
BLOCK_LENGTH = -(-BLOCK // BLOCK_SIZE) * BLOCK_SIZE
"""Tokens of a time step over the released models."""

FORMULAS = """\
P parameters, T of them trained, G in the largest layer, V x H in each of the two tables, N GPUs, B sequences a GPU of L
tokens, of which the network sees 2L (masked and clean). F: FLOPs of a forward pass, 2 a multiply-add; Fh: its output
head.
states       weight, gradient and two moments in float32 of what is trained: 16 T / N; what is frozen: 4 (P - T) / N.
             lora: 16 T + 2 P, on every GPU. With offload on the host.
layers       two layers gathered in bfloat16, the gradient of one and its float32 copy on the way: 10 G; both tables
             gathered, and in dFactory their gradients: 2 or 4 bytes each of 2 V H. lora: none.
kept         activations with checkpointing: each layer's input and one layer's insides, in bfloat16.
scores       dFactory: of all 2L places and all V tokens, float32, their gradient, and that in bfloat16: 10 x 2 L B V.
             wmtool train: of what is asked alone, among the world's tokens.
GB a GPU     states + tables + kept + the larger of scores and layers, which are not needed at once; fits: at most 90 %
             of the GPU, and of the host; from: on which number of GPUs, a power of two, first.
TFLOP/seq    forward, the layers once more, backward twice: (4 (F - Fh) + 3 Fh) / B; lora: (3 (F - Fh) + 3 Fh) / B.
s/step       the longer of FLOPs / (peak x utilisation) and bytes over the links, (2 + 2 + 4) P (N - 1) / N for two
             gatherings and one reduction; with offload also 40 P / N bytes on the host: weights twice to the GPU,
             gradients back, and AdamW.
hours        sequences x epochs / (B N) steps of so many seconds.
disk         one training checkpoint, weights and moments of what is trained (12 T), and the weights to be read back."""


@dataclass(frozen=True)
class Speeds:
    """Assumed, not measured.

    Attributes:
        memory: GB of a GPU; host_memory: GB of main memory a GPU (a node of 8 with 2 TB).
        peak: TFLOP/s of a GPU in bfloat16, dense; the default is an H100's by its data sheet.
        utilisation: share of it that matrix products reach.
        links: GB/s a GPU sends to others; 0: 300 inside a node of 8 (NVLink), 50 between nodes (400 Gbit/s a GPU).
        host: GB/s of a GPU's share of PCIe and of the host's memory.
    """

    memory: float = 80.0
    host_memory: float = 250.0
    peak: float = 989.0
    utilisation: float = 0.3
    links: float = 0.0
    host: float = 25.0

    def __post_init__(self) -> None:
        for name in ("memory", "host_memory", "peak", "utilisation", "host"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)} must be above 0")

    def link(self, gpus: int) -> float:
        return self.links or (300.0 if gpus <= 8 else 50.0)


def plan(
    models: Sequence[str] = (),
    gpus: Sequence[int] = (8,),
    *,
    setups: Sequence[str] = (),
    max_seq_len: int = 2048,
    micro_batch_size: int = 1,
    sequences: int = 40_000,
    epochs: int = 1,
    lora_rank: int = 16,
    speeds: Speeds | None = None,
) -> list[dict[str, Any]]:
    """One flat row a model, set-up and number of GPUs; all of the released models and set-ups if none are named.

    Raises:
        UserError: naming the argument that cannot be.
    """
    if max_seq_len % BLOCK_LENGTH or max_seq_len < 3 * BLOCK_LENGTH:
        raise UserError(
            f"--max-seq-len {max_seq_len} must be three or more whole blocks of {BLOCK_LENGTH} tokens; "
            f"{max(3, round(max_seq_len / BLOCK_LENGTH)) * BLOCK_LENGTH} is the nearest"
        )
    speeds = speeds or Speeds()
    rows = []
    for model in models or RELEASED:
        config = released_config(model)
        config.vocab_size = grown_size(config.vocab_size)
        for setup in setups or SETUPS:
            cost = _cost(config, setup, max_seq_len, micro_batch_size, lora_rank)
            powers = (2**power for power in range(11))
            fits_from = next((count for count in powers if cost.fits(count, speeds)), None)
            for count in gpus:
                total = sequences * epochs
                steps = total // (micro_batch_size * count)
                if not steps:
                    raise UserError(f"{total} sequences are fewer than a step of {micro_batch_size * count}; give more")
                seconds = cost.seconds(count, speeds)
                rows.append(
                    {
                        **{"model": model, "setup": setup, "gpus": count, "parameters": cost.parameters},
                        **{"active_parameters": cost.active, "trained_parameters": cost.trained},
                        **{"vocab_size": config.vocab_size, "max_seq_len": max_seq_len, "sequences": total},
                        **{"tokens": total * max_seq_len, **cost.memory(count), "fits": cost.fits(count, speeds)},
                        **{"fits_from": fits_from, "flops_per_sequence": cost.flops // micro_batch_size},
                        **{"steps": steps, "seconds_per_step": seconds, "hours": steps * seconds / 3600},
                        "disk_bytes": cost.disk,
                    }
                )
    return rows


@dataclass(frozen=True)
class _Cost:
    """Bytes and FLOPs of one set-up of one model; see ``FORMULAS``."""

    parameters: int
    active: int
    trained: int
    sharded: bool
    offload: bool
    layers: int
    tables: int
    kept: int
    scores: int
    flops: int
    disk: int

    def memory(self, gpus: int) -> dict[str, int]:
        """Bytes on a GPU and on its share of the host."""
        if self.sharded:
            states = (16 * self.trained + 4 * (self.parameters - self.trained)) // gpus
        else:
            states = 16 * self.trained + 2 * self.parameters
        on_gpu = 0 if self.offload else states
        return {
            "memory_bytes": on_gpu + self.tables + self.kept + max(self.scores, self.layers),
            "state_bytes": on_gpu,
            "layer_bytes": self.layers + self.tables,
            "kept_bytes": self.kept,
            "score_bytes": self.scores,
            "host_bytes": states if self.offload else 0,
        }

    def fits(self, gpus: int, speeds: Speeds) -> bool:
        held = self.memory(gpus)
        on_gpu, on_host = held["memory_bytes"] / 1e9, held["host_bytes"] / 1e9
        return on_gpu <= 0.9 * speeds.memory and on_host <= 0.9 * speeds.host_memory

    def seconds(self, gpus: int, speeds: Speeds) -> float:
        compute = self.flops / (speeds.peak * 1e12 * speeds.utilisation)
        sent = (8 * self.parameters if self.sharded else 8 * self.trained) * (gpus - 1) / gpus
        host = 40 * self.parameters / gpus / (speeds.host * 1e9) if self.offload else 0.0
        return max(compute, sent / (speeds.link(gpus) * 1e9)) + host


def _cost(config: LLaDA2MoeConfig, setup: str, length: int, batch: int, rank: int) -> _Cost:
    if setup not in SETUPS:
        raise UserError(f"--setup {setup!r} is none of {', '.join(SETUPS)}")
    counts = count_parameters(config)
    ours, lora, new = setup in ("fsdp2", "lora"), setup == "lora", len(describing_words())
    table = config.vocab_size * config.hidden_size
    rows = 2 * new * config.hidden_size  # of the world's tokens, in both tables
    trained = adapter_parameters(config, rank) + rows if lora else counts["total"]
    if setup == "fsdp2":
        trained += rows - 2 * table
    tokens, asked = 2 * length * batch, length * batch
    forward = forward_flops(config, tokens, 2 * length)
    head = 2 * tokens * table
    small_head = 2 * asked * new * config.hidden_size
    return _Cost(
        parameters=counts["total"] + (rows if ours else 0),
        active=counts["active"],
        trained=trained,
        sharded=not lora,
        offload=setup == "dfactory",
        layers=0 if lora else 10 * counts["layer"],
        tables=0 if lora else 2 * table * (2 if ours else 4),
        kept=activation_bytes(config, tokens),
        scores=8 * asked * new if ours else 10 * tokens * config.vocab_size,
        flops=(3 if lora else 4) * (forward - head) + 3 * (small_head if ours else head),
        disk=12 * trained + (2 if not ours or lora else 4) * counts["total"],
    )


def adapter_parameters(config: LLaDA2MoeConfig, rank: int) -> int:
    """Parameters of adapters of this rank beside every linear layer but routed experts, router and head."""
    targets = ("query_key_value", "dense", "gate_proj", "up_proj", "down_proj")  # as training.scale.LORA_TARGETS
    return sum(
        rank * sum(shape)
        for key, shape in expected_tensors(config, "merged").items()
        if key.endswith(".weight") and key.split(".")[-2] in targets
    )


def plan_text(rows: list[dict[str, Any]], speeds: Speeds) -> str:
    """The rows as tables for people, with the formulas; GB are 10^9 bytes."""
    first = rows[0]
    lines = [
        f"LLaDA2.0-{row['model']}: {row['parameters'] / 1e9:.3f}B parameters, {row['active_parameters'] / 1e9:.3f}B "
        f"active a token, vocabulary {row['vocab_size']:,} with the world's tokens"
        for row in {row["model"]: row for row in reversed(rows)}.values()
    ][::-1]
    links = f"{speeds.links:g}" if speeds.links else "300 in a node of 8, 50 between nodes"
    lines += [
        f"{first['sequences']:,} sequences of {first['max_seq_len']:,} tokens: {first['tokens']:,} tokens",
        f"assumed: {speeds.memory:g} GB a GPU and {speeds.host_memory:g} of the host, {speeds.peak:g} TFLOP/s x "
        f"{speeds.utilisation:g}, {links} GB/s, host {speeds.host:g} GB/s",
        "",
    ]
    header = (
        "model|set-up|GPUs|GB a GPU|states|layers|kept|scores|host GB|fits|from|TFLOP/seq|steps|s/step|hours|disk GB"
    )
    table = [header.split("|")]
    for row in rows:
        sizes = [f"{row[f'{part}_bytes'] / 1e9:.1f}" for part in ("memory", "state", "layer", "kept", "score", "host")]
        table.append(
            [
                *(row["model"], row["setup"], str(row["gpus"]), *sizes, "yes" if row["fits"] else "no"),
                *(str(row["fits_from"] or "-"), f"{row['flops_per_sequence'] / 1e12:.1f}", f"{row['steps']:,}"),
                *(f"{row['seconds_per_step']:.2f}", f"{row['hours']:,.1f}", f"{row['disk_bytes'] / 1e9:,.0f}"),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(map(str.rjust, cells, widths)) for cells in table]
    return "\n".join([*lines, "", *(f"{name}: {what}" for name, what in SETUPS.items()), "", FORMULAS])
