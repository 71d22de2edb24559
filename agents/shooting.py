"""Random shooting: many action sequences drawn at random; the shortest way to a goal that they found is followed."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmtoolkit.agents.budget import IMAGINE, check_counts
from wmtoolkit.agents.exploration import Views
from wmtoolkit.agents.planner import Candidate, Planner
from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.walks import take_walks, walk_candidates
from wmtoolkit.world import grid


class ShootingAgent(Planner):
    """Draws sequences from the model's policy, round after round, until one of them ends in a goal.

    Args:
        samples: sequences of a round, imagined side by side.
        horizon: their length.
        rounds: after so many without a goal it looks around instead.
        shared: see ``Planner``.
    """

    def __init__(self, *, samples: int = 24, horizon: int = 20, rounds: int = 1, **shared: Any) -> None:
        check_counts(samples=samples, horizon=horizon, rounds=rounds)
        super().__init__(**shared)
        self._samples, self._horizon, self._rounds = samples, horizon, rounds

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        views = Views.of_new_cells(graph, by_information=True)
        walks = []
        for _ in range(self._rounds):
            even = np.ones((self._horizon, len(grid.ACTIONS)))
            walks += take_walks(graph, even, self._samples, self._rng, self._promises)
            if self._goals(graph) or not graph.meter.room_for(IMAGINE):
                break
        return walk_candidates(graph, walks, views, self._discount)
