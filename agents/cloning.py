"""A warm start: a policy learns to act as the world model believes the bot would, in imagination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wmtoolkit.agents.sb3_algorithms import log_probabilities
from wmtoolkit.envs.imagination_vector import ImaginationVectorEnv
from wmtoolkit.envs.missions import action_masks
from wmtoolkit.envs.sb3 import SB3VecEnv
from wmtoolkit.errors import UserError
from wmtoolkit.progress import progress

EPOCHS = 8
"""Times each lesson is gone through."""
SPAN = 16
"""Steps of a lane that a recurrent policy learns from in one go."""
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Lessons:
    """What a teacher was seen to do, T steps in n lanes.

    Attributes:
        observations: tokenized, each (T, n, ...).
        shares: (T, n, 7) probabilities of the teacher's actions.
        starts: (T, n) bool, whether an episode begins.
        episodes: that ended, each followed by the next one's beginning.
    """

    observations: Mapping[str, np.ndarray]
    shares: np.ndarray
    starts: np.ndarray
    episodes: int


def lessons(env: ImaginationVectorEnv, steps: int, seed: int) -> Lessons:
    """Let the world model's own policy act in its own imagination; two forward passes a step of all lanes.

    Where imagination began with a look around it takes one more: the teacher is not told, for whoever learns from it
    sees one view.

    Args:
        env: where it acts.
        steps: at least so many, over all lanes.
        seed: of the levels and of the actions, which are drawn.
    """
    lanes, rng = SB3VecEnv(env), np.random.default_rng(seed)
    lanes.seed(seed)
    observation: Any = lanes.reset()
    seen: list[dict[str, np.ndarray]] = []
    shares, starts = [], [np.ones(env.num_envs, bool)]
    count = -(-steps // env.num_envs)
    with progress("clone", total=count * env.num_envs) as bar:
        for _ in range(count):
            told = np.where(action_masks(), _advice(env), 0).astype(np.float64)
            told /= told.sum(axis=1, keepdims=True)
            seen.append(observation)
            shares.append(told)
            drawn = (told.cumsum(axis=1) > rng.random((env.num_envs, 1))).argmax(axis=1)
            observation, _, dones, _ = lanes.step(drawn)
            starts.append(dones)
            bar.advance(env.num_envs)
    stacked = {key: np.stack([one[key] for one in seen]) for key in seen[0]}
    return Lessons(stacked, np.stack(shares), np.stack(starts[:-1]), int(np.sum(starts[1:])))


def _advice(env: ImaginationVectorEnv) -> np.ndarray:
    """The world model's policy (n, 7) after what was seen in each lane."""
    if env.starts[0].start != "look_around":
        return env.save().state.policy()
    return env.world_model.rollout_state(env.trajectories, memory=env.memory).policy()


def clone(policy: Any, taught: Lessons, seed: int, batch_size: int = 256) -> list[float]:
    """Train a policy on lessons; what it values is left as it was.

    Returns:
        Mean cross-entropy of each epoch, in nats a step.

    Raises:
        UserError: for DQN, which holds values, not a policy.
    """
    if hasattr(policy, "q_net"):
        raise UserError("dqn learns values, not a policy: there is nothing to clone into; leave out --clone")
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    steps, lanes = taught.starts.shape
    span = min(SPAN, steps) if hasattr(policy, "lstm_actor") else 1
    parts = [(lane, first) for lane in range(lanes) for first in range(0, steps - span + 1, span)]
    size = max(1, batch_size // span)
    history = []
    policy.set_training_mode(True)
    for _ in range(EPOCHS):
        order, total = rng.permutation(len(parts)), 0.0
        for low in range(0, len(parts), size):
            chosen = [parts[index] for index in order[low : low + size]]
            loss = _loss(policy, taught, chosen, span)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        history.append(total / len(parts))
    return history


def _loss(policy: Any, taught: Lessons, parts: Sequence[tuple[int, int]], span: int) -> torch.Tensor:
    """Cross-entropy on stretches of ``span`` steps, each given by its lane and first step; memory begins with them."""

    def cut(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[first : first + span, lane] for lane, first in parts])

    state = None
    if hasattr(policy, "lstm_actor"):
        layers, _, size = policy.lstm_hidden_state_shape
        state = (torch.zeros(layers, len(parts), size), torch.zeros(layers, len(parts), size))
    observations = {key: cut(values) for key, values in taught.observations.items()}
    logits, _ = log_probabilities(policy, observations, state, cut(taught.starts))
    shares = torch.from_numpy(cut(taught.shares)).float()
    return -(shares * logits).sum(dim=1).mean()
