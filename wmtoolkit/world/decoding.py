"""Filling the masked tokens of blocks: all at once, or in rounds with the most confident first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import ACTION, DIRECTION, FIRST_CELL, OUTCOME, WorldTokenizer

_TOKENIZER = WorldTokenizer()


@dataclass
class Filled:
    """Blocks without masks.

    Attributes:
        ids: (B, ..., 52) int64.
        log_probs: (B, ..., 52) float32, log-probability of each token when it was filled; 0 where it was visible.
        outcomes: (B, ..., 4) float32, P(outcome) from the first round.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    outcomes: np.ndarray


_KINDS = (
    (ACTION, range(_TOKENIZER.actions.start, _TOKENIZER.bos)),
    (OUTCOME, _TOKENIZER.outcomes),
    (DIRECTION, _TOKENIZER.directions),
)
"""Which range of ids the slots before the cells draw their tokens from."""


def block_log_probs(network: WorldNetwork, hidden: torch.Tensor, ids: np.ndarray) -> list[tuple[int, torch.Tensor]]:
    """Log-probabilities over what each slot of step blocks may hold.

    Args:
        hidden: (n, 52, H); ids: (n, 52) the blocks as given to the network.

    Returns:
        (first id, (n, slots, choices) float32) for action, outcome and direction; and for the cells
        (-1, (n, 49, 264)) over ``network.completions``.
    """
    scored: list[tuple[int, torch.Tensor]] = []
    table = network.output_table()
    for slot, kind in _KINDS:
        scored.append((kind.start, network.logits(hidden[:, slot : slot + 1], kind, table).log_softmax(-1)))
    given = torch.as_tensor(ids[:, FIRST_CELL:], device=hidden.device)
    masked = torch.where(given >= _TOKENIZER.cells.start, given, _TOKENIZER.masked_cell)
    cells = network.cell_logits(hidden[:, FIRST_CELL:].flatten(0, 1), masked.flatten(), table)
    scored.append((-1, cells.log_softmax(-1).view(*given.shape, -1)))
    return scored


def true_log_probs(network: WorldNetwork, scored: list[tuple[int, torch.Tensor]], ids: np.ndarray) -> np.ndarray:
    """Log-probabilities (n, 51) of outcome, heading and cells of true blocks (n, 52), from ``block_log_probs``."""
    wanted = torch.as_tensor(ids, device=scored[0][1].device)
    parts = []
    for slot in (OUTCOME, DIRECTION):
        first, log_probs = scored[slot]
        parts.append(log_probs[:, 0].gather(-1, wanted[:, slot : slot + 1] - first))
    index = network.completion_index(wanted[:, FIRST_CELL:])
    parts.append(scored[-1][1].gather(-1, index[..., None])[..., 0])
    return torch.cat(parts, dim=-1).numpy(force=True)


def fill(
    network: WorldNetwork,
    ids: np.ndarray,
    hidden: Callable[[np.ndarray], torch.Tensor],
    *,
    temperature: float = 0.0,
    steps: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Filled:
    """Fill the masks of B step blocks.

    Args:
        ids: (B, 52) with masks.
        hidden: gives the hidden states (B, 52, H) of such blocks: one forward pass.
        temperature, steps, generator: as in ``RolloutState.step``.
    """
    ids = ids.copy()
    log_probs = np.zeros(ids.shape, np.float32)
    outcomes: np.ndarray | None = None
    for round_ in range(steps):
        masked = _TOKENIZER.is_masked(ids)
        if not masked.any():
            break
        scored = block_log_probs(network, hidden(ids), ids)
        if outcomes is None:
            outcomes = scored[OUTCOME][1][:, 0].exp().numpy(force=True)
        tokens, chosen, surest = choose(network, scored, temperature, generator)
        commit = first_share(masked, surest, steps - round_)
        ids[commit], log_probs[commit] = tokens[commit], chosen[commit]
    assert outcomes is not None
    return Filled(ids, log_probs, outcomes)


def choose(
    network: WorldNetwork,
    scored: list[tuple[int, torch.Tensor]],
    temperature: float,
    generator: torch.Generator | Sequence[torch.Generator] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, most likely or drawn, their log-probabilities, and those of the likeliest tokens there, each of the shape
    of the slots: (B, ..., 52).

    The last say how sure the model is of a slot whatever was drawn, and so which are decided on first: were it the
    drawn tokens' own, an unlikely one would be put off and drawn again until it is a likely one.
    """
    tokens, chosen, surest = [], [], []
    for first, log_probs in scored:
        if temperature > 0:
            # Gumbel-max: argmax of log p / T + Gumbel noise is a draw from p^(1/T).
            best = (log_probs / temperature + _gumbel(log_probs.shape, generator).to(log_probs.device)).argmax(-1)
        else:
            best = log_probs.argmax(-1)
        chosen.append(log_probs.gather(-1, best[..., None])[..., 0])
        surest.append(log_probs.amax(-1))
        tokens.append(network.completions.to(best.device)[best] if first < 0 else best + first)

    def joined(parts: list[torch.Tensor]) -> np.ndarray:
        return torch.cat(parts, dim=-1).numpy(force=True)

    return joined(tokens), joined(chosen), joined(surest)


def first_share(left: np.ndarray, surest: np.ndarray, rounds: int) -> np.ndarray:
    """(B, n) bool, the surest of what is left (B, n), so many that as much is left for each other round."""
    quota = np.ceil(left.sum(axis=1) / rounds).astype(int)
    rank = np.where(left, -surest, np.inf).argsort(axis=1).argsort(axis=1)
    return left & (rank < quota[:, None])


def _gumbel(shape: torch.Size, generator: torch.Generator | Sequence[torch.Generator] | None) -> torch.Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        uniform = torch.rand(shape, generator=generator)
    else:
        uniform = torch.stack([torch.rand(shape[1:], generator=lane) for lane in generator])
    return -(-uniform.clamp(min=1e-20).log()).log()
