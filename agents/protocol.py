"""What agents, planners and world models know of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from wmtoolkit.world.trajectory import Trajectory

Observation = Mapping[str, Any]
"""What BabyAI-shaped environments give: ``image`` (7, 7, 3) uint8, ``direction`` 0-3, ``mission`` str."""


class RolloutState(Protocol):
    """B imagined situations ("lanes"), each a history and what was imagined after it.

    Immutable from outside: ``step`` and ``select`` return new states and leave this one usable, so a search tree
    keeps the states it may want to branch from. What follows an ending (SUCCESS or FAILURE) is undefined.
    """

    images: np.ndarray
    """(B, 7, 7, 3) uint8, the last observation, real or imagined."""
    directions: np.ndarray
    """(B,) int64, heading 0-3."""
    outcomes: np.ndarray
    """(B, 4) float32, probability of each ``Outcome`` of the last step."""
    confidence: np.ndarray
    """(B, 7, 7) float32, probability of each shown cell; 1 for real observations."""
    log_prob: np.ndarray
    """(B,) float32, log-probability of the last imagined frame, nats; 0 for a real one."""

    def __len__(self) -> int:
        """Number of lanes B."""
        ...

    def step(self, actions: np.ndarray, *, temperature: float = 0.0, generator: Any = None) -> Self:
        """Imagine one step of every lane in one batched forward pass, after one that encodes what is not encoded yet.

        Args:
            actions: (B,) ints 0-6.
            temperature: 0 takes the most probable frame, above 0 samples it with ``generator`` (torch's).
        """
        ...

    def policy(self) -> np.ndarray:
        """(B, 7) float32 probabilities of the next action, asked as bot behaviour; passes as for ``step``."""
        ...

    def select(self, rows: np.ndarray) -> Self:
        """Copy, branch, reorder or drop lanes; ``rows`` (B',) ints into the present lanes, repeats allowed."""
        ...

    @staticmethod
    def cat(states: Sequence[Any]) -> Any:
        """The lanes of several states of one model in one state, in order."""
        ...


class WorldModel(Protocol):
    """What a planner asks of a model; ``AnyOrderWorldModel`` and ``SimulatorWorldModel`` answer."""

    @property
    def forward_passes(self) -> int:
        """Forward passes made so far by the model and its states, whatever they were for."""
        ...

    def rollout_state(self, histories: list[Trajectory]) -> RolloutState:
        """One lane a history, at its last observation; no forward pass yet."""
        ...

    def policy(self, histories: list[Trajectory]) -> np.ndarray:
        """(B, 7) float32 probabilities of the next action, asked as bot behaviour."""
        ...


@runtime_checkable
class Agent(Protocol):
    """Acts in any environment with BabyAI's observations.

    ``diagnostics`` describes the last decision. Planners fill in ``forward_passes``, ``milliseconds``, ``nodes``,
    ``reason`` (why the plan was made or kept), ``plan`` (actions from now on), ``success_probability`` of its end,
    and what they expect to see next: ``imagined_image`` (7, 7, 3), ``imagined_direction``, ``imagined_confidence``.
    After a search also ``graph`` (all that was imagined), ``candidates`` and the ``plan_nodes`` in the graph.
    """

    diagnostics: dict[str, Any]

    def reset(self, seed: int | None = None) -> None:
        """Forget the episode; ``seed`` fixes the randomness of the next one (None: go on with the present stream)."""
        ...

    def act(self, observation: Observation) -> int:
        """Choose an action 0-6. Called once a step, with each observation in turn; the agent keeps its history."""
        ...


def remembered(history: Trajectory | None, action: int | None, observation: Observation) -> Trajectory:
    """The history with one more observation; the episode goes on, so the step counts as CONTINUE with no reward."""
    if history is None or action is None:
        return Trajectory.start(observation)
    return history.extended(action, observation)
