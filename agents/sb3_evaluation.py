"""How well a policy does in a real level, many episodes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from wmtoolkit.agents.sb3_algorithms import choose
from wmtoolkit.envs.sb3 import make_sb3_vec_env

FIRST_SEED = 900_000
"""Level seed of the first episode; training never draws these (see ``sb3_randomness.level_seed``)."""


class RealEvaluation:
    """The same episodes of a level for every policy: lane i plays the level of seed ``FIRST_SEED + i``, once.

    Args:
        level: id of the level.
        episodes: how many.
        options: of ``make_sb3_vec_env``, e.g. ``max_steps``.
    """

    def __init__(self, level: str, episodes: int, **options: Any) -> None:
        self._env: VecEnv = make_sb3_vec_env(level, episodes, imagined=False, **options)

    def __call__(self, policy: Any, rng: np.random.Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Success (n,) bool and length (n,) of each episode; actions are the likeliest ones, or drawn with ``rng``."""
        env = self._env
        env.seed(FIRST_SEED)
        observations: Any = env.reset()
        state, starts = None, np.ones(env.num_envs, bool)
        success, length = np.zeros(env.num_envs, bool), np.zeros(env.num_envs, np.int64)
        running = np.ones(env.num_envs, bool)
        while running.any():
            actions, _, state = choose(policy, observations, state, starts, rng)
            observations, rewards, starts, _ = env.step(actions)
            length += running
            success |= running & starts & (rewards > 0)
            running &= ~starts
        return success, length

    def close(self) -> None:
        self._env.close()
