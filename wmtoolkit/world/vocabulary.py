"""The world's tokens in the vocabulary of a text LLaDA2.

A text model keeps its rows: missions are spelled in the tokens of its own tokenizer, what is hidden is its own mask.
The world's other tokens get new rows behind its last one (``growth.grow`` writes them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import ATTRIBUTES, BLOCK, FIRST_WORD, WorldTokenizer

_TOKENIZER = WorldTokenizer()


@dataclass(frozen=True)
class TextVocabulary:
    """Which row of a grown text model each token of the world has.

    Tokens are those of ``WorldTokenizer`` and, behind them, one for each piece of the words that the text model's
    tokenizer cuts in pieces.

    Attributes:
        size: rows of the grown tables; first: the first of the new ones.
        pad, mask: ids of the text model.
        words: for each word of ``grid.WORDS`` the ids of the text model that spell it.
        block_length: positions from one time step to the next, a multiple of the text model's own block size.
    """

    size: int
    first: int
    pad: int
    mask: int
    words: tuple[tuple[int, ...], ...]
    block_length: int = BLOCK

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(tuple(word) for word in self.words))
        if len(self.words) != len(grid.WORDS) or not all(self.words):
            raise ValueError(f"the text vocabulary must spell each of {len(grid.WORDS)} words")
        if self.block_length < BLOCK:
            raise ValueError(f"block_length is {self.block_length}; a time step has {BLOCK} tokens")
        if not self.first + len(self.new) <= self.size:
            raise ValueError(f"{len(self.new)} new rows from {self.first} on do not fit in a table of {self.size}")

    @cached_property
    def new(self) -> np.ndarray:
        """(n,) tokens whose rows are new, in the order of their rows."""
        old = {_TOKENIZER.pad, _TOKENIZER.mask, *_TOKENIZER.words}
        return np.array([token for token in range(_TOKENIZER.vocab_size) if token not in old])

    @cached_property
    def rows(self) -> np.ndarray:
        """(tokens,) int64 row of each token; a word of several pieces counts as its first where it is predicted."""
        rows = np.zeros(_TOKENIZER.vocab_size, np.int64)
        rows[_TOKENIZER.pad], rows[_TOKENIZER.mask] = self.pad, self.mask
        rows[_TOKENIZER.words.start : _TOKENIZER.words.stop] = [word[0] for word in self.words]
        rows[self.new] = self.first + np.arange(len(self.new))
        pieces = [piece for word in self.words if len(word) > 1 for piece in word]
        return np.append(rows, np.array(pieces, np.int64))

    @cached_property
    def _spelling(self) -> list[list[int]]:
        """For each word the tokens that stand for it."""
        spelling, piece = [], _TOKENIZER.vocab_size
        for token, word in zip(_TOKENIZER.words, self.words, strict=True):
            whole = len(word) == 1
            spelling.append([token] if whole else list(range(piece, piece + len(word))))
            piece += 0 if whole else len(word)
        return spelling

    def spelled(self, missions: np.ndarray) -> np.ndarray:
        """Mission blocks (B, 52) with words cut into their pieces: (B, n), n at least 52."""
        if all(len(word) == 1 for word in self.words):
            return missions
        lanes = []
        for block in missions:
            lane = list(block[:FIRST_WORD])
            for token in block[FIRST_WORD:][block[FIRST_WORD:] != _TOKENIZER.pad]:
                lane += self._spelling[token - _TOKENIZER.words.start] if token in _TOKENIZER.words else [token]
            lanes.append(lane)
        longest = max(BLOCK, *map(len, lanes))
        if longest > self.block_length:
            raise UserError(
                f"a mission takes {longest} tokens of the text model, more than a block's {self.block_length}"
            )
        return np.array([lane + [_TOKENIZER.pad] * (longest - len(lane)) for lane in lanes])


@dataclass(frozen=True, kw_only=True)
class TextWorldConfig(WorldConfig):
    """The front-end's options over a text LLaDA2; ``text`` says where the tokens lie in its vocabulary."""

    text: TextVocabulary

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compositional:
            raise ValueError("world: compositional must be false over a text LLaDA2: each token has a row of its own")
        if self.mission_features:
            raise ValueError("world: mission_features must be false over a text LLaDA2: missions are in its own words")

    @property
    def block_length(self) -> int:
        return self.text.block_length

    def spelled(self, missions: np.ndarray) -> np.ndarray:
        return self.text.spelled(missions)


def world_config(options: Mapping[str, Any]) -> WorldConfig:
    """The options from plain values, as ``world.json`` holds them.

    Raises:
        ValueError, TypeError: for an unknown option or a value that cannot be.
    """
    options = dict(options)
    text = options.pop("text", None)
    unknown = set(options) - {field.name for field in fields(WorldConfig)}
    if unknown:
        raise ValueError(f"unknown world options {sorted(unknown)}")
    return WorldConfig(**options) if text is None else TextWorldConfig(**options, text=TextVocabulary(**text))


def describing_words() -> dict[int, list[str | None]]:
    """For each token that needs a new row, words that say what it is; None stands for what is hidden.

    The row of a token starts as the mean of the rows of its words, so that a red ball starts near *red* and *ball*.
    """
    words: dict[int, list[str | None]] = {}
    for kind in (_TOKENIZER.behaviours, _TOKENIZER.outcomes, _TOKENIZER.directions):
        words |= {token: [*_TOKENIZER.names[token].lower().split()] for token in kind}
    for token, text in zip(_TOKENIZER.actions, (*_ACTIONS, "begin"), strict=True):
        words[token] = [*text.split()]
    for token, cell in zip(_TOKENIZER.cells, _TOKENIZER.cell_attributes(np.array(_TOKENIZER.cells)), strict=True):
        words[token] = _cell_words(*cell.tolist())
    return words


_ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop down", "toggle it", "do nothing")


def _cell_words(thing: int, color: int, state: int) -> list[str | None]:
    """Object, colour and state; what MiniGrid leaves at 0 because it means nothing is left out."""
    colored = color > 0 or thing not in (grid.UNSEEN, grid.EMPTY)
    stateful = state > 0 or thing == grid.DOOR
    tables = ((grid.COLORS, color, colored), (grid.OBJECTS, thing, True), (grid.STATES, state, stateful))
    words: list[str | None] = []
    for (names, value, said), size in zip(tables, (ATTRIBUTES[1], ATTRIBUTES[0], ATTRIBUTES[2]), strict=True):
        if value == size:
            words.append(None)
        elif said:
            words += names[value].split()
    return words
