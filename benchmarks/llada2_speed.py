"""Speed of the LLaDA2 network: implementations of experts and attention, batch sizes, decoding and its cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from wmtoolkit.benchmarks.speed import Comparison
from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.training.config import load_config

EXPERTS = ("sorted_mm", "grouped_mm", "eager")
SMALL = "batched_mm"
"""Copies an expert's weights for each token: hopeless for more than a few."""
ATTENTION = ("sdpa", "eager")
MANY_EXPERTS = {"num_experts": 64, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4}
MASK = 511
VOCABULARY = {"vocab_size": MASK + 1, "pad_token_id": 0}


def comparisons(*, quick: bool = False, seed: int = 0) -> Iterator[Comparison]:
    """What is compared, with random weights and random tokens."""
    model = _model(seed)
    rows, length, sizes = (2, 32, (1, 2)) if quick else (8, 256, (1, 4, 16))
    ids = torch.randint(1, MASK, (rows, length), generator=torch.Generator().manual_seed(seed))
    few = ids[:1, :64]

    def experts(ids: torch.Tensor, *names: str, of: LLaDA2MoeForCausalLM = model, **options: Any) -> dict[str, Any]:
        return {name: _network(of, ids, experts=name, **options) for name in names}

    def attention(**options: Any) -> dict[str, Any]:
        return {name: _network(model, ids, attention=name, **options) for name in ATTENTION}

    yield Comparison("experts", "tokens", experts(ids, *EXPERTS))
    yield Comparison("experts, bfloat16", "tokens", experts(ids, *EXPERTS, autocast=True))
    yield Comparison(f"experts, {few.numel()} tokens", "tokens", experts(few, *EXPERTS, SMALL))
    many = _model(seed, num_hidden_layers=1, first_k_dense_replace=0, **MANY_EXPERTS)
    yield Comparison("8 of 64 experts", "tokens", experts(ids, *EXPERTS, of=many))
    yield Comparison("attention", "tokens", attention())
    yield Comparison("attention, bfloat16", "tokens", attention(autocast=True))
    batches = {f"{size} rows": ids[:1].repeat(size, 1) for size in sizes}
    yield Comparison("batch", "tokens", {name: _network(model, batch) for name, batch in batches.items()})
    cached = {name: _decoding(model, ids[:4], name == "cached") for name in ("recomputed", "cached")}
    yield Comparison("decoding", "tokens", cached)
    yield Comparison("decoding, batch", "tokens", {name: _decoding(model, b, True) for name, b in batches.items()})


def _model(seed: int, **changes: Any) -> LLaDA2MoeForCausalLM:
    """The compact world model's network with a vocabulary of its own."""
    config = load_config("compact").model.llada2()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LLaDA2MoeForCausalLM(LLaDA2MoeConfig(**{**config.to_dict(), **VOCABULARY, **changes}))


def _network(
    model: LLaDA2MoeForCausalLM,
    ids: torch.Tensor,
    *,
    experts: str = EXPERTS[0],
    attention: str = ATTENTION[0],
    autocast: bool = False,
) -> dict[str, tuple[int, Callable[[], Any]]]:
    """A forward pass, and one with loss and gradients, over the same tokens."""

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


def _decoding(
    model: LLaDA2MoeForCausalLM, prompts: torch.Tensor, cached: bool
) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Two blocks of 32 after the prompt, eight passes a block."""

    def decode() -> None:
        model.set_experts_implementation(EXPERTS[0])
        model.set_attn_implementation(ATTENTION[0])
        model.generate(
            prompts, gen_length=64, block_length=32, steps=8, threshold=2.0, mask_id=MASK, eos_id=-1, use_cache=cached
        )

    return {"decode": (64 * len(prompts), decode)}
