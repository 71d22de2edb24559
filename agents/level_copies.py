"""Copies of real levels, and what is left of them when only what was seen is known."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from minigrid.core.constants import COLOR_NAMES
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Key
from minigrid.minigrid_env import MiniGridEnv

MARGIN = 10
"""How far, in cells, an imagined world stretches beyond outer walls that are not known."""
_KINDS = ("key", "ball", "box")
Place = tuple[int, int]
Thing = tuple[Place, str, str]
"""Where, which kind of object, which colour."""
_SHARED = ("np_random", "_np_random", "action_space", "observation_space", "room_grid", "spec", "window", "clock")


def copy_level(level: MiniGridEnv, moves_only: bool = False, memo: dict[int, Any] | None = None) -> MiniGridEnv:
    """A copy of the level's changing state.

    Args:
        level: stays as it is.
        moves_only: share the objects with the copy; right if it will only be moved in.
        memo: receives what was copied into what, as ``copy.deepcopy`` keeps it.
    """
    new = copy.copy(level)
    new.gen_obs = dict  # type: ignore[method-assign]  # views are computed once a lane, not inside step
    memo = {} if memo is None else memo
    memo[id(level)] = new
    for name in _SHARED:
        value = getattr(level, name, None)
        memo[id(value)] = value
    for cell in level.grid.grid:
        if cell is not None and (moves_only or cell.type in ("wall", "goal", "lava", "floor")):
            memo[id(cell)] = cell
    if moves_only:
        memo[id(level.carrying)] = level.carrying
    else:
        new.grid = copy.deepcopy(level.grid, memo)
        new.carrying = copy.deepcopy(level.carrying, memo)
    if hasattr(level, "instrs"):
        new.instrs = copy.deepcopy(level.instrs, memo)  # type: ignore[attr-defined]
    return new


def hide(level: MiniGridEnv, seen: set[Place], knows_walls: bool) -> frozenset[Place]:
    """Empty the cells never seen and make the mission forget what stood there; returns the cells known.

    Unless the outer walls are known, the world is laid into a larger one, whose cells are counted from its corner.
    """
    width, height = level.width, level.height
    border = {(x, y) for x in range(width) for y in range(height) if x in (0, width - 1) or y in (0, height - 1)}
    known = seen | border if knows_walls else seen
    margin = 0 if knows_walls else MARGIN
    world = Grid(width + 2 * margin, height + 2 * margin)
    for x in range(width):
        for y in range(height):
            if (x, y) in known:
                world.set(x + margin, y + margin, level.grid.get(x, y))
    things = {id(cell): cell for cell in (*world.grid, level.carrying) if cell is not None}
    for description in _descriptions(getattr(level, "instrs", None)):
        description.obj_set = [thing for thing in description.obj_set if id(thing) in things]
        description.obj_poss = [
            (place[0] + margin, place[1] + margin) for place in description.obj_poss if tuple(place) in known
        ]
    for thing in things.values():
        if thing.cur_pos is not None and thing.type != "wall":
            thing.cur_pos = (int(thing.cur_pos[0]) + margin, int(thing.cur_pos[1]) + margin)
    level.grid, level.width, level.height = world, world.width, world.height
    if margin and hasattr(level, "room_from_pos"):
        level.room_from_pos = lambda *place: None  # the verifier asks, and makes no use of it
    level.agent_pos = (int(level.agent_pos[0]) + margin, int(level.agent_pos[1]) + margin)
    return frozenset((x + margin, y + margin) for x, y in known)


def draw_things(places: Iterable[Place], empty: float, rng: np.random.Generator) -> list[Thing]:
    """What stands at places: nothing with a probability, or else any object alike."""
    draws = [(place, rng.random(), rng.choice(_KINDS), rng.choice(COLOR_NAMES)) for place in places]
    return [(place, str(kind), str(color)) for place, chance, kind, color in draws if chance >= empty]


def put_things(level: MiniGridEnv, things: Iterable[Thing]) -> None:
    """Put things where the level is empty; they count as meant if they fit the mission, but for its locations."""
    for (x, y), kind, color in things:
        if level.grid.get(x, y) is not None:
            continue
        thing = {"key": Key, "ball": Ball, "box": Box}[kind](color)
        level.put_obj(thing, x, y)
        for description in _descriptions(getattr(level, "instrs", None)):
            fits = description.type in (None, kind) and description.color in (None, color)
            if fits and description.loc is None:
                description.obj_set.append(thing)
                description.obj_poss.append((x, y))


def _descriptions(instruction: Any) -> list[Any]:
    """All object descriptions of an instruction tree."""
    if instruction is None:
        return []
    parts = [_descriptions(getattr(instruction, name, None)) for name in ("instr_a", "instr_b")]
    own = [getattr(instruction, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(instruction, name)]
    return [*own, *parts[0], *parts[1]]
