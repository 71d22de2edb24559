"""Likelihood of steps: the any-order bound, and beside it the chain rule in one fixed order, which is exact."""

from __future__ import annotations

import numpy as np
import torch

from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.prediction import asked_as_bot
from wmtoolkit.evaluation.transitions import all_steps
from wmtoolkit.world import masks, windows
from wmtoolkit.world.likelihood import target_log_probs
from wmtoolkit.world.masks import Masks
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import ACTION, BLOCK, FIRST_CELL, OUTCOME

_CHUNK = 52


@torch.inference_mode()
def _nll(
    model: AnyOrderWorldModel, frames: windows.Frames, target: np.ndarray, drawn: Masks, *, as_bot: bool = False
) -> np.ndarray:
    """(N, 52) nats of the hidden tokens of frames ``target`` (N,) given their past; drawn: masks (N, 1).

    Args:
        as_bot: do not tell who acted, ask as if the bot did.
    """
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    found = np.zeros((len(target), BLOCK))
    for low in range(0, len(target), _CHUNK):
        part = slice(low, low + _CHUNK)
        window = windows.cut(frames, episode[part], step[part], 2, model.network.world)
        window = asked_as_bot(window) if as_bot else window
        chosen = Masks(drawn.slots[part], drawn.cells[part], drawn.strategy[part])
        found[part] = -target_log_probs(model.network, window, chosen)
    return found


def any_order_bound(
    model: AnyOrderWorldModel,
    frames: windows.Frames,
    target: np.ndarray,
    samples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Upper bound on -log p of frames ``target`` (N,) given their past, (N, 52) nats by token.

    The mean over ``samples`` draws of a random order and a place in it: l of the L = 52 tokens are hidden, which weigh
    L/l each (Uria et al. 2014, arXiv:1310.1757).
    """
    total = np.zeros((len(target), BLOCK))
    for _ in range(samples):
        drawn = masks.draw({"cell": 1.0}, (len(target), 1), rng)
        weight = BLOCK / drawn.targets[:, 0].sum(-1, keepdims=True)
        total += _nll(model, frames, target, drawn) * weight
    return total / samples


def chain(
    model: AnyOrderWorldModel,
    frames: windows.Frames,
    target: np.ndarray,
    *,
    first: int = ACTION,
    tokens: int = 1,
    as_bot: bool = False,
) -> np.ndarray:
    """-log p of frames ``target`` (N,) given their past by the chain rule, (N, 52) nats by token.

    The order is that of the slots: action, outcome, heading, then the cells column by column. Each token is asked with
    those before it visible and the rest hidden.

    Args:
        first: slot that the chain begins with; those before it are given and cost nothing.
        tokens: so many are asked at once, which costs as many times fewer passes; 1 is the chain rule itself, 52 fills
            all at once.
        as_bot: do not tell who acted, ask as if the bot did.
    """
    order = np.arange(BLOCK)
    begins = np.arange(first, BLOCK, tokens)
    visible = order[None, :] < begins[:, None]  # row k: what comes before the k-th tokens asked
    slots = np.tile(visible[:, :FIRST_CELL], (len(target), 1))[:, None]
    cells = np.tile(visible[:, FIRST_CELL:], (len(target), 1))[:, None, :, None]
    cells = np.broadcast_to(cells, (*cells.shape[:3], 3))
    drawn = Masks(slots, cells, np.zeros(slots.shape[:2], np.int64))
    nll = _nll(model, frames, np.repeat(target, len(begins)), drawn, as_bot=as_bot)
    asked = order[first:]
    found = np.zeros((len(target), BLOCK))
    found[:, first:] = nll.reshape(len(target), len(begins), BLOCK)[:, (asked - first) // tokens, asked]
    return found


def forward_chain(model: AnyOrderWorldModel, frames: windows.Frames, target: np.ndarray, tokens: int = 1) -> np.ndarray:
    """-log p of frames ``target`` (N,) given past and action, (N, 52) nats by token: ``chain_nll`` is their sum.

    ``tokens``: see ``chain``.
    """
    return chain(model, frames, target, first=OUTCOME, tokens=tokens, as_bot=True)


def bound_tallies(
    model: AnyOrderWorldModel,
    frames: windows.Frames,
    steps: int,
    samples: int,
    chains: int,
    rng: np.random.Generator,
) -> dict[str, Tally]:
    """``nll_per_step`` and its parts on ``steps`` steps, and ``chain_nll_per_step`` on ``chains`` of them.

    ``dynamics`` is all but the action. Nats a step; divide by 52 for nats a token.
    """
    target = rng.permutation(all_steps(frames))[:steps]
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    found = {}
    few = target[:chains]
    for prefix, nll in (
        ("", any_order_bound(model, frames, target, samples, rng)),
        ("chain_", chain(model, frames, few)),
    ):
        owner = episode[: len(nll)]
        found[f"{prefix}nll_per_step"] = Tally.of("mean", nll.sum(-1), owner)
        found[f"{prefix}dynamics_per_step"] = Tally.of("mean", nll[:, 1:].sum(-1), owner)
    return found
