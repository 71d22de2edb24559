"""Keeps the trajectory of a running episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from wmtoolkit.world.trajectory import Trajectory

_FIELDS = tuple(field.name for field in fields(Trajectory))


class Recorder:
    """Appends steps to a history; ``trajectory`` puts the arrays together when asked.

    Steps are a chain that never changes, newest first, so that adding one, looking back (``so_far``) and branching
    (``fork``) cost the same however long the episode is.
    """

    def __init__(self, history: Trajectory) -> None:
        self.history = history
        self._last: tuple[Any, ...] | None = None
        self._count = 0

    def __len__(self) -> int:
        """Number of actions, those of the history included."""
        return len(self.history) + self._count

    def add(
        self, action: int, observation: Mapping[str, Any], reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Record one step; the arguments are those of Gymnasium's ``step``."""
        image = np.array(observation["image"], dtype=np.uint8)
        step = (image, int(observation["direction"]), int(action), float(reward), bool(terminated), bool(truncated))
        self._last = (self._last, step)
        self._count += 1

    def fork(self) -> Recorder:
        """A recorder that goes on by itself from what was recorded until now."""
        twin = Recorder(self.history)
        twin._last, twin._count = self._last, self._count
        return twin

    @property
    def trajectory(self) -> Trajectory:
        """The history and every step since."""
        steps, last = [], self._last
        while last is not None:
            last, step = last
            steps.append(step)
        if not steps:
            return self.history
        images, directions, actions, rewards, terminations, truncations = zip(*reversed(steps), strict=True)
        past = self.history
        return replace(
            past,
            images=np.concatenate([past.images, np.stack(images)]),
            directions=np.append(past.directions, np.array(directions, np.int64)),
            actions=np.append(past.actions, np.array(actions, np.int64)),
            rewards=np.append(past.rewards, np.array(rewards, np.float32)),
            terminations=np.append(past.terminations, np.array(terminations, bool)),
            truncations=np.append(past.truncations, np.array(truncations, bool)),
        )

    @property
    def so_far(self) -> Trajectory:
        """``trajectory`` as of now, put together only if it is read."""
        return TrajectorySoFar.of(self.fork())


class TrajectorySoFar(Trajectory):
    """A ``Trajectory`` whose arrays are put together when one is first read, so that an ``info`` may hold it for free.

    What goes to another process is a plain ``Trajectory``.
    """

    @classmethod
    def of(cls, recorder: Recorder) -> TrajectorySoFar:
        """What ``recorder`` holds; it must not record any more."""
        made = object.__new__(cls)
        past = recorder.history
        known = {"mission": past.mission, "behaviour": past.behaviour, "level": past.level, "seed": past.seed}
        made.__dict__.update(known, _recorder=recorder)
        return made

    def __getattr__(self, name: str) -> Any:
        recorder = self.__dict__.get("_recorder")
        if recorder is None or name not in _FIELDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        whole = recorder.trajectory
        self.__dict__.update({field: getattr(whole, field) for field in _FIELDS})
        return self.__dict__[name]

    def __copy__(self) -> TrajectorySoFar:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Trajectory:
        return self  # as often as Stable-Baselines3 copies infos: once a step

    def __reduce__(self) -> tuple[Any, ...]:
        return Trajectory, tuple(getattr(self, field) for field in _FIELDS)
