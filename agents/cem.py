"""The cross-entropy method: sequences are drawn, and the best of them say how the next ones are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmtoolkit.agents.budget import IMAGINE, check_counts
from wmtoolkit.agents.exploration import Views
from wmtoolkit.agents.planner import Candidate, Planner
from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.walks import Walk, take_walks, walk_candidates, worth
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid


class CEMAgent(Planner):
    """Shooting that learns: each round weighs actions, step by step, by how often the best sequences took them.

    Args:
        samples: sequences of a round, imagined side by side.
        horizon: their length.
        rounds: how often the weights are fitted anew.
        elite: share of the sequences that they are fitted to.
        smoothing: how much of the old weights is kept.
        shared: see ``Planner``.
    """

    def __init__(
        self,
        *,
        samples: int = 16,
        horizon: int = 20,
        rounds: int = 3,
        elite: float = 0.25,
        smoothing: float = 0.3,
        **shared: Any,
    ) -> None:
        check_counts(samples=samples, horizon=horizon, rounds=rounds)
        if not (0 < elite <= 1 and 0 < smoothing <= 1):
            raise UserError(f"elite and smoothing must be above 0 and at most 1, not {elite} and {smoothing}")
        super().__init__(**shared)
        self._samples, self._horizon, self._rounds = samples, horizon, rounds
        self._elite, self._smoothing = elite, smoothing

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        views = Views.of_new_cells(graph, by_information=True)
        weights = np.ones((self._horizon, len(grid.ACTIONS)))
        walks: list[Walk] = []
        for _ in range(self._rounds):
            walks += take_walks(graph, weights, self._samples, self._rng, self._promises)
            if self._goals(graph) or not graph.meter.room_for(IMAGINE):
                break
            best = np.argsort(-worth(graph, walks, views, self._discount))[: max(1, round(self._elite * self._samples))]
            weights = self._smoothing * weights + (1 - self._smoothing) * self._taken([walks[i] for i in best])
        return walk_candidates(graph, walks, views, self._discount)

    def _taken(self, walks: list[Walk]) -> np.ndarray:
        """(horizon, 7) how often each action was taken at each step, 1 on average; even where no walk came so far."""
        counts = np.zeros((self._horizon, len(grid.ACTIONS)))
        for walk in walks:
            counts[np.arange(len(walk.actions)), walk.actions] += 1
        total = counts.sum(axis=1, keepdims=True)
        return np.where(total > 0, counts * len(grid.ACTIONS) / np.maximum(total, 1), 1.0)
