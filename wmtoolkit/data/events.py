"""What happened in recorded frames: bumps, pick-ups, drops, toggles, broken boxes, newly revealed cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from minigrid.core.constants import OBJECT_TO_IDX

from wmtoolkit.data.store import EpisodeStore
from wmtoolkit.world import geometry, grid

EVENTS: tuple[str, ...] = (
    "turned",
    "moved",
    "bumped",
    "picked up the mission's object",
    "picked up another object",
    "picked up nothing",
    "dropped",
    "dropped nothing",
    "door opened",
    "door closed",
    "door unlocked",
    "door stayed locked",
    "box destroyed",
    "toggled nothing",
    "done",
)
"""What an action did; each step is exactly one of these."""
_BOX = OBJECT_TO_IDX["box"]
_CLOSED, _LOCKED = 1, 2


def step_events(before: np.ndarray, after: np.ndarray, actions: np.ndarray, meant: np.ndarray) -> np.ndarray:
    """Name what each step did, as index into ``EVENTS``.

    Args:
        before, after: (S, 7, 7, 3) views around each step.
        actions: (S,) actions.
        meant: (S, objects, colours) bool, whether the mission names such an object (``world.missions``).

    Returns:
        (S,) int64.
    """
    front, ahead = before[:, *grid.FRONT_CELL], after[:, *grid.FRONT_CELL]
    held, holds = before[:, *grid.AGENT_CELL, 0], after[:, *grid.AGENT_CELL]
    steps = np.arange(len(actions))
    picked = (held != holds[:, 0]) & (holds[:, 0] != grid.EMPTY)
    right = meant[steps, holds[:, 0], holds[:, 1]]
    door = front[:, 0] == grid.DOOR
    was, now = front[:, 2], ahead[:, 2]
    is_action = {name: actions == index for index, name in enumerate(grid.ACTIONS)}
    toggle = is_action["toggle"]
    events: Mapping[str, np.ndarray] = {
        "turned": is_action["left"] | is_action["right"],
        "moved": is_action["forward"] & grid.enterable(front),
        "bumped": is_action["forward"] & ~grid.enterable(front),
        "picked up the mission's object": is_action["pickup"] & picked & right,
        "picked up another object": is_action["pickup"] & picked & ~right,
        "picked up nothing": is_action["pickup"] & ~picked,
        "dropped": is_action["drop"] & (held != grid.EMPTY) & (holds[:, 0] == grid.EMPTY),
        "dropped nothing": is_action["drop"] & ~((held != grid.EMPTY) & (holds[:, 0] == grid.EMPTY)),
        "door opened": toggle & door & (was == _CLOSED) & (now == grid.OPEN),
        "door closed": toggle & door & (was == grid.OPEN) & (now == _CLOSED),
        "door unlocked": toggle & door & (was == _LOCKED) & (now != _LOCKED),
        "door stayed locked": toggle & door & (was == _LOCKED) & (now == _LOCKED),
        "box destroyed": toggle & (front[:, 0] == _BOX) & (ahead[:, 0] != _BOX),
        "done": is_action["done"],
    }
    result = np.full(len(actions), EVENTS.index("toggled nothing"))
    for name, happened in events.items():
        result[happened] = EVENTS.index(name)
    return result


def revealed_cells(store: EpisodeStore, episodes: range) -> tuple[int, int]:
    """How many visible cells after the first frame show a world cell for the first time, of how many visible ones.

    World cells are tracked through the agent's motion, which the views and actions give exactly.

    Args:
        episodes: successive episodes of the store, counted together.
    """
    offsets = np.asarray(store.offsets[episodes.start : episodes.stop + 1], dtype=np.int64)
    frames = slice(int(offsets[0]), int(offsets[-1]))
    starts = offsets[:-1] - offsets[0]
    images, directions = np.asarray(store.images[frames]), store.directions[frames].astype(np.int64)
    positions = geometry.positions(images, directions, np.asarray(store.actions[frames]), starts)
    world = geometry.world_cells(positions, directions)
    episode_of = np.repeat(np.arange(len(episodes)), np.diff(offsets))
    keys = (episode_of[:, None, None] << 40) + (world[..., 0] << 20) + world[..., 1]
    seen = images[..., 0] != grid.UNSEEN
    seen[:, *grid.AGENT_CELL] = False  # it shows what is carried
    later = np.ones(len(images), dtype=bool)
    later[starts] = False
    later_cell = np.broadcast_to(later[:, None, None], seen.shape)[seen]
    _, first = np.unique(keys[seen], return_index=True)
    return int(later_cell[first].sum()), int(later_cell.sum())
