"""Windows of episodes: the mission, what is remembered, and a run of frames, as training and evaluation read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wmtoolkit.world import geometry, grid
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.expectation import note_blocks
from wmtoolkit.world.missions import OtherMissions
from wmtoolkit.world.tokenizer import BEHAVIOUR, WorldTokenizer
from wmtoolkit.world.tokens import Tokens, joined, memory_tokens, mission_tokens
from wmtoolkit.world.trajectory import Outcome, Trajectory

_TOKENIZER = WorldTokenizer()
_NEAR = (grid.AGENT_CELL, grid.FRONT_CELL)
MASKED, LONE_ACTION, LONE_OUTCOME = 1, 2, 3
"""Copies of ``attention``: blocks with masks, tokens that ask for the policy, and tokens that ask how a step ends."""
_HISTORY = 512
"""Frames looked back on for the memory."""
_RECKONED = 1000
"""Episodes whose positions are reckoned at a time."""


@dataclass(frozen=True)
class Frames:
    """Episodes laid end to end; N frames, E episodes.

    Attributes:
        images: (N, 7, 7, 3) uint8; directions, actions (the one that led here, -1 at a start), outcomes: (N,).
        positions: (N, 2) int16 dead-reckoned, (0, 0) at each start.
        offsets: (E+1,) int64 first frame of each episode, and N.
        missions: (E, 52) int16 mission blocks, behaviour included.
        behaviours: (E,) index into ``BEHAVIOURS``; levels: (E,) a number for each level.
        weights: (E,) how much more often than another level's frames are those of its level drawn; None: all alike.
    """

    images: np.ndarray
    directions: np.ndarray
    actions: np.ndarray
    outcomes: np.ndarray
    positions: np.ndarray
    offsets: np.ndarray
    missions: np.ndarray
    behaviours: np.ndarray
    levels: np.ndarray
    weights: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """(E,) frames of each episode, T+1."""
        return np.diff(self.offsets)

    @cached_property
    def mission_length(self) -> int:
        """Tokens that the longest mission takes; all windows get as many, so that batches are of one shape."""
        return int((self.missions != _TOKENIZER.pad).sum(axis=1).max())

    @cached_property
    def chances(self) -> np.ndarray:
        """(E,) float64, cumulative: the chance of each episode if all frames of a level, and all levels but for their
        ``weights``, are alike."""
        level = np.unique(self.levels, return_inverse=True)[1]
        share = self.lengths / np.bincount(level, weights=self.lengths)[level]
        share = share if self.weights is None else share * self.weights
        return np.cumsum(share) / share.sum()

    @cached_property
    def other_missions(self) -> OtherMissions:
        """Missions that each episode does not fulfil."""
        return OtherMissions.among(self.missions, self.levels)

    @cached_property
    def ended(self) -> np.ndarray:
        """Episodes that end in success or failure, not by a time limit; int64."""
        last = self.outcomes[self.offsets[1:] - 1]
        return np.flatnonzero((last == Outcome.SUCCESS) | (last == Outcome.FAILURE))

    @cached_property
    def events(self) -> np.ndarray:
        """Frames after a pick-up, drop or toggle that changed what the agent holds or faces, or tried to where an
        object was in front; int64."""
        acted = np.flatnonzero((self.actions >= grid.PICKUP) & (self.actions != grid.DONE))
        thing = np.isin(self.images[acted - 1, *grid.FRONT_CELL, 0], (*grid.PORTABLE, grid.DOOR))
        return acted[self._changed(acted) | thing]

    def _changed(self, acted: np.ndarray) -> np.ndarray:
        """(n,) bool: whether what the agent holds or faces is other than in the frame before."""
        near = [(self.images[acted - 1, *cell] != self.images[acted, *cell]).any(-1) for cell in _NEAR]
        return near[0] | near[1]

    @cached_property
    def near_misses(self) -> np.ndarray:
        """Frames that look like a success of their level and are none: after the same action the same kind of thing is
        in front and in hand; int64."""
        owner = np.repeat(self.levels, self.lengths).astype(np.int64)
        kind = (owner * (len(grid.ACTIONS) + 1) + self.actions + 1) * 256**2
        kind += 256 * self.images[:, *grid.FRONT_CELL, 0].astype(np.int64) + self.images[:, *grid.AGENT_CELL, 0]
        outcomes = np.asarray(self.outcomes)
        return np.flatnonzero((outcomes == Outcome.CONTINUE) & np.isin(kind, kind[outcomes == Outcome.SUCCESS]))

    @cached_property
    def near_miss_chances(self) -> np.ndarray:
        """Cumulative chance of each near miss if those of all levels, but for their ``weights``, are alike; float64."""
        owner = np.searchsorted(self.offsets, self.near_misses, side="right") - 1
        level = np.unique(self.levels[owner], return_inverse=True)[1]
        share = 1 / np.bincount(level)[level]
        share = share if self.weights is None else share * self.weights[owner]
        return np.cumsum(share) / share.sum()

    @cached_property
    def event_chances(self) -> np.ndarray:
        """Cumulative chance of each event if all kinds (an action on an object, with or without effect) are alike;
        float64."""
        objects = self.images[self.events - 1, *grid.FRONT_CELL, 0]
        action = 2 * self.actions[self.events].astype(np.int64) + self._changed(self.events)
        kind = np.unique(256 * action + objects, return_inverse=True)[1]
        share = 1 / np.bincount(kind)[kind]
        return np.cumsum(share) / share.sum()

    @classmethod
    def from_trajectories(cls, trajectories: Sequence[Trajectory]) -> Frames:
        """Lay trajectories end to end."""
        lengths = [len(trajectory) + 1 for trajectory in trajectories]
        missions = np.stack([_TOKENIZER.mission_block(item.mission, item.behaviour) for item in trajectories])
        return cls._reckoned(
            images=np.concatenate([item.images for item in trajectories]),
            directions=np.concatenate([item.directions for item in trajectories]),
            actions=np.concatenate([np.append(-1, item.actions) for item in trajectories]),
            outcomes=np.concatenate([item.outcomes for item in trajectories]),
            offsets=np.append(0, np.cumsum(lengths)),
            missions=missions,
            behaviours=missions[:, 0] - _TOKENIZER.behaviours.start,
            levels=np.unique([item.level or "" for item in trajectories], return_inverse=True)[1],
        )

    @classmethod
    def from_store(cls, store: Any, weights: Mapping[str, float] | None = None) -> Frames:
        """The frames of a ``data.store.EpisodeStore``, which stay where they are (memory-mapped).

        Args:
            weights: of levels by id; 1 where none is given.
        """
        by_level = np.array([(weights or {}).get(level, 1.0) for level in store.level_ids])
        texts = np.stack([_TOKENIZER.mission_block(text, "bot") for text in store.mission_texts])
        missions = texts[store.missions]
        missions[:, 0] = _TOKENIZER.behaviours.start + np.asarray(store.behaviours)
        return cls._reckoned(
            images=store.images,
            directions=store.directions,
            actions=store.actions,
            outcomes=store.outcomes,
            offsets=np.asarray(store.offsets, dtype=np.int64),
            missions=missions,
            behaviours=np.asarray(store.behaviours),
            levels=np.asarray(store.levels),
            weights=by_level[np.asarray(store.levels)],
        )

    @classmethod
    def _reckoned(cls, **arrays: Any) -> Frames:
        images, directions, actions = (arrays[name] for name in ("images", "directions", "actions"))
        offsets = arrays["offsets"]
        path = np.empty((len(images), 2), dtype=np.int16)
        for part in range(0, len(offsets) - 1, _RECKONED):  # together they would take more memory than the frames
            edges = offsets[part : part + _RECKONED + 1]
            here = slice(edges[0], edges[-1])
            path[here] = geometry.positions(images[here], directions[here], actions[here], edges[:-1] - edges[0])
        return cls(positions=path, **{**arrays, "missions": arrays["missions"].astype(np.int16)})


@dataclass
class Window:
    """B windows of n frames, with what comes before them.

    Attributes:
        mission: as tokens.
        ids: (B, n, 52) clean blocks.
        time, heading: (B, n); position: (B, n, 2).
        valid: (B, n) bool, False before an episode's start and after its end.
        start: (B,) heading that the network's coordinates begin with: the episode's first, or 0 (``start_heading``).
        episode, frame: (B,), (B, n) where the frames come from.
        seen: what was seen before the first frame; None without memory.
    """

    mission: Tokens
    ids: np.ndarray
    time: np.ndarray
    position: np.ndarray
    heading: np.ndarray
    valid: np.ndarray
    start: np.ndarray
    episode: np.ndarray
    frame: np.ndarray
    seen: geometry.LastSeen | None

    def context(self, world: WorldConfig, first: np.ndarray | None = None) -> Tokens:
        """Mission, and memory of what was seen before and the first frames do not show.

        Args:
            first: (B, 52) the first frames, if not without masks.
        """
        if self.seen is None:
            return self.mission
        position, heading, time = self.position[:, 0], self.heading[:, 0], self.time[:, 0]
        first = self.ids[:, 0] if first is None else first
        return joined(self.mission, remembered(self.seen, first, position, heading, time, world.memory))


def cut(
    frames: Frames,
    episode: np.ndarray,
    start: np.ndarray,
    count: int,
    world: WorldConfig,
    missions: np.ndarray | None = None,
) -> Window:
    """Cut windows of ``count`` frames, from the ``start``-th of each episode on.

    Args:
        episode, start: (B,); a start may be -1 and a window may overrun its episode: such frames are not valid.
        missions: (B, 52) other mission blocks than the episodes' own.
    """
    first = frames.offsets[episode]
    local = start[:, None] + np.arange(count)
    valid = (local >= 0) & (local < frames.lengths[episode][:, None])
    index = first[:, None] + np.clip(local, 0, frames.lengths[episode][:, None] - 1)
    ids = _TOKENIZER.step_blocks(
        frames.images[index], frames.directions[index], frames.actions[index], frames.outcomes[index]
    )
    words = (frames.missions[episode] if missions is None else missions).astype(np.int64)
    spelled = world.spelled(words)
    return Window(
        mission=mission_tokens(spelled, frames.mission_length if spelled is words else None),
        ids=ids,
        time=np.where(valid, local + 1, 0),
        position=frames.positions[index].astype(np.int64),
        heading=np.asarray(frames.directions[index], dtype=np.int64),
        valid=valid,
        start=np.asarray(frames.directions[first], dtype=np.int64) * world.start_heading,
        episode=episode,
        frame=index,
        seen=last_seen(frames, episode, start - 1) if world.memory else None,
    )


def remembered(
    seen: geometry.LastSeen,
    first: np.ndarray,
    position: np.ndarray,
    heading: np.ndarray,
    time: np.ndarray,
    count: int,
) -> Tokens:
    """Memory as tokens: ``count`` of the sightings that frames, perhaps with masks, do not show themselves.

    Args:
        seen: sightings before these frames, B lanes.
        first, position, heading: (B, 52), (B, 2), (B,) the frames; time: (B,), 0 where there is none.
    """
    seen, lane = seen.copy(), np.flatnonzero(time)
    note_blocks(seen, lane, first[lane], position[lane], heading[lane], time[lane])
    return memory_tokens(*seen.recall(position, heading, time, count))


def last_seen(frames: Frames, episode: np.ndarray, frame: np.ndarray) -> geometry.LastSeen:
    """What was seen in each episode up to its ``frame``-th frame, nothing if below 0; (B,); frame i has time i + 1."""
    first = frames.offsets[episode]
    here = first + frame
    begin = np.maximum(first, here - _HISTORY)
    count = np.maximum(here - begin + 1, 0)
    lane = np.repeat(np.arange(len(episode)), count)
    index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + begin[lane]
    images, headings = frames.images[index], np.asarray(frames.directions[index], dtype=np.int64)
    seen = geometry.LastSeen.empty(len(episode))
    world = geometry.world_cells(frames.positions[index], headings)
    seen.note(lane, images, _TOKENIZER.cell_ids(images), world, index - first[lane] + 1)
    return seen


def attention(*parts: tuple[Tokens, np.ndarray, int | np.ndarray]) -> np.ndarray:
    """Block-causal attention over sequences laid end to end: the 2L layout of block diffusion, with a shared prefix.

    Args:
        parts: (tokens, order, copy) each; ``order`` (S,) is the place in time of each token's block, and ``copy``, for
            all of them or (S,), is 0 for what is clean and different for each set of blocks with masks. A clean token
            sees the clean tokens of its own block and before; a masked one those strictly before, and its own block of
            the same copy. What is known to copy c alone has copy -c: no other token sees it, and it sees only itself.

    Returns:
        (B, 1, S, S) bool, True = attend.
    """
    valid = np.concatenate([tokens.valid for tokens, _, _ in parts], axis=1)
    return (allowed(*parts)[None] & valid[:, None, :])[:, None]


def allowed(*parts: tuple[Tokens, np.ndarray, int | np.ndarray]) -> np.ndarray:
    """(S, S) bool: the part of ``attention`` that is the same for all sequences; padding is still to be left out."""
    when = np.concatenate([order for _, order, _ in parts])
    copy = np.concatenate([np.broadcast_to(number, tokens.length) for tokens, _, number in parts])
    query, key, mine, theirs = when[:, None], when[None, :], copy[:, None], copy[None, :]
    clean = np.where(mine == 0, query >= key, (mine > 0) & (query > key))
    masked = (mine == theirs) & (query == key)
    private = (mine == -theirs) | np.eye(len(copy), dtype=bool)
    return np.select([theirs == 0, theirs > 0], [clean, masked], private)


def context_copy(context: Tokens) -> np.ndarray:
    """(S,) copies of mission and memory for ``attention``: who acts is known to the lone actions alone.

    The bot acts on what it alone knows. If its presence could be seen, what it does would be taken for evidence of
    what is there and of how things end, and a planner that acts in its place would be deceived (Ortega et al. 2021,
    arXiv:2110.10819).
    """
    return np.where(np.arange(context.length) == BEHAVIOUR, -LONE_ACTION, 0)


__all__ = [
    "LONE_ACTION",
    "LONE_OUTCOME",
    "MASKED",
    "Frames",
    "Window",
    "allowed",
    "attention",
    "context_copy",
    "cut",
    "last_seen",
    "remembered",
]
