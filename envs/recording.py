"""Keeps the trajectory of a running episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from wmtoolkit.world.trajectory import Trajectory


class Recorder:
    """Appends steps to a history in constant time; ``trajectory`` puts the arrays together when asked."""

    def __init__(self, history: Trajectory) -> None:
        self.history = history
        self.steps: list[tuple[np.ndarray, int, int, float, bool, bool]] = []

    def __len__(self) -> int:
        """Number of actions, those of the history included."""
        return len(self.history) + len(self.steps)

    def add(
        self, action: int, observation: Mapping[str, Any], reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Record one step; the arguments are those of Gymnasium's ``step``."""
        image = np.array(observation["image"], dtype=np.uint8)
        self.steps.append(
            (image, int(observation["direction"]), int(action), float(reward), bool(terminated), bool(truncated))
        )

    @property
    def trajectory(self) -> Trajectory:
        """The history and every step since."""
        if not self.steps:
            return self.history
        images, directions, actions, rewards, terminations, truncations = zip(*self.steps, strict=True)
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
