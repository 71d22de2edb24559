"""A perfect world model of one real level, to test and to tune planners without a trained network.

It copies the level's own state and lets the level's own rules run on the copies. With ``sees_hidden=False`` it knows
no more than the agent has seen, as a faultless trained model would: cells never seen are imagined empty, and objects
never seen cannot end the mission.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from minigrid.core.grid import Grid
from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot

from wmtoolkit.data.behaviours import BehaviourError
from wmtoolkit.data.views import fast_image, seen_cells, speed_up
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory

UNSEEN_CONFIDENCE = 0.87
"""Confidence given to cells never seen: the share of them that are empty in BabyAI's rooms."""
MARGIN = 10
"""How far, in cells, an imagined world stretches beyond outer walls that are not known."""
Place = tuple[int, int]
_SHARED = ("np_random", "_np_random", "action_space", "observation_space", "room_grid", "spec", "window", "clock")


class SimulatorWorldModel:
    """The protocol of ``WorldModel`` over copies of a real level.

    Args:
        env: the level the agent acts in. It is copied whenever a history of no action is asked about, so it must
            then stand at its start; later histories replay on the copy, and ``env`` itself is never touched.
        sees_hidden: whether cells that the agent never saw are known.
        knows_walls: whether the world's outer walls are known unseen (as by a model trained on rooms of one size);
            otherwise empty cells stretch beyond them.
        memory: number of last observations that count as seen; None: all.
    """

    def __init__(
        self, env: Any, *, sees_hidden: bool = True, knows_walls: bool = True, memory: int | None = None
    ) -> None:
        self._env: MiniGridEnv = env.unwrapped
        self._sees_hidden, self._knows_walls, self._memory = sees_hidden, knows_walls, memory
        self._start: MiniGridEnv | None = None
        self._now: MiniGridEnv | None = None
        self._actions: list[int] = []
        self._seen: list[list[Place]] = []

    def rollout_state(self, histories: list[Trajectory]) -> SimulatorState:
        """One lane a history.

        Raises:
            UserError: for a history that is not one of the level's present episode.
        """
        lanes: list[MiniGridEnv] = []
        known: list[frozenset[Place] | None] = []
        for history in histories:
            self._replay(history)
            assert self._now is not None
            level = _copy(self._now)
            level.step_count = 0
            if self._sees_hidden:
                known.append(None)
            else:
                frames = self._seen[-self._memory :] if self._memory else self._seen
                known.append(_hide(level, {cell for frame in frames for cell in frame}, self._knows_walls))
            lanes.append(level)
        outcomes = np.zeros((len(lanes), len(Outcome)), np.float32)
        outcomes[np.arange(len(lanes)), [history.outcomes[-1] for history in histories]] = 1
        confidence = np.ones((len(lanes), grid.VIEW, grid.VIEW), np.float32)
        images = np.stack([history.images[-1] for history in histories])
        return SimulatorState(lanes, known, images, outcomes, confidence)

    def policy(self, histories: list[Trajectory]) -> np.ndarray:
        """(B, 7) float32; see ``SimulatorState.policy``."""
        return self.rollout_state(histories).policy()

    def _replay(self, history: Trajectory) -> None:
        """Bring the copy to the end of the history."""
        actions = [int(action) for action in history.actions]
        if not actions and (self._env.step_count == 0 or self._start is None):
            self._start = _copy(self._env)
        if self._start is None:
            raise UserError("simulator world model: the first history asked about must have no action")
        if self._now is None or actions[: len(self._actions)] != self._actions or not actions:
            self._now = _copy(self._start)
            self._actions, self._seen = [], [seen_cells(self._now)]
        for action in actions[len(self._actions) :]:
            self._now.step(action)
            self._seen.append(seen_cells(self._now))
            self._actions.append(action)
        if not _shows(self._now, history):
            raise UserError("simulator world model: the history is not of the level's present episode")


class SimulatorState:
    """The protocol of ``RolloutState``: B copies of a level."""

    def __init__(
        self,
        levels: list[MiniGridEnv],
        known: list[frozenset[Place] | None],
        images: np.ndarray,
        outcomes: np.ndarray,
        confidence: np.ndarray,
    ) -> None:
        self._levels, self._known = levels, known
        self.images, self.outcomes, self.confidence = images, outcomes, confidence
        self.directions = np.array([level.agent_dir for level in levels], np.int64)
        self.log_prob = np.zeros(len(levels), np.float32)

    def __len__(self) -> int:
        return len(self._levels)

    def step(
        self, actions: np.ndarray, *, temperature: float = 0.0, generator: np.random.Generator | None = None
    ) -> SimulatorState:
        """Step copies of all levels; there is nothing to sample. Lanes that have ended stay as they are."""
        levels = list(self._levels)
        images, outcomes, confidence = self.images.copy(), self.outcomes.copy(), self.confidence.copy()
        for lane, action in enumerate(np.asarray(actions)):
            if outcomes[lane, Outcome.SUCCESS] or outcomes[lane, Outcome.FAILURE]:
                continue
            level = levels[lane] = _copy(levels[lane], moves_only=int(action) <= grid.FORWARD)
            _, reward, terminated, _, _ = level.step(int(action))
            outcome = Outcome.CONTINUE if not terminated else Outcome.SUCCESS if float(reward) > 0 else Outcome.FAILURE
            images[lane] = fast_image(level)
            outcomes[lane] = np.eye(len(Outcome), dtype=np.float32)[outcome]
            confidence[lane] = _confidence(level, self._known[lane])
        return SimulatorState(levels, self._known, images, outcomes, confidence)

    def policy(self) -> np.ndarray:
        """(B, 7) float32: the bot's action with probability 0.9, the rest spread evenly.

        The bot knows what the state knows. Where it fails, or in a level without one, all actions are even.
        """
        share = 0.1 / len(grid.ACTIONS)
        probabilities = np.full((len(self), len(grid.ACTIONS)), 1 / len(grid.ACTIONS), np.float32)
        for lane, (level, known) in enumerate(zip(self._levels, self._known, strict=True)):
            try:
                action = _bot_action(_copy(level), known)
            except BehaviourError:
                continue
            probabilities[lane] = share
            probabilities[lane, action] += 0.9
        return probabilities

    def select(self, rows: np.ndarray) -> SimulatorState:
        """Copy, branch, reorder or drop lanes."""
        rows = np.asarray(rows, dtype=np.int64)
        return SimulatorState(
            [self._levels[row] for row in rows],
            [self._known[row] for row in rows],
            self.images[rows],
            self.outcomes[rows],
            self.confidence[rows],
        )

    @staticmethod
    def cat(states: Sequence[SimulatorState]) -> SimulatorState:
        """The lanes of several states in one, in order."""
        return SimulatorState(
            [level for state in states for level in state._levels],
            [known for state in states for known in state._known],
            *(
                np.concatenate([getattr(state, name) for state in states])
                for name in ("images", "outcomes", "confidence")
            ),
        )


def _copy(level: MiniGridEnv, moves_only: bool = False) -> MiniGridEnv:
    """A copy of the level's changing state. With ``moves_only`` its objects are shared: moving changes none."""
    new = copy.copy(level)
    new.gen_obs = dict  # type: ignore[method-assign]  # views are computed once a lane, not inside step
    memo: dict[int, Any] = {id(level): new}
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


def _hide(level: MiniGridEnv, seen: set[Place], knows_walls: bool) -> frozenset[Place]:
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


def _bot_action(level: MiniGridEnv, known: frozenset[Place] | None) -> int:
    """What the bot would do, or ``BehaviourError``; the level must be its own to change."""
    if not hasattr(level, "instrs"):
        raise BehaviourError("no bot")
    speed_up(level)
    try:
        bot = BabyAIBot(level)
        bot.vis_mask[:] = known is None
        for place in known or ():
            bot.vis_mask[place] = True
        return int(bot.replan())
    except Exception as error:  # the bot fails by assertions, index errors and its own exceptions alike
        raise BehaviourError(type(error).__name__) from error


def _descriptions(instruction: Any) -> list[Any]:
    """All object descriptions of an instruction tree."""
    if instruction is None:
        return []
    parts = [_descriptions(getattr(instruction, name, None)) for name in ("instr_a", "instr_b")]
    own = [getattr(instruction, name) for name in ("desc", "desc_move", "desc_fixed") if hasattr(instruction, name)]
    return [*own, *parts[0], *parts[1]]


def _confidence(level: MiniGridEnv, known: frozenset[Place] | None) -> np.ndarray:
    """(7, 7) float32: 1 for cells known, less for the others."""
    if known is None:
        return np.ones((grid.VIEW, grid.VIEW), np.float32)
    cells = np.array([int(level.agent_pos[0]), int(level.agent_pos[1])]) + grid.world_offsets(level.agent_dir)
    inside = (cells >= 0).all(-1) & (cells < np.array([level.width, level.height])).all(-1)
    sure = np.array([(x, y) in known for x, y in cells.reshape(-1, 2).tolist()]).reshape(inside.shape)
    return np.where(sure | ~inside, 1, UNSEEN_CONFIDENCE).astype(np.float32)


def _shows(level: MiniGridEnv, history: Trajectory) -> bool:
    """Whether the level looks as the last observation of the history does."""
    return (
        level.mission == history.mission
        and int(level.agent_dir) == int(history.directions[-1])
        and np.array_equal(fast_image(level), history.images[-1])
    )
