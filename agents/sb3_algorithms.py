"""Stable-Baselines3's algorithms for symbolic views and missions: which there are, their settings, and how they act."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from wmtoolkit.envs.features import MissionGridExtractor
from wmtoolkit.envs.missions import action_masks
from wmtoolkit.errors import UserError

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.policies import BasePolicy
    from stable_baselines3.common.vec_env import VecEnv
except ImportError:
    raise UserError("Stable-Baselines3 is not installed: pip install 'wmtoolkit[sb3]'") from None

NETWORK: dict[str, Any] = {"features_dim": 128, "channels": 32, "hidden_size": 64}
"""Sizes of ``MissionGridExtractor`` and of the two layers behind it."""
_ON_POLICY: dict[str, Any] = {
    "learning_rate": 5e-4,
    "n_steps": 64,
    "batch_size": 256,
    "n_epochs": 4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
_DQN: dict[str, Any] = {
    "learning_rate": 5e-4,
    "buffer_size": 50_000,
    "learning_starts": 1_000,
    "batch_size": 128,
    "train_freq": 1,
    "gradient_steps": 2,
    "gamma": 0.99,
    "target_update_interval": 1_000,
    "exploration_fraction": 0.3,
    "exploration_final_eps": 0.05,
}
_SHARES = ("gamma", "gae_lambda", "exploration_fraction", "exploration_final_eps")


@dataclass(frozen=True)
class Algorithm:
    """An algorithm: its class, its policy, its settings with their defaults, those of the network among them."""

    package: str
    name: str
    policy: str
    settings: Mapping[str, Any]

    @property
    def cls(self) -> Any:
        """SB3's class.

        Raises:
            UserError: if its package is missing.
        """
        try:
            return getattr(import_module(self.package), self.name)
        except ImportError:
            raise UserError(f"{self.package} is not installed: pip install 'wmtoolkit[sb3]'") from None


ALGORITHMS = {
    "ppo": Algorithm("stable_baselines3", "PPO", "MultiInputPolicy", _ON_POLICY | NETWORK),
    "recurrent-ppo": Algorithm(
        "sb3_contrib", "RecurrentPPO", "MultiInputLstmPolicy", _ON_POLICY | NETWORK | {"lstm_hidden_size": 128}
    ),
    "dqn": Algorithm("stable_baselines3", "DQN", "MultiInputPolicy", _DQN | NETWORK),
    "maskable-ppo": Algorithm("sb3_contrib", "MaskablePPO", "MultiInputPolicy", _ON_POLICY | NETWORK),
}


def algorithm(name: str) -> Algorithm:
    """An algorithm by name.

    Raises:
        UserError: for an unknown one; the message lists the known ones.
    """
    if name not in ALGORITHMS:
        close = difflib.get_close_matches(name, ALGORITHMS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"unknown algorithm {name!r}{hint}; known are {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]


def resolved(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an algorithm, with ``changes`` to the defaults.

    Raises:
        UserError: for an unknown setting, or a value of another kind or out of range.
    """
    settings = dict(algorithm(name).settings)
    for key, value in changes.items():
        if key not in settings:
            raise UserError(f"{name} has no setting {key!r}; its settings: {', '.join(settings)}")
        whole = isinstance(settings[key], int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise UserError(f"setting {key} is {value!r}; it must be {'a whole number' if whole else 'a number'}")
        if not 0 <= value < float("inf") or (whole and value == 0 and key != "learning_starts"):
            raise UserError(f"setting {key} is {value}; it must be {'at least 1' if whole else 'a number, at least 0'}")
        if key in _SHARES and value > 1:
            raise UserError(f"setting {key} is {value}; it must be at most 1")
        settings[key] = value if whole else float(value)
    return settings


def make_learner(name: str, env: VecEnv, settings: Mapping[str, Any], seed: int = 0) -> BaseAlgorithm:
    """An SB3 model with a fresh policy, on the CPU."""
    kind = algorithm(name)
    network = _policy_options(settings)
    own = {key: value for key, value in settings.items() if key not in _NETWORK_KEYS}
    return kind.cls(kind.policy, env, policy_kwargs=network, seed=seed, device="cpu", **own)


def make_policy(
    name: str, settings: Mapping[str, Any], observation_space: spaces.Space, action_space: spaces.Space
) -> BasePolicy:
    """The policy alone, with random weights, as ``make_learner`` would make it."""
    kind = algorithm(name)
    policy = kind.cls.policy_aliases[kind.policy]
    return policy(observation_space, action_space, lambda _: 0.0, **_policy_options(settings))


def network_settings(settings: Mapping[str, Any]) -> dict[str, int]:
    """Those settings that decide the policy's architecture."""
    return {key: int(value) for key, value in settings.items() if key in _NETWORK_KEYS}


def log_probabilities(
    policy: Any,
    observations: Mapping[str, np.ndarray],
    state: tuple[torch.Tensor, torch.Tensor] | None,
    starts: np.ndarray,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Log-probabilities of the actions, with their gradient; of DQN, 0 for the best one and -inf for the others.

    Args:
        policy: of any of ``ALGORITHMS``.
        observations: of a tokenized level, B of them; a recurrent policy takes them lane by lane, each lane's in
            order.
        state: of a recurrent policy, one a lane; None at the start.
        starts: (B,) bool, whether an episode begins.

    Returns:
        (B, 7), and the state behind the last observation of each lane.
    """
    given: Any = policy.obs_to_tensor(dict(observations))[0]
    if hasattr(policy, "q_net"):
        best = policy.q_net(given).argmax(dim=1)
        return torch.nn.functional.one_hot(best, int(policy.action_space.n)).float().log(), None
    if hasattr(policy, "lstm_actor"):
        if state is None:
            layers, _, size = policy.lstm_hidden_state_shape
            state = (torch.zeros(layers, len(starts), size), torch.zeros(layers, len(starts), size))
        distribution, state = policy.get_distribution(given, state, torch.as_tensor(starts, dtype=torch.float32))
    elif policy.__class__.__name__.startswith("Maskable"):
        distribution = policy.get_distribution(given, np.tile(action_masks(), (len(starts), 1)))
    else:
        distribution = policy.get_distribution(given)
    return distribution.distribution.logits, state


def choose(
    policy: Any,
    observations: Mapping[str, np.ndarray],
    state: tuple[torch.Tensor, torch.Tensor] | None,
    starts: np.ndarray,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[torch.Tensor, torch.Tensor] | None]:
    """Actions (B,) int64, the likeliest ones or with ``rng`` drawn, the probabilities (B, 7), and the next state.

    DQN has no probabilities; where actions are drawn, as many of them are any as its exploration ends with by default,
    whatever the run's own ended with.
    """
    policy.set_training_mode(False)
    with torch.no_grad():
        logits, state = log_probabilities(policy, observations, state, starts)
    shares = logits.double().exp().numpy()
    shares /= shares.sum(axis=1, keepdims=True)
    if rng is None:
        return shares.argmax(axis=1), shares, state
    if hasattr(policy, "q_net"):
        any_share = _DQN["exploration_final_eps"]
        shares = (1 - any_share) * shares + any_share / shares.shape[1]
    drawn = (shares.cumsum(axis=1) > rng.random((len(shares), 1))).argmax(axis=1)
    return drawn, shares, state


_NETWORK_KEYS = (*NETWORK, "lstm_hidden_size")


def _policy_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "features_extractor_class": MissionGridExtractor,
        "features_extractor_kwargs": {key: settings[key] for key in ("features_dim", "channels")},
        "net_arch": [settings["hidden_size"]] * 2,
    }
    if "lstm_hidden_size" in settings:
        options["lstm_hidden_size"] = settings["lstm_hidden_size"]
    return options
