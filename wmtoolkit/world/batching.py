"""Batches for the network: windows with masks, laid out for block-causal or for full attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from wmtoolkit.world import geometry, masks, windows
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.expectation import expected_view, note_blocks
from wmtoolkit.world.masks import Masks
from wmtoolkit.world.tokenizer import ACTION, BLOCK, OUTCOME, WorldTokenizer
from wmtoolkit.world.tokens import Tokens, action_tokens, frame_tokens, joined, reckon, told


@dataclass
class Batch:
    """One step's work.

    Attributes:
        tokens: what the network reads, (B, S).
        allowed: (S, S) bool, which token may attend to which, padding aside.
        first: index of the first token of the supervised blocks, which lie end to end.
        given: (B, n, 52) supervised blocks with masks; target: the same without.
        masks: what was hidden; valid: (B, n) bool, which blocks count.
        bot: (B, n) bool, the actor was the bot.
        actions_asked: (B, n) bool, which of the lone actions behind the blocks are asked for; None if there are none.
        mission_target: (B, W) ids of the hidden words of the mission (the first tokens), -1 elsewhere; None if all
            are visible.
        outcomes_asked: (B, n) bool, which of the lone outcomes behind the lone actions are asked for; None if there
            are none.
    """

    tokens: Tokens
    allowed: np.ndarray
    first: int
    given: np.ndarray
    target: np.ndarray
    masks: Masks
    valid: np.ndarray
    bot: np.ndarray
    actions_asked: np.ndarray | None
    mission_target: np.ndarray | None
    outcomes_asked: np.ndarray | None = None

    def attention(self, device: torch.device | str) -> torch.Tensor:
        """(B, 1, S, S) bool, True = attend; put together on the device: it is by far the largest part of a batch."""
        allowed, valid = (torch.from_numpy(part).to(device) for part in (self.allowed, self.tokens.valid))
        return (allowed[None] & valid[:, None, :])[:, None]

    def rows(self, part: slice) -> Batch:
        """Some of the windows."""

        def cut(value: np.ndarray | None) -> np.ndarray | None:
            return None if value is None else value[part]

        return replace(
            self,
            tokens=self.tokens.rows(part),
            given=self.given[part],
            target=self.target[part],
            masks=Masks(self.masks.slots[part], self.masks.cells[part], self.masks.strategy[part]),
            valid=self.valid[part],
            bot=self.bot[part],
            actions_asked=cut(self.actions_asked),
            mission_target=cut(self.mission_target),
            outcomes_asked=cut(self.outcomes_asked),
        )


def block_causal_batch(
    window: windows.Window, drawn: Masks, bot: np.ndarray, world: WorldConfig, lone_outcomes: bool = False
) -> Batch:
    """``[mission][memory][clean frames 0..c-1][noisy frames 1..c][actions 1..c]``: the 2L layout with a shared prefix.

    The lone actions at the end ask for the policy at every step of the window, at the price of one token each. They
    alone see who acts. ``lone_outcomes`` behind them ask in the same way how each step ends, its action given.
    """
    past, future = slice(0, -1), slice(1, None)
    given = masks.hide(window.ids[:, future], drawn)
    clean_pose = noisy_pose = expected = None
    before: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if world.egomotion:
        # A frame without a past is reckoned from the origin and the start; its own heading must not give itself away.
        orphan = ~window.valid[:, past]
        position = np.where(orphan[..., None], 0, window.position[:, past])
        heading = np.where(orphan, window.start[:, None], window.heading[:, past])

        def reached(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            moved, turned, known = reckon(blocks, window.ids[:, past], position, heading)
            moved = np.where(orphan[..., None], 0, moved)
            return moved, np.where(orphan, window.start[:, None], turned), known & ~orphan

        noisy_pose = reached(given)
        before = (position, heading)
        clean_pose = (position, heading, None)
        if world.expectation and window.seen is not None:
            shown = (window.ids, window.position, window.heading, window.time, window.valid)
            expected = _expected(window.seen, given, noisy_pose, tuple(part[:, past] for part in shown), lag=0)
    time, valid = window.time[:, future], window.valid[:, future]
    context = window.context(world)
    clean = placed_frames(window.ids[:, past], window.time[:, past], clean_pose, window.valid[:, past])
    noisy = placed_frames(given, time, noisy_pose, valid, expected)
    order = np.arange(given.shape[1])
    parts: list[tuple[Tokens, np.ndarray, int | np.ndarray]] = [
        (context, np.full(context.length, -1), windows.context_copy(context)),
        (clean, np.repeat(order, BLOCK), 0),
        (noisy, np.repeat(order + 1, BLOCK), windows.MASKED),
        (action_tokens(time, *before, valid), order + 1, windows.LONE_ACTION),
    ]
    asked = valid & window.valid[:, past]
    if lone_outcomes:
        acted = np.full_like(given, WorldTokenizer.mask)
        acted[..., ACTION] = window.ids[:, future, ACTION]
        steps = placed_frames(acted, time, None if noisy_pose is None else reached(acted), valid)
        parts.append((steps.columns(order * BLOCK + OUTCOME), order + 1, windows.LONE_OUTCOME))
    return Batch(
        tokens=told(joined(*(tokens for tokens, _, _ in parts)), world, window.start, window.time[:, 0]),
        allowed=windows.allowed(*parts),
        first=context.length + clean.length,
        given=given,
        target=window.ids[:, future],
        masks=drawn,
        valid=valid,
        bot=bot[:, future],
        actions_asked=asked,
        mission_target=None,
        outcomes_asked=asked if lone_outcomes else None,
    )


def full_attention_batch(window: windows.Window, drawn: Masks, bot: np.ndarray, world: WorldConfig) -> Batch:
    """``[mission][memory][frames 0..c]``, masks anywhere, everything sees everything."""
    given = masks.hide(window.ids, drawn)
    pose = expected = None
    if world.egomotion:
        pose = reckoned_poses(given, window.position[:, 0], window.heading[:, 0])
        if world.expectation and window.seen is not None:
            expected = expected_frames(window.seen, given, window.time, pose, window.valid)
    context = window.context(world, given[:, 0])
    frames = placed_frames(given, window.time, pose, window.valid, expected)
    tokens = told(joined(context, frames), world, window.start, window.time[:, 0])
    return Batch(
        tokens=tokens,
        allowed=np.ones((tokens.length, tokens.length), bool),
        first=context.length,
        given=given,
        target=window.ids,
        masks=drawn,
        valid=window.valid,
        bot=bot,
        actions_asked=None,
        mission_target=None,
    )


def reckoned_poses(
    given: np.ndarray, position: np.ndarray, heading: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poses (B, n, 2), (B, n), (B, n) of successive blocks with masks, from the pose (B, 2), (B,) of the first.

    The first block's pose is where the past led; once the way is lost, later poses are relative and marked unknown.
    """
    poses = [(position, heading, np.ones(len(given), bool))]
    for index in range(1, given.shape[1]):
        place, turn, known = reckon(given[:, index], given[:, index - 1], *poses[-1][:2])
        poses.append((place, turn, known & poses[-1][2]))
    place, turn, known = (np.stack(parts, axis=1) for parts in zip(*poses, strict=True))
    return place, turn, known


def expected_frames(
    seen: geometry.LastSeen,
    given: np.ndarray,
    time: np.ndarray,
    pose: tuple[np.ndarray, np.ndarray, np.ndarray],
    valid: np.ndarray,
    shown: np.ndarray | None = None,
) -> np.ndarray:
    """What memory expects of successive frames with masks, each remembering what is visible of those before it.

    Args:
        seen: sightings before the first, B lanes; given: (B, n, 52); time, valid: (B, n); pose: ``reckoned_poses``.
        shown: (B, n, 52) the frames as they are remembered, if not with their masks.

    Returns:
        (B, n, 52) codes, see ``expectation.CODES``.
    """
    position, heading, known = pose
    return _expected(seen, given, pose, (given if shown is None else shown, position, heading, time, known & valid))


def _expected(
    seen: geometry.LastSeen,
    given: np.ndarray,
    pose: tuple[np.ndarray, np.ndarray, np.ndarray],
    shown: tuple[np.ndarray, ...],
    lag: int = 1,
) -> np.ndarray:
    """Codes (B, n, 52) of frames (B, n, 52).

    Args:
        shown: blocks, positions, headings, times and which count, of the frames that are remembered on the way: each
            before the frame that is asked for ``lag`` places later.
    """
    seen, views = seen.copy(), []
    for index in range(given.shape[1]):
        previous = None
        if index >= lag:
            lane = np.flatnonzero(shown[-1][:, index - lag])
            note_blocks(seen, lane, *(part[lane, index - lag] for part in shown[:-1]))
            previous = shown[0][:, index - lag]
        views.append(expected_view(seen, previous, given[:, index], *(part[:, index] for part in pose)))
    return np.stack(views, axis=1)


def placed_frames(
    ids: np.ndarray,
    time: np.ndarray,
    pose: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None,
    valid: np.ndarray,
    expected: np.ndarray | None = None,
) -> Tokens:
    """Frames as tokens, with poses or, without, in the coordinates of the view."""
    if pose is None:
        return frame_tokens(ids, time, valid=valid)
    return frame_tokens(ids, time, *pose, valid=valid, expected=expected)
