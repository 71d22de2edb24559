"""Filling in rounds draws what the model says, however many rounds there are."""

import numpy as np
import torch

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.world.decoding import block_log_probs, fill
from wmtoolkit.world.tokenizer import BLOCK, FIRST_CELL, WorldTokenizer

TOKENIZER, LANES = WorldTokenizer(), 2000


def test_rounds_do_not_favour_likely_tokens(world_model: AnyOrderWorldModel) -> None:
    """Where tokens know nothing of each other, rounds must not change how often each is drawn."""
    network = world_model.network
    states = torch.randn(1, BLOCK, 32, generator=torch.Generator().manual_seed(0)).expand(LANES, -1, -1)
    ids = np.full((LANES, BLOCK), TOKENIZER.mask)
    ids[:, FIRST_CELL:] = TOKENIZER.masked_cell
    with torch.inference_mode():
        scored = block_log_probs(network, states[:1], ids[:1])
        generator = torch.Generator().manual_seed(1)
        filled = fill(network, ids, lambda _: states, temperature=1.0, steps=8, generator=generator)
    for slot, (first, log_probs) in enumerate(scored[:-1]):
        expected = log_probs[0, 0].exp().numpy()
        drawn = np.bincount(filled.ids[:, slot] - first, minlength=len(expected)) / LANES
        assert (np.abs(drawn - expected) < 4.5 * np.sqrt(expected * (1 - expected) / LANES) + 1e-3).all()
    cells = scored[-1][1][0].exp().numpy()
    likeliest = network.completions.numpy()[cells.argmax(-1)]
    share, expected = (filled.ids[:, FIRST_CELL:] == likeliest).mean(), cells.max(-1).mean()
    assert abs(share - expected) < 0.01
