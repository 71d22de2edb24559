"""Imagination that stops where the world model is unsure, so that nobody learns from its mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorWrapper

from wmtoolkit.envs.checks import autoreset, probability, whole
from wmtoolkit.envs.imagination_vector import ImaginationVectorEnv
from wmtoolkit.world.trajectory import Outcome


@dataclass(frozen=True)
class Trust:
    """When a step of imagination is believed.

    Attributes:
        outcome_confidence: least probability of the outcome that was decided on.
        frame_log_prob: least log-probability, in nats, of the whole frame. What is newly revealed is never certain,
            so this cuts exploration too; -inf: any frame.
        orders: ways to decode each step: 1 as the environment does; n also in 2, ... n rounds, always the likeliest
            token and the most confident first. All must come to the same outcome.
    """

    outcome_confidence: float = 0.8
    frame_log_prob: float = -np.inf
    orders: int = 1

    def __post_init__(self) -> None:
        probability(self.outcome_confidence, "outcome_confidence")
        whole(self.orders, "orders")


class PessimisticImagination(VectorWrapper):
    """Cuts a lane's episode at a step that is not to be believed: no reward, truncated, and the lane starts anew.

    A learner that bootstraps at truncations then goes by its own value of the last situation.
    ``infos["unsure"]`` tells the lanes that were cut; the trajectories in the infos are what was imagined, believed or
    not. Each further decoding order costs as many forward passes as it has rounds.

    Args:
        env: resets finished lanes in the same step.
        trust: what is believed.

    Raises:
        UserError: if finished lanes of ``env`` do not start anew in the same step.
    """

    def __init__(self, env: ImaginationVectorEnv, trust: Trust) -> None:
        super().__init__(env)
        autoreset(env, "PessimisticImagination", AutoresetMode.SAME_STEP)
        self._imagination, self._trust = env, trust

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        before = self._imagination.save().state
        observation, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = terminations | truncations
        outcomes, log_prob = infos["outcome_probabilities"].copy(), infos["log_prob"].copy()
        for lane in np.flatnonzero(ended):  # these lanes have begun anew: their last step is told apart
            outcomes[lane] = infos["final_info"]["outcome_probabilities"][lane]
            log_prob[lane] = infos["final_info"]["log_prob"][lane]
        won = terminations & (rewards > 0)
        decided = np.select([won, terminations], [Outcome.SUCCESS, Outcome.FAILURE], Outcome.CONTINUE)
        unsure = outcomes[np.arange(len(decided)), decided] < self._trust.outcome_confidence
        unsure |= log_prob < self._trust.frame_log_prob
        for rounds in range(2, self._trust.orders + 1):
            unsure |= before.step(actions, steps=rounds).sampled_outcomes != decided
        infos["unsure"] = infos["_unsure"] = unsure
        cut = unsure & ~ended
        if cut.any():
            observation, infos = self._begin_anew(cut, observation, infos)
        rewards = np.where(unsure, 0.0, rewards)
        return observation, rewards, terminations & ~unsure, truncations | unsure, infos

    def _begin_anew(
        self, cut: np.ndarray, observation: dict[str, Any], infos: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the lanes of ``cut`` and hand their last observations and infos on as an episode's end does."""
        told = [key for key in infos if not key.startswith("_") and key not in ("unsure", "final_obs", "final_info")]
        for lane in np.flatnonzero(cut):
            last = {
                "final_obs": {key: values[lane] for key, values in observation.items()},
                "final_info": {key: infos[key][lane] for key in told},
            }
            infos = self._imagination._add_info(infos, last, int(lane))
        fresh, begun = self.env.reset(options={"reset_mask": cut})
        for key in told:
            infos[key][cut] = begun[key][cut]
        return fresh, infos
