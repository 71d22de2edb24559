"""The reference at the top: a scripted expert that reads the real level."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmtoolkit.agents.protocol import Observation
from wmtoolkit.data import behaviours
from wmtoolkit.errors import UserError


class BotAgent:
    """BabyAI's bot, or a walker to the goal square in levels without a BabyAI instruction.

    ``act`` raises ``behaviours.BehaviourError`` where the bot gives up, breaks or runs in circles, as it does on a
    few of BabyAI's levels.

    Args:
        env: the level it acts in.
        seed: unused, the bot is deterministic.

    Raises:
        UserError: for an imagined level, which has nothing for it to read.
    """

    def __init__(self, *, env: Any, seed: int = 0) -> None:
        self._level = env.unwrapped
        if not hasattr(self._level, "carrying"):
            raise UserError("agent 'bot' reads a real level: it cannot act in imagination; take another or --real")
        self.diagnostics: dict[str, Any] = {}
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        self._actor: behaviours.Actor | None = None
        self._action: int | None = None

    def act(self, observation: Observation) -> int:
        if self._actor is None:
            self._actor = behaviours.bot(self._level, np.random.default_rng(0))
        self._action = self._actor(dict(observation), self._action)
        return self._action
