"""Imagined and real levels for Stable-Baselines3, made with the same lines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TimeLimit

from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.envs.belief import VectorBeliefCompletion
from wmtoolkit.envs.checkpoints import load_world_model
from wmtoolkit.envs.checks import autoreset, whole
from wmtoolkit.envs.imagination_vector import ImaginationVectorEnv
from wmtoolkit.envs.lanes import lane_infos
from wmtoolkit.envs.missions import action_masks, mission_ids, tokenized_space
from wmtoolkit.envs.observability import VectorPartialObservability
from wmtoolkit.envs.pessimism import PessimisticImagination, Trust
from wmtoolkit.envs.real import make_real_env
from wmtoolkit.errors import UserError
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import MAX_WORDS

try:
    from stable_baselines3.common.vec_env import VecEnv, VecMonitor
except ImportError:
    raise UserError("Stable-Baselines3 is not installed: pip install 'wmtoolkit[sb3]'") from None


IMAGINATION_ONLY = ("temperature", "decoding_steps", "memory", "start", "dataset", "device", "precision")
"""Options of ``ImaginationVectorEnv`` that mean nothing to a real level."""


def make_sb3_vec_env(
    level: str = DEFAULT_LEVEL,
    num_envs: int = 8,
    imagined: bool = True,
    checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None = None,
    *,
    seed: int | None = None,
    partial_observability: Mapping[str, Any] | None = None,
    belief: Mapping[str, Any] | None = None,
    trust: Trust | None = None,
    max_words: int = MAX_WORDS,
    **kwargs: Any,
) -> VecMonitor:
    """A monitored SB3 ``VecEnv`` of an imagined or a real level, missions tokenized.

    The same line makes both: where ``imagined`` is False, the options that only imagination has (``IMAGINATION_ONLY``)
    are left aside.

    Args:
        level: id of a MiniGrid/BabyAI level.
        num_envs: number of lanes; imagined ones share the passes of the network.
        imagined: in the world model, or for real.
        checkpoint: of the world model that imagines or believes; None: the packaged one.
        seed: lane i starts with seed + i; None: unpredictable, or what the algorithm sets.
        partial_observability: attributes of ``Corruption``, e.g. ``{"cell_dropout": 0.3}``.
        belief: the world model fills in what is hidden: settings of ``Belief``, e.g. ``{"fill": "mode"}``.
        trust: cut imagined episodes where the model is unsure, see ``PessimisticImagination``; not for real levels.
        max_words: length of the mission vector.
        kwargs: ``max_steps``, ``max_episode_steps``, ``render_mode``; for imagination also what else
            ``ImaginationVectorEnv`` takes (``temperature``, ``start``, ...), for a real level what else it takes.

    Raises:
        UserError: for an unknown level, a missing checkpoint, a value out of range, ``trust`` in a real level.
    """
    if imagined:
        imagination = ImaginationVectorEnv(num_envs, level, checkpoint, **kwargs)
        env: VectorEnv = imagination if trust is None else PessimisticImagination(imagination, trust)
    elif trust is not None:
        raise UserError("trust cuts what is imagined: leave it out for a real level (imagined=False)")
    else:
        env = _real_vector(level, num_envs, {key: kwargs[key] for key in kwargs if key not in IMAGINATION_ONLY})
    if partial_observability:
        env = VectorPartialObservability(env, **partial_observability)
    if belief is not None:
        loading = {key: kwargs[key] for key in ("device", "precision") if key in kwargs}
        env = VectorBeliefCompletion(env, load_world_model(checkpoint, **loading), **belief)
    vec_env = SB3VecEnv(env, max_words)
    if seed is not None:
        vec_env.seed(seed)
    return VecMonitor(vec_env)


def _real_vector(level: str, num_envs: int, options: dict[str, Any]) -> VectorEnv:
    limit = options.pop("max_episode_steps", None)
    limit = None if limit is None else whole(limit, "max_episode_steps")

    def make() -> gymnasium.Env:
        env = make_real_env(level, **options)
        return env if limit is None else TimeLimit(env, limit)

    return SyncVectorEnv([make] * whole(num_envs, "num_envs"), autoreset_mode=AutoresetMode.SAME_STEP)


class SB3VecEnv(VecEnv):
    """Adapts a Gymnasium vector environment with BabyAI-shaped observations to SB3's ``VecEnv``.

    Args:
        env: resets finished lanes in the same step.
        max_words: length of the mission vector.

    Raises:
        UserError: if ``env`` has another autoreset mode or other observations.
    """

    def __init__(self, env: VectorEnv, max_words: int = MAX_WORDS) -> None:
        autoreset(env, "Stable-Baselines3", AutoresetMode.SAME_STEP)
        self.env = env
        self.num_envs = env.num_envs
        self._actions = np.zeros(env.num_envs, dtype=np.int64)
        self._ids = lru_cache(maxsize=4096)(lambda mission: mission_ids(mission, max_words))
        space = tokenized_space(env.single_observation_space, max_words)
        super().__init__(env.num_envs, space, env.single_action_space)

    def reset(self) -> dict[str, np.ndarray]:
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        options = {"start": [own.get("start") for own in self._options]} if any(self._options) else None
        observation, infos = self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self.reset_infos = lane_infos(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return self._tokenized(observation)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, rewards, terminations, truncations, infos = self.env.step(self._actions)
        dones = terminations | truncations
        final_obs, final_info = infos.pop("final_obs", None), infos.pop("final_info", None)
        infos = {key: value for key, value in infos.items() if key not in ("_final_obs", "_final_info")}
        lanes = lane_infos(infos, self.num_envs)
        if dones.any():
            last = lane_infos(final_info, self.num_envs)
            for lane in np.flatnonzero(dones).tolist():
                self.reset_infos[lane] = lanes[lane]
                lanes[lane] = {**last[lane], "terminal_observation": self._tokenized_one(final_obs[lane])}
        for lane, info in enumerate(lanes):
            info["TimeLimit.truncated"] = bool(truncations[lane] and not terminations[lane])
        return self._tokenized(observation), rewards.astype(np.float32), dones, lanes

    def close(self) -> None:
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        frames: Any = self.env.render()
        return list(frames) if frames is not None else [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the vector environment, which all lanes share, once a lane."""
        value = action_masks if attr_name == "action_masks" else getattr(self.env.unwrapped, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment, for all lanes at once.

        Raises:
            ValueError: if ``indices`` leaves lanes out.
        """
        if indices is not None and set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"lanes share their attributes: set {attr_name} for all of them")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call ``action_masks`` for each lane.

        Raises:
            AttributeError: for any other name; lanes are not objects of their own.
        """
        if method_name != "action_masks":
            raise AttributeError(f"lanes have no method {method_name!r}, only action_masks")
        return [action_masks() for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]

    def _tokenized(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {
            "direction": np.array(observation["direction"], dtype=np.int64),
            "image": np.array(observation["image"], dtype=np.uint8).reshape(self.num_envs, -1),
            "mission": np.stack([self._ids(mission) for mission in observation["mission"]]),
        }

    def _tokenized_one(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "direction": np.int64(observation["direction"]),
            "image": np.array(observation["image"], dtype=np.uint8).reshape(-1),
            "mission": self._ids(observation["mission"]).copy(),
        }
