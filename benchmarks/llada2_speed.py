"""How fast the LLaDA2 network computes here: experts, attention, decoding, batch sizes, as ratios within one run.

All variants of a comparison take turns, round after round, so that whatever else the machine does falls on all alike;
a variant's time is its fastest round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.progress import progress

EXPERTS = ("sorted_mm", "grouped_mm", "eager")
SMALL = "batched_mm"
"""Copies an expert's weights for each token: hopeless for more than a few."""
ATTENTION = ("sdpa", "eager")


def speed_config() -> LLaDA2MoeConfig:
    """The compact world model's network."""
    return LLaDA2MoeConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        num_shared_experts=1,
        moe_intermediate_size=96,
        first_k_dense_replace=1,
        use_bias=False,
        attention_dropout=0.0,
        pad_token_id=0,
    )


def llada2_speed(
    *, tokens: int = 2048, length: int = 256, rounds: int = 4, threads: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Measure tokens a second of the network.

    Args:
        tokens: in a batch of the experts' and attention's comparisons, in rows of ``length``.
        rounds: turns each variant takes; its fastest counts.
        threads: of torch, for the time of the measurement; as they are if not given.

    Returns:
        {"rows": one a variant and use, with ``tokens_per_second`` and ``ratio`` to the comparison's first variant,
        "text"}
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LLaDA2MoeForCausalLM(speed_config())
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, 500, (max(tokens // length, 1), length), generator=draw)
        comparisons = {
            "experts": {name: _network(model, ids, experts=name) for name in EXPERTS},
            "experts, bfloat16": {name: _network(model, ids, experts=name, autocast=True) for name in EXPERTS},
            "experts, 64 tokens": {name: _network(model, ids[:1, :64], experts=name) for name in (*EXPERTS, SMALL)},
            "attention": {name: _network(model, ids, attention=name) for name in ATTENTION},
            "attention, bfloat16": {name: _network(model, ids, attention=name, autocast=True) for name in ATTENTION},
            "batch": {f"{size} rows": _network(model, ids[:1].repeat(size, 1)) for size in (1, 4, 16)},
            "decoding": {name: _decoding(model, ids[:4], name == "cached") for name in ("recomputed", "cached")},
            "decoding, batch": {f"{size} rows": _decoding(model, ids[:1].repeat(size, 1), True) for size in (1, 4, 16)},
        }
        rows: list[dict[str, Any]] = []
        with progress("speed of LLaDA2", len(comparisons)) as bar:
            for name, variants in comparisons.items():
                rows += _compare(name, variants, rounds)
                bar.advance(info=name)
    finally:
        torch.set_num_threads(before)
    return {"threads": threads or before, "rows": rows, "text": speed_text(rows)}


Uses = dict[str, tuple[int, Callable[[], Any]]]
"""Of a variant, by use (forward, train, decode): the tokens a call works through, and the call."""


def _network(
    model: LLaDA2MoeForCausalLM,
    ids: torch.Tensor,
    *,
    experts: str = EXPERTS[0],
    attention: str = ATTENTION[0],
    autocast: bool = False,
) -> Uses:
    def set_up() -> torch.autocast:
        model.set_experts_implementation(experts)
        model.set_attn_implementation(attention)
        return torch.autocast("cpu", torch.bfloat16, enabled=autocast)

    def forward() -> None:
        with torch.no_grad(), set_up():
            model(ids)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with set_up():
            loss = model(ids, labels=ids).loss
        loss.backward()

    return {"forward": (ids.numel(), forward), "train": (ids.numel(), train)}


def _decoding(model: LLaDA2MoeForCausalLM, prompts: torch.Tensor, cached: bool) -> Uses:
    """Two blocks of 32 after the prompt, eight passes a block."""

    def decode() -> None:
        model.set_experts_implementation(EXPERTS[0])
        model.set_attn_implementation(ATTENTION[0])
        model.generate(
            prompts, gen_length=64, block_length=32, steps=8, threshold=2.0, mask_id=511, eos_id=-1, use_cache=cached
        )

    return {"decode": (64 * len(prompts), decode)}


def _compare(name: str, variants: dict[str, Uses], rounds: int) -> list[dict[str, Any]]:
    """Time all variants in turns; the first of a use is what the others are compared with."""
    calls = {(use, variant): entry for variant, uses in variants.items() for use, entry in uses.items()}
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(rounds + 1):
        for key, (_, call) in calls.items():
            start = time.perf_counter()
            call()
            if turn > 0:  # the first turn warms up
                best[key] = min(best[key], time.perf_counter() - start)
    rows = []
    for (use, variant), (count, _) in sorted(calls.items(), key=lambda item: item[0][0]):
        speed = count / best[use, variant]
        first = next(iter(variants))
        base = calls[use, first][0] / best[use, first]
        rows.append(
            {"comparison": name, "use": use, "variant": variant, "tokens_per_second": speed, "ratio": speed / base}
        )
    return rows


def speed_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    lines = [f"{'comparison':<22}{'use':<9}{'variant':<13}{'tokens/s':>11}{'ratio':>8}"]
    for row in rows:
        lines.append(
            f"{row['comparison']:<22}{row['use']:<9}{row['variant']:<13}"
            f"{row['tokens_per_second']:>11,.0f}{row['ratio']:>8.2f}"
        )
    return "\n".join(lines)
