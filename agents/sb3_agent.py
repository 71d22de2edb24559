"""A trained Stable-Baselines3 policy as an agent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.agents.protocol import Observation
from wmtoolkit.agents.sb3_algorithms import choose
from wmtoolkit.agents.sb3_files import load_policy, load_zip
from wmtoolkit.envs.missions import mission_ids


class SB3Agent:
    """Acts on the present observation, and with a recurrent policy on what it remembers of those before.

    Args:
        policy: of SB3, made for tokenized observations.
        sampled: draw actions instead of taking the likeliest.
        seed: of the drawing.
    """

    def __init__(self, policy: Any, *, sampled: bool = False, seed: int = 0) -> None:
        self.diagnostics: dict[str, Any] = {}
        self._policy, self._sampled = policy, sampled
        self._rng = np.random.default_rng(seed)
        self._state: Any = None
        self._starts = True

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._state, self._starts = None, True

    def act(self, observation: Observation) -> int:
        started = time.perf_counter()
        tokens: dict[str, np.ndarray] = {
            "direction": np.array([observation["direction"]], dtype=np.int64),
            "image": np.array(observation["image"], dtype=np.uint8).reshape(1, -1),
            "mission": mission_ids(observation["mission"])[None],
        }
        rng = self._rng if self._sampled else None
        actions, shares, self._state = choose(self._policy, tokens, self._state, np.array([self._starts]), rng)
        self._starts = False
        self.diagnostics = {"milliseconds": 1000 * (time.perf_counter() - started), "probabilities": shares[0]}
        return int(actions[0])


class SavedSB3Agent(SB3Agent):
    """``sb3:FILE``: a policy of ``wmtool train-policy``, or a .zip of SB3.

    Args:
        file: the policy's folder, its run's, or a .zip.
        trust: allow a .zip, which runs code when it is read.
        algo: what a .zip was made by.
        sampled, seed: see ``SB3Agent``.
    """

    def __init__(
        self, *, file: str, trust: bool = False, algo: str = "ppo", sampled: bool = False, seed: int = 0
    ) -> None:
        path = Path(file)
        policy = load_zip(path, algo, trust) if path.suffix == ".zip" else load_policy(path)[0]
        super().__init__(policy, sampled=sampled, seed=seed)
