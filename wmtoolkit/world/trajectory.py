"""One episode in integer arrays: what environments produce, datasets store and the world model completes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np

from wmtoolkit.errors import UserError
from wmtoolkit.world import grid


class Outcome(IntEnum):
    """What a step led to. Truncation is a time limit, not the world's doing: it counts as CONTINUE."""

    START = 0
    CONTINUE = 1
    SUCCESS = 2
    FAILURE = 3


BEHAVIOURS: tuple[str, ...] = ("bot", "noisy", "random", "tour", "agent")
"""Who acted. The policy query asks for ``bot``; ``agent`` is any other policy, imagined or trained."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """An episode of T actions, or its beginning.

    Attributes:
        mission: the instruction, in BabyAI's grammar.
        images: (T+1, 7, 7, 3) uint8, MiniGrid's egocentric encoding, ``[column, row]`` of (object, colour, state).
        directions: (T+1,) int64, heading 0-3 (right, down, left, up).
        actions: (T,) int64, 0-6.
        rewards: (T,) float32, as the environment gave them.
        terminations, truncations: (T,) bool, with Gymnasium's meaning.
        behaviour: one of ``BEHAVIOURS``.
        level: id of the level it comes from, if known.
        seed: the seed that reset the level, if known.
    """

    mission: str
    images: np.ndarray
    directions: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    behaviour: str = "agent"
    level: str | None = field(default=None, compare=False)
    seed: int | None = field(default=None, compare=False)

    def __len__(self) -> int:
        """Number of actions T."""
        return len(self.actions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Trajectory):
            return NotImplemented
        arrays = ("images", "directions", "actions", "rewards", "terminations", "truncations")
        return (self.mission, self.behaviour) == (other.mission, other.behaviour) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays
        )

    @property
    def outcomes(self) -> np.ndarray:
        """(T+1,) int64 of ``Outcome``, START first."""
        result = np.full(len(self) + 1, Outcome.CONTINUE, dtype=np.int64)
        result[0] = Outcome.START
        result[1:][self.terminations & (self.rewards > 0)] = Outcome.SUCCESS
        result[1:][self.terminations & ~(self.rewards > 0)] = Outcome.FAILURE
        return result

    @property
    def success(self) -> bool:
        """Whether the episode ended in the mission's success."""
        return bool(len(self)) and bool(self.terminations[-1]) and float(self.rewards[-1]) > 0

    def observation(self, step: int = -1) -> dict[str, Any]:
        """The observation dict of one step, as the environment gave it (fresh arrays)."""
        return {
            "image": self.images[step].copy(),
            "direction": np.int64(self.directions[step]),
            "mission": self.mission,
        }

    def prefix(self, steps: int) -> Trajectory:
        """The first ``steps`` actions with the observations up to the one after them."""
        return replace(
            self,
            images=self.images[: steps + 1],
            directions=self.directions[: steps + 1],
            **{name: getattr(self, name)[:steps] for name in ("actions", "rewards", "terminations", "truncations")},
        )

    @classmethod
    def start(cls, observation: Mapping[str, Any], **metadata: Any) -> Trajectory:
        """A trajectory of one observation and no action; ``metadata``: behaviour, level, seed."""
        return cls(
            mission=str(observation["mission"]),
            images=np.asarray(observation["image"], dtype=np.uint8)[None].copy(),
            directions=np.array([int(observation["direction"])], dtype=np.int64),
            actions=np.zeros(0, np.int64),
            rewards=np.zeros(0, np.float32),
            terminations=np.zeros(0, bool),
            truncations=np.zeros(0, bool),
            **metadata,
        )

    def extended(
        self,
        action: int,
        observation: Mapping[str, Any],
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> Trajectory:
        """A new trajectory with one more step (cost O(T); recorders collect lists instead)."""
        return replace(
            self,
            images=np.concatenate([self.images, np.asarray(observation["image"], dtype=np.uint8)[None]]),
            directions=np.append(self.directions, int(observation["direction"])),
            actions=np.append(self.actions, int(action)),
            rewards=np.append(self.rewards, np.float32(reward)).astype(np.float32),
            terminations=np.append(self.terminations, bool(terminated)),
            truncations=np.append(self.truncations, bool(truncated)),
        )

    def validate(self, where: str = "trajectory") -> Trajectory:
        """Return self, or raise ``UserError`` that names ``where`` and the first thing that is wrong."""
        steps = len(self.actions)
        shapes = {
            "images": (steps + 1, grid.VIEW, grid.VIEW, 3),
            "directions": (steps + 1,),
            "rewards": (steps,),
            "terminations": (steps,),
            "truncations": (steps,),
        }
        for name, shape in shapes.items():
            found = np.shape(getattr(self, name))
            if found != shape:
                raise UserError(f"{where}: {name} has shape {found}, but {steps} actions need {shape}")
        limits = {"actions": len(grid.ACTIONS), "directions": len(grid.DIRECTIONS)}
        for name, limit in limits.items():
            values = getattr(self, name)
            if len(values) and not (values.min() >= 0 and values.max() < limit):
                raise UserError(f"{where}: {name} holds values outside 0..{limit - 1}")
        for channel, (name, limit) in enumerate(
            (("object", len(grid.OBJECTS)), ("colour", len(grid.COLORS)), ("state", len(grid.STATES)))
        ):
            if self.images[..., channel].max() >= limit:
                raise UserError(f"{where}: images hold {name} ids outside 0..{limit - 1}")
        if not np.isfinite(self.rewards).all():
            raise UserError(f"{where}: rewards are not finite")
        unknown = [word for word in mission_words(self.mission) if word not in grid.WORDS]
        if unknown:
            raise UserError(f"{where}: mission {self.mission!r} has unknown words: {', '.join(unknown)}")
        if self.behaviour not in BEHAVIOURS:
            raise UserError(f"{where}: behaviour {self.behaviour!r} is not one of {', '.join(BEHAVIOURS)}")
        return self


def mission_words(mission: str) -> list[str]:
    """Split a mission into words; the comma is a word of its own."""
    return mission.replace(",", " , ").split()


def mission_text(words: list[str]) -> str:
    """Inverse of ``mission_words`` for missions of BabyAI's grammar."""
    return " ".join(words).replace(" ,", ",")
