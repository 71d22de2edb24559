"""Which steps of held-out episodes are asked about, and what could be known of each beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wmtoolkit.data.events import EVENTS, step_events
from wmtoolkit.world import geometry, grid, windows
from wmtoolkit.world.tokenizer import WorldTokenizer
from wmtoolkit.world.trajectory import Outcome

_TOKENIZER = WorldTokenizer()
_CHUNK = 256

KINDS: dict[str, tuple[str, ...]] = {
    "turn": ("turned",),
    "move": ("moved",),
    "bump": ("bumped",),
    "pickup": ("picked up the mission's object", "picked up another object"),
    "drop": ("dropped",),
    "toggle": ("door opened", "door closed", "door unlocked", "box destroyed"),
    "no effect": ("picked up nothing", "dropped nothing", "door stayed locked", "toggled nothing", "done"),
}
"""Events reported apart; each step is exactly one. Pick-ups, drops and toggles are those that changed something."""
NAMES = tuple(KINDS)
_KIND_OF = np.array([next(i for i, parts in enumerate(KINDS.values()) if event in parts) for event in EVENTS])


@dataclass
class Transitions:
    """N steps o_t, a_t -> o_{t+1} of held-out episodes, and what could be known of o_{t+1} beforehand.

    Attributes:
        frames: the episodes; episode: (N,); step: (N,) t.
        cells: (N, 49) ids of o_{t+1}; headings, outcomes, actions: (N,) of the step.
        events: (N,) index into ``NAMES``.
        before: (N, 49) ids of o_t in the same place of the view (copy-last-frame).
        remembered: (N, 49) ids last seen at the same place in the world, "empty" where nothing was.
        age: (N, 49) how many steps ago that was; -1 where nothing was.
        known: (N, 49) bool, the place in the world was seen in o_0..o_t.
        revealed: (N, 49) bool, seen in o_{t+1} for the first time.
        changed: (N, 49) bool, seen again with other content than when last seen.
    """

    frames: windows.Frames
    episode: np.ndarray
    step: np.ndarray
    cells: np.ndarray
    headings: np.ndarray
    outcomes: np.ndarray
    actions: np.ndarray
    events: np.ndarray
    before: np.ndarray
    remembered: np.ndarray
    age: np.ndarray
    known: np.ndarray
    revealed: np.ndarray
    changed: np.ndarray

    def __len__(self) -> int:
        return len(self.episode)


def all_steps(frames: windows.Frames) -> np.ndarray:
    """Index of the frame that each step of the episodes led to; int64."""
    return np.flatnonzero(np.asarray(frames.outcomes) != Outcome.START)


def looks_changed(frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """(N,) bool: the steps to frames ``target`` (N,) changed the view or the heading."""
    before, after = np.asarray(frames.images[target - 1]), np.asarray(frames.images[target])
    headings = np.asarray(frames.directions)
    return (before != after).any((1, 2, 3)) | (headings[target] != headings[target - 1])


def events(frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """What the steps that led to frames ``target`` (N,) did, as index into ``NAMES``."""
    meant = np.zeros((len(target), len(grid.OBJECTS), len(grid.COLORS)), bool)
    images, actions = frames.images, np.asarray(frames.actions)[target]
    return _KIND_OF[step_events(np.asarray(images[target - 1]), np.asarray(images[target]), actions, meant)]


def draw_steps(frames: windows.Frames, samples: int, rare: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Frames that steps led to: ``samples`` drawn evenly, then more of each event of which there are fewer than
    ``rare`` among them, so that rare events are seen often enough.

    Returns:
        target (N,) int64, and how many of them, the first ones, were drawn evenly.
    """
    target = rng.permutation(all_steps(frames))
    kinds = events(frames, target)
    evenly = min(samples, len(target))
    extra = []
    for kind in range(len(NAMES)):
        have = int((kinds[:evenly] == kind).sum())
        more = evenly + np.flatnonzero(kinds[evenly:] == kind)
        extra.append(more[: max(0, rare - have)])
    return np.concatenate([target[:evenly], target[np.sort(np.concatenate(extra))]]), evenly


def transitions(frames: windows.Frames, target: np.ndarray) -> Transitions:
    """The steps that led to frames ``target`` (N,)."""
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    headings = np.asarray(frames.directions[target], dtype=np.int64)
    images = np.asarray(frames.images[target])
    cells = _TOKENIZER.cell_ids(images).reshape(-1, grid.CELLS)
    world = geometry.world_cells(frames.positions[target], headings).reshape(-1, grid.CELLS, 2)
    empty = _TOKENIZER.cell_ids(np.array([grid.EMPTY, 0, 0]))
    remembered, times = np.zeros((2, *cells.shape), np.int64)
    for low in range(0, len(target), _CHUNK):
        part = slice(low, low + _CHUNK)
        seen = windows.last_seen(frames, episode[part], step[part])
        remembered[part], times[part] = seen.look_up(world[part])
    known = times >= 0
    visible = images[..., 0].reshape(-1, grid.CELLS) != grid.UNSEEN
    return Transitions(
        frames=frames,
        episode=episode,
        step=step,
        cells=cells,
        headings=headings,
        outcomes=np.asarray(frames.outcomes[target], dtype=np.int64),
        actions=np.asarray(frames.actions[target], dtype=np.int64),
        events=events(frames, target),
        before=_TOKENIZER.cell_ids(np.asarray(frames.images[target - 1])).reshape(-1, grid.CELLS),
        remembered=np.where(known, remembered, empty),
        # Frame i has time i + 1, so the target's time is step + 2.
        age=np.where(known, step[:, None] + 2 - times, -1),
        known=known,
        revealed=visible & ~known,
        changed=visible & known & (remembered != cells),
    )
