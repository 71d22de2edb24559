"""Behaviour cloning by the world model: the action it holds the bot would take, given all that was seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from wmtoolkit.agents.budget import check_amounts
from wmtoolkit.agents.protocol import Observation, WorldModel, remembered
from wmtoolkit.world.trajectory import Trajectory


class PolicyAgent:
    """Acts on ``world_model.policy`` with the whole history.

    Args:
        world_model: asked once a decision.
        temperature: 0 takes the most probable action, 1 samples the policy, between sharpens it.
        seed: of the sampling.
    """

    def __init__(self, *, world_model: WorldModel, temperature: float = 0.0, seed: int = 0) -> None:
        check_amounts(temperature=temperature)
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
        return self.act_together([self], [observation])[0]

    @staticmethod
    def act_together(agents: Sequence[PolicyAgent], observations: Sequence[Observation]) -> list[int]:
        """``act`` of several agents of one world model, each with an observation of its own, asked in one batch.

        In ``diagnostics`` the passes are those of the batch, the milliseconds each agent's share of its time.
        """
        started, model = time.perf_counter(), agents[0]._world_model
        passes = model.forward_passes
        histories = [
            remembered(agent._history, agent._action, observation)
            for agent, observation in zip(agents, observations, strict=True)
        ]
        policy = np.asarray(model.policy(histories), dtype=np.float64)
        passes, share = model.forward_passes - passes, 1000 * (time.perf_counter() - started) / len(agents)
        actions = [agent._choose(probabilities) for agent, probabilities in zip(agents, policy, strict=True)]
        for agent, history, probabilities, action in zip(agents, histories, policy, actions, strict=True):
            agent._history, agent._action = history, action
            agent.diagnostics = {"forward_passes": passes, "milliseconds": share, "probabilities": probabilities}
        return actions

    def _choose(self, probabilities: np.ndarray) -> int:
        if self._temperature == 0:
            return int(probabilities.argmax())
        sharpened = softmax(np.log(np.maximum(probabilities, 1e-12)) / self._temperature)
        return int(self._rng.choice(len(sharpened), p=sharpened))
