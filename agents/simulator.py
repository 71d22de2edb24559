"""A perfect world model of one real level, to test and to tune planners without a trained network.

It copies the level's own state and lets the level's own rules run on the copies. With ``sees_hidden=False`` it knows
no more than the agent has seen, as a faultless trained model would: cells never seen are imagined empty, and objects
never seen cannot end the mission.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.agents.level_copies import Place, copy_level, draw_things, hide, put_things
from wmtoolkit.agents.simulator_bot import Expert, NextExpert, RootExpert
from wmtoolkit.data.views import fast_image, seen_cells
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory

UNSEEN_CONFIDENCE = 0.87
"""Confidence given to cells never seen: the share of them that are empty in BabyAI's rooms."""


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
        self._passes = _Passes()
        self._start: MiniGridEnv | None = None
        self._now: MiniGridEnv | None = None
        self._actions: list[int] = []
        self._seen: list[list[Place]] = []

    @property
    def forward_passes(self) -> int:
        """Batches stepped, advised on or filled in so far, each for a forward pass of a model."""
        return self._passes.made

    def rollout_state(self, histories: list[Trajectory]) -> SimulatorState:
        """One lane a history.

        Raises:
            UserError: for a history that is not one of the level's present episode.
        """
        lanes = []
        for history in histories:
            self._replay(history)
            assert self._start is not None
            assert self._now is not None
            frames = self._seen[-self._memory :] if self._memory else self._seen
            imagine = partial(self._imagined, {place for frame in frames for place in frame})
            level = copy_level(self._now)
            lanes.append(_Lane(level, imagine(level), RootExpert(self._start, tuple(self._actions), imagine)))
        outcomes = np.zeros((len(lanes), len(Outcome)), np.float32)
        outcomes[np.arange(len(lanes)), [history.outcomes[-1] for history in histories]] = 1
        confidence = np.ones((len(lanes), grid.VIEW, grid.VIEW), np.float32)
        images = np.stack([history.images[-1] for history in histories])
        return SimulatorState(lanes, images, outcomes, confidence, self._passes)

    def policy(self, histories: list[Trajectory]) -> np.ndarray:
        """(B, 7) float32; see ``SimulatorState.policy``."""
        return self.rollout_state(histories).policy()

    def infill_plan(
        self,
        histories: list[Trajectory],
        horizons: Sequence[int],
        *,
        steps: int = 1,
        views: bool = True,
        temperature: float = 0.0,
        generator: Any = None,
    ) -> list[list[BotPlan]]:
        """For each history and horizon h the bot's next h actions, as sure as h is near the number that it needs.

        Nothing is drawn; ``views``, ``temperature`` and ``generator`` are there for the protocol of ``GoalModel``.
        It counts as ``steps`` passes, as a model's filling would.
        """
        passes = self._passes.made + steps
        plans = []
        for history in histories:
            state = self.rollout_state([history])
            actions: list[int] = []
            while len(actions) < max(horizons) and not state.outcomes[0, Outcome.SUCCESS]:
                actions.append(int(state.policy()[0].argmax()))
                state = state.step(np.array(actions[-1:]))
            needed = len(actions) if state.outcomes[0, Outcome.SUCCESS] else np.inf
            longer = actions + [int(grid.DONE)] * (max(horizons) - len(actions))
            plans.append([BotPlan(np.array(longer[:horizon]), -abs(float(needed - horizon))) for horizon in horizons])
        self._passes.made = passes
        return plans

    def _imagined(self, seen: set[Place], level: MiniGridEnv) -> frozenset[Place] | None:
        """Turn a copy of the level into what is known of it; returns the known cells, None for all."""
        level.step_count = 0
        return None if self._sees_hidden else hide(level, seen, self._knows_walls)

    def _replay(self, history: Trajectory) -> None:
        """Bring the copy to the end of the history."""
        actions = [int(action) for action in history.actions]
        if not actions and (self._env.step_count == 0 or self._start is None):
            self._start = copy_level(self._env)
        if self._start is None:
            raise UserError("simulator world model: the first history asked about must have no action")
        if self._now is None or actions[: len(self._actions)] != self._actions or not actions:
            self._now = copy_level(self._start)
            self._actions, self._seen = [], [seen_cells(self._now)]
        for action in actions[len(self._actions) :]:
            self._now.step(action)
            self._seen.append(seen_cells(self._now))
            self._actions.append(action)
        if not _shows(self._now, history):
            raise UserError("simulator world model: the history is not of the level's present episode")


class BotPlan(NamedTuple):
    """What the bot would do: (h,) actions, and a likelihood that falls with what they lack or have too much."""

    actions: np.ndarray
    action_log_prob: float


@dataclass
class _Passes:
    """The count that a model and its states share."""

    made: int = 0


class _Lane(NamedTuple):
    """One imagined level, the cells known in it (None: all), and the bot that watches."""

    level: MiniGridEnv
    known: frozenset[Place] | None
    expert: Expert


class SimulatorState:
    """The protocol of ``RolloutState``: B copies of a level."""

    def __init__(
        self, lanes: list[_Lane], images: np.ndarray, outcomes: np.ndarray, confidence: np.ndarray, passes: _Passes
    ) -> None:
        self._lanes, self._passes = lanes, passes
        self.images, self.outcomes, self.confidence = images, outcomes, confidence
        self.directions = np.array([lane.level.agent_dir for lane in lanes], np.int64)
        self.log_prob = np.zeros(len(lanes), np.float32)

    def __len__(self) -> int:
        return len(self._lanes)

    def step(self, actions: np.ndarray, *, temperature: float = 0.0, generator: Any = None) -> SimulatorState:
        """Step copies of all levels. Lanes that have ended stay as they are.

        At temperature 0 cells never seen are empty. Above it what stands there is drawn when it comes into view, and
        stays; nothing else is uncertain.
        """
        self._passes.made += 1
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator))) if temperature else None
        lanes = list(self._lanes)
        images, outcomes, confidence = self.images.copy(), self.outcomes.copy(), self.confidence.copy()
        for row, action in enumerate(int(action) for action in actions):
            if outcomes[row, Outcome.SUCCESS] or outcomes[row, Outcome.FAILURE]:
                continue
            level = copy_level(lanes[row].level, moves_only=action <= grid.FORWARD and rng is None)
            _, reward, terminated, _, _ = level.step(action)
            known, things = lanes[row].known, []
            if rng is not None and known is not None:
                new = [place for place in _inside(level) if place not in known]
                things = draw_things(new, UNSEEN_CONFIDENCE, rng)
                put_things(level, things)
                known |= set(new)
            lanes[row] = _Lane(level, known, NextExpert(lanes[row].expert, action, things))
            outcome = Outcome.CONTINUE if not terminated else Outcome.SUCCESS if float(reward) > 0 else Outcome.FAILURE
            images[row] = fast_image(level)
            outcomes[row] = np.eye(len(Outcome), dtype=np.float32)[outcome]
            confidence[row] = _confidence(level, lanes[row].known)
        return SimulatorState(lanes, images, outcomes, confidence, self._passes)

    def policy(self) -> np.ndarray:
        """(B, 7) float32: the bot's action with probability 0.9, the rest spread evenly.

        The bot has watched all that was done, really and in imagination, and knows no more than the state. Where it
        fails, in a level without a bot, and where walls are not known, all actions are even.
        """
        self._passes.made += 1
        probabilities = np.full((len(self), len(grid.ACTIONS)), 1 / len(grid.ACTIONS), np.float32)
        for row, lane in enumerate(self._lanes):
            action = lane.expert.action
            if action is not None:
                probabilities[row] *= 0.1
                probabilities[row, action] += 0.9
        return probabilities

    def select(self, rows: np.ndarray) -> SimulatorState:
        """Copy, branch, reorder or drop lanes."""
        rows = np.asarray(rows, dtype=np.int64)
        lanes = [self._lanes[row] for row in rows]
        return SimulatorState(lanes, self.images[rows], self.outcomes[rows], self.confidence[rows], self._passes)

    @staticmethod
    def cat(states: Sequence[SimulatorState]) -> SimulatorState:
        """The lanes of several states in one, in order."""
        names = ("images", "outcomes", "confidence")
        images, outcomes, confidence = (np.concatenate([getattr(state, name) for state in states]) for name in names)
        lanes = [lane for state in states for lane in state._lanes]
        return SimulatorState(lanes, images, outcomes, confidence, states[0]._passes)


def _confidence(level: MiniGridEnv, known: frozenset[Place] | None) -> np.ndarray:
    """(7, 7) float32: 1 for cells known, less for the others."""
    if known is None:
        return np.ones((grid.VIEW, grid.VIEW), np.float32)
    cells = np.array([int(level.agent_pos[0]), int(level.agent_pos[1])]) + grid.world_offsets(level.agent_dir)
    inside = (cells >= 0).all(-1) & (cells < np.array([level.width, level.height])).all(-1)
    sure = np.array([(x, y) in known for x, y in cells.reshape(-1, 2).tolist()]).reshape(inside.shape)
    return np.where(sure | ~inside, 1, UNSEEN_CONFIDENCE).astype(np.float32)


def _inside(level: MiniGridEnv) -> list[Place]:
    """Cells in sight that lie inside the level."""
    return [(x, y) for x, y in seen_cells(level) if 0 <= x < level.width and 0 <= y < level.height]


def _shows(level: MiniGridEnv, history: Trajectory) -> bool:
    """Whether the level looks as the last observation of the history does."""
    return (
        level.mission == history.mission
        and int(level.agent_dir) == int(history.directions[-1])
        and np.array_equal(fast_image(level), history.images[-1])
    )
