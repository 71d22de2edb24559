"""What the network reads: flat sequences of tokens, each with the features that place it in the trajectory.

A sequence is ``[mission][memory][frames...]``, and in block-causal training ``[frames again, with masks]`` behind.
Everything here is computed from what is visible: a hidden action or cell cannot leak through a coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from wmtoolkit.world import geometry, grid
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import (
    ACTION,
    ATTRIBUTES,
    BEHAVIOUR,
    BLOCK,
    DIRECTION,
    FIRST_CELL,
    FIRST_WORD,
    FRONT_SLOT,
    WorldTokenizer,
)

SLOTS = 2 * BLOCK + 1
"""Slots told apart: those of the mission block, those of a step's block, and a remembered cell."""
UNKNOWN_ACTION = len(grid.ACTIONS) + 1
NO_ACTION = UNKNOWN_ACTION + 1
ACTION_FEATURES = NO_ACTION + 1
"""Action feature of a token: 0-6, 7 = BOS, unknown, none."""
_MEMORY_SLOT = 2 * BLOCK
_TOKENIZER = WorldTokenizer()


@dataclass
class Tokens:
    """B sequences of S tokens; every field but ``words`` is (B, S).

    Attributes:
        ids: int64 token ids.
        slot: int64 place in its block, 0-104.
        action: int64 feature of the action that led to the token's frame.
        time: int64, 0 for the mission and t+1 for the frame after t actions.
        x, y: int64 coordinates, of the world with egomotion and of the view without.
        known: bool, False where the way to the token's frame is hidden.
        expected: int64 code of what memory expects of a hidden cell (``expectation.CODES``), 0 for nothing.
        valid: bool, False for padding, which nothing attends to.
        words: int64 (B, W) mission, which every token behind it may read (``mission_features``), hidden words hidden:
            the same array as the ``ids`` of ``mission_tokens``; None for tokens that are to be joined to a mission.
    """

    ids: np.ndarray
    slot: np.ndarray
    action: np.ndarray
    time: np.ndarray
    x: np.ndarray
    y: np.ndarray
    known: np.ndarray
    expected: np.ndarray
    valid: np.ndarray
    words: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Tokens in a sequence S."""
        return self.ids.shape[1]

    def tensors(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """The fields as long tensors on a device; missions as blocks of one width, so that lanes add up alike."""
        arrays = {name: getattr(self, name) for name in EACH}
        if self.words is not None:
            wider = ((0, 0), (0, max(0, BLOCK - self.words.shape[1])))
            arrays["words"] = np.pad(self.words, wider, constant_values=_TOKENIZER.pad)
        return {name: torch.from_numpy(array.astype(np.int64)).to(device) for name, array in arrays.items()}

    def younger(self, steps: np.ndarray) -> Tokens:
        """The same so many steps (B,) earlier, but none before the first frame; what has no time stays so."""
        if not steps.any():
            return self
        return replace(self, time=np.where(self.time > 0, np.maximum(self.time - steps[:, None], 1), self.time))

    def turned(self, start: np.ndarray) -> Tokens:
        """The same with x and y turned so that heading ``start`` (B,), 0-3, runs along x."""
        if not start.any():
            return self
        ahead_x, ahead_y = grid.forward_vector(start).T[..., None]
        return replace(self, x=self.x * ahead_x + self.y * ahead_y, y=self.y * ahead_x - self.x * ahead_y)

    def rows(self, part: slice) -> Tokens:
        """Some of the sequences."""
        words = None if self.words is None else self.words[part]
        return Tokens(**{name: getattr(self, name)[part] for name in EACH}, words=words)

    def columns(self, places: np.ndarray) -> Tokens:
        """Some of the tokens of each sequence."""
        return Tokens(**{name: getattr(self, name)[:, places] for name in EACH}, words=self.words)


EACH = tuple(field.name for field in fields(Tokens) if field.name != "words")
"""Fields of each token."""


def told(tokens: Tokens, world: WorldConfig, start: np.ndarray, time: np.ndarray) -> Tokens:
    """Tokens as the network is told them: in coordinates that begin with heading ``start`` (B,), by the world's clock.

    Args:
        time: (B,) of the first frames, 0 where there is none.
    """
    return tokens.turned(start).younger(world.late(time))


def joined(*parts: Tokens) -> Tokens:
    """Sequences laid end to end; the mission is that of the first."""
    each = {name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in EACH}
    return Tokens(**each, words=parts[0].words)


def mission_tokens(ids: np.ndarray, length: int | None = None) -> Tokens:
    """Mission blocks (B, n), cut to ``length`` tokens (default: what the longest mission needs, in steps of 8)."""
    if length is None:
        used = int((ids != _TOKENIZER.pad).sum(axis=1).max())
        length = min(ids.shape[1], -(-used // 8) * 8)
    ids = ids[:, :length]
    zeros = np.zeros_like(ids)
    return Tokens(
        ids=ids,
        slot=zeros + np.arange(length),
        action=zeros + NO_ACTION,
        time=zeros,
        x=zeros,
        y=zeros,
        known=zeros == 0,
        expected=zeros,
        valid=ids != _TOKENIZER.pad,
        words=ids,
    )


def memory_tokens(ids: np.ndarray, times: np.ndarray, world: np.ndarray) -> Tokens:
    """Remembered cells as ``LastSeen.recall`` gives them: (B, M), (B, M), (B, M, 2)."""
    valid = times >= 0
    return Tokens(
        ids=np.where(valid, ids, _TOKENIZER.pad),
        slot=np.full_like(ids, _MEMORY_SLOT),
        action=np.full_like(ids, NO_ACTION),
        time=np.where(valid, times, 0),
        x=np.where(valid, world[..., 0], 0),
        y=np.where(valid, world[..., 1], 0),
        known=np.ones(ids.shape, bool),
        expected=np.zeros_like(ids),
        valid=valid,
    )


def frame_tokens(
    ids: np.ndarray,
    time: np.ndarray,
    position: np.ndarray | None = None,
    heading: np.ndarray | None = None,
    known: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    expected: np.ndarray | None = None,
) -> Tokens:
    """Blocks of time steps.

    Args:
        ids: (B, N, 52).
        time: (B, N).
        position, heading: (B, N, 2), (B, N) pose of the agent; None for coordinates of the view.
        known: (B, N) bool, whether the pose is certain (default True).
        valid: (B, N) bool, False for frames that are not there (default True).
        expected: (B, N, 52) what memory expects where cells are hidden (default: nothing).
    """
    batch, count, _ = ids.shape
    if valid is None:
        valid = np.ones((batch, count), bool)
    action = ids[..., ACTION] - _TOKENIZER.actions.start
    action = np.where(ids[..., ACTION] == _TOKENIZER.mask, UNKNOWN_ACTION, action)
    action = np.where(valid, action, NO_ACTION)
    if position is None or heading is None:
        place = np.broadcast_to(_VIEW, (batch, count, BLOCK, 2))
    else:
        place = position[:, :, None, :] + _OFFSETS[heading]

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, BLOCK, axis=1)

    return Tokens(
        ids=np.where(valid[..., None], ids, _TOKENIZER.pad).reshape(batch, -1),
        slot=np.broadcast_to(BLOCK + np.arange(BLOCK), ids.shape).reshape(batch, -1),
        action=spread(action),
        time=spread(time),
        x=place[..., 0].reshape(batch, -1),
        y=place[..., 1].reshape(batch, -1),
        known=spread(np.ones((batch, count), bool) if known is None else known),
        expected=(np.zeros(ids.shape, np.int64) if expected is None else expected).reshape(batch, -1),
        valid=spread(valid),
    )


def action_tokens(
    time: np.ndarray, position: np.ndarray | None, heading: np.ndarray | None, valid: np.ndarray
) -> Tokens:
    """Lone masked actions: the question what to do next.

    A step of which nothing is known needs no other token than the one asked for.

    Args:
        time: (B, N) of the frames that the actions lead to.
        position, heading: (B, N, 2), (B, N) pose before the action; None for coordinates of the view.
        valid: (B, N) bool.
    """
    zeros = np.zeros_like(time)
    place = np.broadcast_to(grid.AGENT_CELL, (*time.shape, 2)) if position is None or heading is None else position
    return Tokens(
        ids=np.where(valid, _TOKENIZER.mask, _TOKENIZER.pad),
        slot=zeros + BLOCK + ACTION,
        action=zeros + UNKNOWN_ACTION,
        time=time,
        x=place[..., 0],
        y=place[..., 1],
        known=zeros != 0,
        expected=zeros,
        valid=valid,
    )


def reckon(
    ids: np.ndarray, previous: np.ndarray, position: np.ndarray, heading: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pose of the frame that follows a frame, from visible tokens alone.

    Args:
        ids: (..., 52) the new block, perhaps with masks: only its action and heading are looked at.
        previous: (..., 52) the block before it, perhaps with masks.
        position, heading: (..., 2), (...) pose of the previous block.

    Returns:
        position, heading, known (...): where the action is hidden, or it is FORWARD and what stood in front is, the
        previous pose is returned with known = False. A visible heading tells a turn even where the action is hidden.
    """
    action = ids[..., ACTION] - _TOKENIZER.actions.start
    hidden = ids[..., ACTION] == _TOKENIZER.mask
    front = _TOKENIZER.cell_attributes(previous[..., FRONT_SLOT])
    blind = (action == grid.FORWARD) & (front == ATTRIBUTES)[..., [0, 2]].any(-1)
    shown = ids[..., DIRECTION] - _TOKENIZER.directions.start
    told = hidden & (ids[..., DIRECTION] != _TOKENIZER.mask) & ((shown - heading) % 2 == 1)
    known = ~hidden & ~blind
    front = np.where(known[..., None], front, grid.WALL)
    moved = position + geometry.displacement(heading, action, front) * known[..., None]
    return moved, np.select([known, told], [geometry.turned(heading, action), shown], heading), known | told


_VIEW = np.full((BLOCK, 2), grid.AGENT_CELL, dtype=np.int64)
_VIEW[FIRST_CELL:] = np.stack(np.divmod(np.arange(grid.CELLS), grid.VIEW), axis=-1)
_OFFSETS = np.zeros((len(grid.DIRECTIONS), BLOCK, 2), dtype=np.int64)
_OFFSETS[:, FIRST_CELL:] = grid.world_offsets(np.arange(len(grid.DIRECTIONS))).reshape(-1, grid.CELLS, 2)

assert (BEHAVIOUR, FIRST_WORD) == (0, 1)
