"""Who acts while trajectories are recorded: bot, noisy bot, random, tour walker, or an agent.

A behaviour is made after a level's reset and then asked for one action after the other. The mix of all of them covers
what an expert never does: wrong objects reached, picked up, dropped and toggled, walls bumped into, boxes destroyed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot

from wmtoolkit.data import walker
from wmtoolkit.data.views import seen_cells
from wmtoolkit.world import grid

Actor = Callable[[dict[str, Any], int | None], int]
"""(observation, the action really taken before it or None at the start) -> action."""

NOISE = 0.3
"""Share of the noisy bot's actions that are replaced by random ones."""
TOUR_NOISE = 0.1
TOUR_MISSION_SHARE = 0.15
"""How often the tour heads for an object that the mission may mean."""
REPLAN_LIMIT = 2000
"""Subgoals the bot may look at for one action; it needs some ten, and more than this means it runs in circles."""
REACHED_ACTIONS = (grid.PICKUP, grid.TOGGLE, grid.DROP, grid.FORWARD, None)
REACHED_SHARES = (0.25, 0.2, 0.05, 0.1, 0.4)
"""What the tour does with an object it reached; None: it leaves for the next one."""
DROP_SHARE = 0.05
"""How often a tour that carries something drops it at the next free cell."""
BESIDE_SHARE = 0.6
"""How often a tour that carries something next heads for a free cell beside a thing, to drop it there."""
PUT_SHARE, PUT_BESIDE_SHARE = 0.7, 0.9
"""The same shares where something is to be put next to something: the right thing beside a wrong one must be about as
common as beside the right one, or dropping it beside anything will be taken for success."""


class BehaviourError(Exception):
    """The behaviour does not know how to go on: it gave up, ran in circles or broke."""


class _Stack(list[Any]):
    """The bot's stack of subgoals, which counts how often its top is read: a hang becomes an error, on any machine."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        if self.reads > REPLAN_LIMIT:
            raise BehaviourError("runs in circles")
        return super().__getitem__(index)


class _Bot(BabyAIBot):
    """BabyAI's bot with its view of the level computed the fast way; it decides the same."""

    def __init__(self, env: MiniGridEnv) -> None:
        super().__init__(env)
        self._counted = self.stack = _Stack(self.stack)

    def _process_obs(self) -> None:
        width, height = self.vis_mask.shape
        for x, y in seen_cells(self.mission):
            if 0 <= x < width and 0 <= y < height:
                self.vis_mask[x, y] = True

    def replan(self, action_taken: int | None = None) -> int:
        self._counted.reads = 0
        try:
            action = super().replan(action_taken)
        except BehaviourError:
            raise
        except Exception as error:  # the bot fails by assertions, index errors and its own exceptions alike
            raise BehaviourError(type(error).__name__) from error
        if not self.stack:
            raise BehaviourError("gave up")
        return int(action)


def has_bot(env: Any) -> bool:
    """Whether this level has an expert: BabyAI's bot, or for other levels a walker to their goal square."""
    return hasattr(env, "instrs") or bool(walker.objects(env, ("goal",)))


def bot(env: MiniGridEnv, rng: np.random.Generator) -> Actor:
    """The expert: BabyAI's bot, or a walker to the goal where a level has no BabyAI instruction.

    Raises:
        BehaviourError: when made or when asked for an action, if the expert cannot go on.
    """
    if not hasattr(env, "instrs"):
        return _goal_bot(env)
    try:
        expert = _Bot(env)
    except Exception as error:
        raise BehaviourError(type(error).__name__) from error
    return lambda observation, previous: expert.replan(previous)


def _goal_bot(env: MiniGridEnv) -> Actor:
    """Walks to the goal square; fetches the key of a locked door on the way."""

    def act(observation: dict[str, Any], previous: int | None) -> int:
        goals = {cell for cell, _ in walker.objects(env, ("goal",))}
        path = walker.path_to(env, lambda cell: cell in goals)
        reached_action = grid.FORWARD
        if path is None:
            locked = {door.color for _, door in walker.objects(env, ("door",)) if door.is_locked}
            if env.carrying is not None:
                raise BehaviourError("no way to the goal")
            keys = {cell for cell, key in walker.objects(env, ("key",)) if key.color in locked}
            path = walker.path_to(env, lambda cell: cell in keys)
            reached_action = grid.PICKUP
        if path is None:
            raise BehaviourError("no way to the goal")
        if len(path) == 1 and walker.front(env) == path[0]:
            return reached_action
        action = walker.step_towards(env, path[0])
        assert action is not None
        return action

    return act


def random(env: MiniGridEnv, rng: np.random.Generator) -> Actor:
    """Uniform over the seven actions."""
    draws: list[int] = []

    def act(observation: dict[str, Any], previous: int | None) -> int:
        if not draws:
            draws.extend(rng.integers(0, len(grid.ACTIONS), 64).tolist())
        return draws.pop()

    return act


def noisy(env: MiniGridEnv, rng: np.random.Generator) -> Actor:
    """The bot, with each action replaced by a random one with probability ``NOISE``; it plans from what was done."""
    expert, chance = bot(env, rng), random(env, rng)

    def act(observation: dict[str, Any], previous: int | None) -> int:
        planned = expert(observation, previous)
        return chance(observation, previous) if rng.random() < NOISE else planned

    return act


def tour(env: MiniGridEnv, rng: np.random.Generator) -> Actor:
    """Walks from object to object, mostly not the mission's, and now and then handles what it reached.

    It gives near-misses: an object in front that is not the right object in front, wrong pick-ups and toggles, and
    drops beside wrong things.
    """
    chance = random(env, rng)
    words = set(env.mission.replace(",", " ").split())
    put = "next" in words
    path: list[walker.Cell] = []
    target: walker.Cell | None = None  # a thing, or the free cell beside one where what is carried shall lie

    def way_to(cell: walker.Cell) -> list[walker.Cell]:
        return walker.path_to(env, lambda other: other == cell) or []

    def free(cell: walker.Cell) -> bool:
        return cell != walker.position(env) and env.grid.get(*cell) is None

    def choose() -> None:
        nonlocal path, target
        found = walker.objects(env, ("key", "ball", "box", "door"))
        meant = [cell for cell, thing in found if thing.type in words and thing.color in words]
        other = [cell for cell, _ in found if cell not in meant and cell != target]
        carries = env.carrying is not None
        beside = carries and rng.random() < (PUT_BESIDE_SHARE if put else BESIDE_SHARE)
        share = PUT_SHARE if put and not carries else TOUR_MISSION_SHARE
        pool = meant if meant and (not other or rng.random() < share) else other
        if beside:
            pool = [cell for thing in pool for cell in walker.beside(thing) if free(cell)]
        for index in rng.permutation(len(pool)).tolist():
            target, path = pool[index], way_to(pool[index])
            if path:
                return
        target = None

    def act(observation: dict[str, Any], previous: int | None) -> int:
        nonlocal path, target
        if rng.random() < TOUR_NOISE:
            path = []
            return chance(observation, previous)
        ahead = walker.front(env)
        if env.carrying is not None and env.grid.get(*ahead) is None and rng.random() < DROP_SHARE:
            return grid.DROP
        while len(path) > 1 and walker.position(env) == path[0]:
            path.pop(0)
        if ahead == target and path:
            if env.carrying is not None and free(ahead):
                path, target = [], None
                return grid.DROP
            choose()
            handle = REACHED_ACTIONS[rng.choice(len(REACHED_ACTIONS), p=REACHED_SHARES)]
            handle = grid.PICKUP if put and env.carrying is None else handle
            if handle is not None:
                return handle
        elif not path and target is not None and target != ahead:
            path = way_to(target)
        if not path:
            choose()
        if ahead == target:
            return grid.LEFT if rng.random() < 0.5 else grid.RIGHT
        action = walker.step_towards(env, path[0]) if path else None
        if action is None:
            path = []
            return chance(observation, previous)
        return action

    return act
