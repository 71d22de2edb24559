"""Where the tokens of a trajectory lie: in the vocabulary of the model, and in a sequence.

A sequence is a row of blocks of equal length: the mission, then one block a time step,
``[action that led here, outcome, direction, 49 cells, padding]``. A cell is one token for object, colour and state,
each of which may be "?"; a cell of which anything is hidden is a target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

IGNORED = -100
"""Label of a token that is no target."""
ACTION, OUTCOME, DIRECTION, FIRST_CELL = 0, 1, 2, 3
"""Slots of a time step's block."""
SLOTS = 52
KINDS = ("action", "outcome", "direction", "cell")


@dataclass(frozen=True)
class Layout:
    """Where the world's tokens lie in the vocabulary of the model; read from ``world_layout.json``.

    Attributes:
        vocab_size: rows of the grown tables; block_size: tokens of a block.
        pad, mask, bot, success: ids.
        kinds: first and last-but-one id of the actions, outcomes, directions and cells.
        attributes: number of values of a cell's object, colour and state; the number itself stands for "?".
        span: frames a goal may lie ahead.
    """

    vocab_size: int
    block_size: int
    pad: int
    mask: int
    bot: int
    success: int
    kinds: Mapping[str, tuple[int, int]]
    attributes: tuple[int, int, int]
    span: int

    @classmethod
    def read(cls, path: str) -> Layout:
        """Raises ValueError if the file is not such a layout."""
        try:
            with open(path, encoding="utf-8") as file:
                fields = json.load(file)
            kinds = {name: tuple(fields["kinds"][name]) for name in KINDS}
            return cls(**{**fields, "kinds": kinds, "attributes": tuple(fields["attributes"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"data.layout_path {path} is no world_layout.json ({error}); export again") from None

    @property
    def first(self) -> int:
        return self.kinds["action"][0]

    def parts(self, cells: np.ndarray) -> np.ndarray:
        """Cell ids (...) -> object, colour, state (..., 3)."""
        _, colors, states = (size + 1 for size in self.attributes)
        flat = cells - self.kinds["cell"][0]
        return np.stack([flat // (colors * states), flat // states % colors, flat % states], axis=-1)

    def cells(self, parts: np.ndarray) -> np.ndarray:
        """The inverse of ``parts``."""
        _, colors, states = (size + 1 for size in self.attributes)
        return self.kinds["cell"][0] + (parts[..., 0] * colors + parts[..., 1]) * states + parts[..., 2]

    def choices(self) -> torch.Tensor:
        """Which of the world's tokens each place may hold: bool (rows, tokens).

        Rows: one each for action, outcome and direction, then one for each cell id, with the fully specified cells
        that agree with what is visible of it. Columns: ids from ``first`` on.
        """
        low, high = self.kinds["cell"]
        size = high - self.first
        plain = np.zeros((3, size), bool)
        for row, name in enumerate(KINDS[:3]):
            plain[row, self.kinds[name][0] - self.first : self.kinds[name][1] - self.first] = True
        given = self.parts(np.arange(low, high))
        hidden = given == np.array(self.attributes)
        agreeing = ((given[:, None] == given[None]) | hidden[:, None]).all(-1) & ~hidden.any(-1)[None]
        cells = np.concatenate([np.zeros((high - low, low - self.first), bool), agreeing], axis=1)
        return torch.from_numpy(np.concatenate([plain, cells]))
