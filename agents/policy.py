"""Behaviour cloning by the world model: the action it holds the bot would take, given all that was seen."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from wmtoolkit.agents.protocol import Observation, WorldModel, remembered
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Trajectory


class PolicyAgent:
    """Acts on ``world_model.policy`` with the whole history.

    Args:
        world_model: asked once a decision.
        temperature: 0 takes the most probable action, 1 samples the policy, between sharpens it.
        seed: of the sampling.
    """

    def __init__(self, *, world_model: WorldModel, temperature: float = 0.0, seed: int = 0) -> None:
        if temperature < 0:
            raise UserError(f"agent 'policy': temperature must be at least 0, not {temperature}")
        self.diagnostics: dict[str, Any] = {}
        self._world_model, self._temperature = world_model, temperature
        self._rng = np.random.default_rng(seed)
        self._history: Trajectory | None = None
        self._action: int | None = None

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._history = self._action = None

    def act(self, observation: Observation) -> int:
        started, passes = time.perf_counter(), self._world_model.forward_passes
        self._history = remembered(self._history, self._action, observation)
        probabilities = np.asarray(self._world_model.policy([self._history])[0], dtype=np.float64)
        if self._temperature == 0:
            self._action = int(probabilities.argmax())
        else:
            sharpened = np.maximum(probabilities, 1e-12) ** (1 / self._temperature)
            self._action = int(self._rng.choice(len(sharpened), p=sharpened / sharpened.sum()))
        self.diagnostics = {
            "forward_passes": self._world_model.forward_passes - passes,
            "milliseconds": 1000 * (time.perf_counter() - started),
            "probabilities": probabilities,
        }
        return self._action
