"""Where imagination begins: a real level's first view, or a look around in it, a recorded view, a dreamt one, or any
trajectory."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.data import EpisodeStore, open_store
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.envs.checks import whole
from wmtoolkit.envs.grammar import is_mission, unposed_verbs
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.rollout import RolloutState
from wmtoolkit.world.trajectory import Trajectory

KINDS = ("level", "look_around", "dataset", "branch", "dream")
FRESH = ("level", "look_around")
"""Those that begin where a real episode does, and need no recordings."""
LOOKS = 4
"""Turns to the left of a look around, the last of which leads back to where it began."""


@dataclass(frozen=True)
class Opening:
    """A beginning.

    Attributes:
        mission: the instruction.
        max_steps: step count at which the episode is truncated.
        history: at least one observation; None: the first observation is yet to be dreamt.
        shown: what the model is shown in place of ``history``, whose end it shares; None: just that.
    """

    mission: str
    max_steps: int
    history: Trajectory | None
    shown: Trajectory | None = None


class Starts:
    """Draws beginnings for one lane of imagination; the real level it belongs to gives the spaces and the limit.

    Args:
        level: id of a MiniGrid/BabyAI level.
        start: ``"level"`` (the real level's first observation under the reset seed), ``"look_around"`` (the same, and
            the model, though not the agent, is shown what a turn on the spot would show: four real steps, neither
            counted against the limit nor part of the trajectory; it needs a model that remembers cells),
            ``"dataset"`` (first observation of a recorded episode), ``"branch"`` (any moment of one but its last,
            within the limit), ``"dream"`` (a mission that the level poses, its first observation drawn from the model),
            or a ``Trajectory`` to continue.
        recordings: the episodes that ``"dataset"`` and ``"branch"`` draw from (see ``recordings``).
        max_steps: fixed limit; None: what the level computes for the mission at its reset.

    Raises:
        UserError: for an unknown level or start, a trajectory that has ended or is malformed.
    """

    def __init__(
        self,
        level: str,
        start: str | Trajectory = "level",
        recordings: Sequence[Trajectory] = (),
        max_steps: int | None = None,
    ) -> None:
        fixed: dict[str, Any] = {} if max_steps is None else {"max_steps": whole(max_steps, "max_steps")}
        self.level = make_level(level, **fixed)
        self.name = level
        self.recordings = recordings
        self.start = start
        self.fixed = None
        if isinstance(start, Trajectory):
            self.fixed = self.continuation(start)
        elif not isinstance(start, str) or start not in KINDS:
            raise UserError(f"start {start!r} is not one of {', '.join(KINDS)}, nor a Trajectory")
        elif start == "look_around" and not isinstance(self.level.unwrapped, MiniGridEnv):
            raise UserError(f"start='look_around' needs a level of MiniGrid, which {level} is not")
        elif start in ("dataset", "branch") and not len(recordings):
            raise UserError(f"start={start!r} needs dataset=, a Minari id, a folder or a list of trajectories")

    def draw(self, seed: int | None, rng: np.random.Generator) -> Opening:
        """The next beginning.

        Args:
            seed: resets the real level when given; without it the level goes on with its own stream.
            rng: chooses among recordings.
        """
        if self.fixed is not None:
            return self.fixed
        if self.start in ("dataset", "branch"):
            episode = self.recordings[int(rng.integers(len(self.recordings)))]
            if self.start == "dataset":
                return self.continuation(episode.prefix(0))
            moments = min(len(episode), mission_max_steps(self.level, episode.mission))
            return self.continuation(episode.prefix(int(rng.integers(max(1, moments)))))
        observation = reset_level(self.level, seed)
        limit: int = self.level.max_steps  # type: ignore[attr-defined]
        if self.start == "dream":
            return Opening(observation["mission"], limit, None)
        history = Trajectory.start(observation, level=self.name, seed=seed)
        shown = _look_around(self.level, history) if self.start == "look_around" else None
        return Opening(history.mission, limit, history, shown)

    def continuation(self, history: Trajectory) -> Opening:
        """The beginning that goes on from ``history``, whose steps count.

        Raises:
            UserError: if it is not a trajectory or malformed, has ended, is past the limit, or its mission is none
                that the level, or for BabyAI any level, could pose.
            UserWarning: if a BabyAI mission asks for something that the level never asks for.
        """
        if not isinstance(history, Trajectory):
            given = repr(history) if isinstance(history, str) else type(history).__name__
            raise UserError(
                f"start: reset continues from a Trajectory, not {given}; kinds of starts go to the constructor"
            )
        history.validate("start")
        self._check_mission(history.mission)
        limit = mission_max_steps(self.level, history.mission)
        if history.terminations.any():
            raise UserError("start: the trajectory has already ended; take an earlier prefix of it")
        if len(history) >= limit:
            raise UserError(f"start: the trajectory has {len(history)} steps, the limit is {limit}; raise max_steps")
        return Opening(history.mission, limit, history)

    def _check_mission(self, mission: str) -> None:
        if not self.level.observation_space["mission"].contains(mission):  # type: ignore[index]
            raise UserError(f"start: {mission!r} is not a mission of {self.name}")
        base = self.level.unwrapped
        if not (isinstance(base, RoomGridLevel) and type(base).__module__.startswith("minigrid.")):
            return  # only the space of BabyAI's own levels takes every string, and only their grammar is known
        if not is_mission(mission):
            raise UserError(f"start: {mission!r} is not a mission in BabyAI's grammar, such as 'go to the red ball'")
        if strange := unposed_verbs(self.name, mission):
            verbs = ", ".join(repr(verb) for verb in strange)
            warnings.warn(f"start: no mission of {self.name} says {verbs}, but {mission!r} does", stacklevel=3)


def shown_memory(start: str | Trajectory, world_model: AnyOrderWorldModel, memory: int | None) -> int:
    """How much of the past the model is shown, see ``WorldConfig.checked_memory``.

    Raises:
        UserError: for a memory that the model cannot be shown, or in which a look around would be forgotten.
    """
    world = world_model.network.world
    checked = world.checked_memory(memory)
    if start == "look_around" and not (world.memory and checked):
        raise UserError("start='look_around' needs a model that remembers cells: world.memory and memory above 0")
    return checked


def _look_around(level: gymnasium.Env, history: Trajectory) -> Trajectory:
    """``history`` and what the agent of a level would see if it turned to the left once around, with all else standing
    still. It does not turn: to face something may be what the mission asks for."""
    base: Any = level.unwrapped
    for _ in range(LOOKS):
        base.agent_dir = (base.agent_dir - 1) % len(grid.DIRECTIONS)
        history = history.extended(grid.LEFT, base.gen_obs())
    return history


def begin(
    world_model: AnyOrderWorldModel,
    openings: Sequence[Opening],
    generators: Sequence[torch.Generator],
    memory: int | None = None,
) -> tuple[RolloutState, list[Trajectory]]:
    """The state of the world model at n beginnings, and their histories; dreams are dreamt with n generators.

    ``memory``: how much of the past the model is shown, see ``WorldConfig.checked_memory``.
    """
    dreams = [lane for lane, opening in enumerate(openings) if opening.history is None]
    known = [opening.shown or opening.history for opening in openings if opening.history is not None]
    states = [world_model.rollout_state(known, memory=memory)] if known else []
    if dreams:
        missions = [openings[lane].mission for lane in dreams]
        states.append(world_model.dream(missions, generator=[generators[lane] for lane in dreams], memory=memory))
    order = [lane for lane, opening in enumerate(openings) if opening.history is not None] + dreams
    state = states[0] if len(states) == 1 else RolloutState.cat(states).select(np.argsort(order))
    histories = []
    for lane, opening in enumerate(openings):
        first = {"image": state.images[lane], "direction": state.directions[lane], "mission": opening.mission}
        histories.append(Trajectory.start(first) if opening.history is None else opening.history)
    return state, histories


def recordings(dataset: str | os.PathLike[str] | Sequence[Trajectory] | None, level: str) -> Sequence[Trajectory]:
    """The episodes of a dataset that belong to ``level`` (those that do not name theirs count as belonging).

    Args:
        dataset: Minari id, folder, or trajectories; None: no episodes.
        level: id of the level.

    Raises:
        UserError: if the dataset is missing or broken, or holds no episode of the level.
    """
    if dataset is None:
        return ()
    if isinstance(dataset, (str, os.PathLike)):
        store = open_store([os.fspath(dataset)])
        episodes = [name in ("", level) for name in store.level_ids]
        chosen: Sequence[Trajectory] = _Stored(store, np.flatnonzero(np.array(episodes)[store.levels]))
    else:
        given = list(dataset) if isinstance(dataset, Iterable) else [dataset]
        if strange := sorted({type(episode).__name__ for episode in given if not isinstance(episode, Trajectory)}):
            raise UserError(f"dataset= is a Minari id, a folder or trajectories, not {', '.join(strange)}")
        chosen = [episode for episode in given if episode.level in (None, level)]
    if not chosen:
        name = str(dataset) if isinstance(dataset, (str, os.PathLike)) else f"of {len(given)} trajectories"
        raise UserError(f"dataset {name} holds no episode of {level}")
    return chosen


class _Stored(Sequence[Trajectory]):
    """Some episodes of a store, read when asked for."""

    def __init__(self, store: EpisodeStore, episodes: np.ndarray) -> None:
        self.store, self.episodes = store, episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: Any) -> Any:
        return self.store.trajectory(int(self.episodes[index]))


def mission_max_steps(level: gymnasium.Env, mission: str) -> int:
    """The step limit that a level sets at its reset when it poses ``mission``.

    BabyAI allows, for each navigation the mission needs, as many steps as the maze has cells; ``put`` needs two.
    """
    base: Any = level.unwrapped
    if getattr(base, "fixed_max_steps", True):
        return int(base.max_steps)
    clauses = re.split(r", then | after you | and ", mission)
    navigations = sum(2 if clause.startswith("put ") else 1 for clause in clauses)
    return navigations * base.room_size**2 * base.num_rows * base.num_cols
