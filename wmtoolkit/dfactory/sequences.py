"""Trajectories as dFactory reads them: sequences of ids of one length, and where the world's tokens lie in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wmtoolkit.world.tokenizer import ATTRIBUTES, BLOCK, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, Trajectory
from wmtoolkit.world.vocabulary import TextVocabulary

_TOKENIZER = WorldTokenizer()


def sequences(trajectory: Trajectory, text: TextVocabulary, length: int) -> Iterator[dict[str, Any]]:
    """A trajectory as sequences ``[mission][frame][frame]...`` of exactly ``length`` tokens of a text model.

    One that is too long is cut; each part begins with the last frame of the part before, which is given and not asked.

    Yields:
        dFactory's ``input_ids`` (length,) and ``prompt_lengths``, the tokens that are never masked; and
        ``first_frame``, the number of frames before the part.
    """
    size = text.block_length
    fitting = length // size - 1
    blocks = _TOKENIZER.encode(trajectory)
    mission = text.spelled(blocks[:1])[0]
    frames = np.full((len(blocks) - 1, size), _TOKENIZER.pad)
    frames[:, :BLOCK] = blocks[1:]
    start = 0
    while start == 0 or start < len(frames) - 1:
        ids = np.full(length, text.pad)
        ids[: len(mission)] = text.rows[mission]
        part = frames[start : start + fitting]
        ids[size : size + part.size] = text.rows[part].reshape(-1)
        prompt = size if start == 0 else 2 * size
        yield {"input_ids": ids.tolist(), "prompt_lengths": prompt, "first_frame": start}
        start += fitting - 1


def sequence_count(actions: np.ndarray, block_length: int, length: int) -> int:
    """Number of sequences that ``sequences`` makes of episodes with so many actions each (E,)."""
    stride = length // block_length - 2  # frames that a part has beyond the one it shares
    return int(np.maximum(1, -(-actions // stride)).sum())


def layout_document(text: TextVocabulary, span: int) -> dict[str, Any]:
    """``world_layout.json``: the fields of ``any_order.layout.Layout``."""

    def row(token: int) -> int:
        return int(text.rows[token])

    kinds = {
        "action": _TOKENIZER.actions,
        "outcome": _TOKENIZER.outcomes,
        "direction": _TOKENIZER.directions,
        "cell": _TOKENIZER.cells,
    }
    return {
        "vocab_size": text.size,
        "block_size": text.block_length,
        "pad": text.pad,
        "mask": text.mask,
        "bot": row(_TOKENIZER.behaviours.start + BEHAVIOURS.index("bot")),
        "success": row(_TOKENIZER.outcomes.start + Outcome.SUCCESS),
        "kinds": {name: [row(kind.start), row(kind.stop - 1) + 1] for name, kind in kinds.items()},
        "attributes": list(ATTRIBUTES),
        "span": span,
    }
