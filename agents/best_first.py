"""Best-first search over imagined situations: the nearest predicted success, or else the best place to look from."""

from __future__ import annotations

from typing import Any

from wmtoolkit.agents.budget import check_amounts, check_counts
from wmtoolkit.agents.frontier import Frontier
from wmtoolkit.agents.planner import Candidate, Planner, likeliest
from wmtoolkit.agents.search_graph import SearchGraph

PATIENCE = 3
"""After so many searches in a row without a goal, the next one looks twice as far."""
SLACK = 1.0
"""How much dearer than the cheapest candidate, in steps, the others of its forward pass may be."""


class BestFirstAgent(Planner):
    """Imagines situations, many in one forward pass, in the order of their cost (see ``Frontier``).

    Args:
        batch: most situations imagined in one forward pass.
        goal_horizon: cost at which the search for a goal ends, as long as there is something new to see elsewhere.
        prior_weight: weight of the policy; 0 searches by distance alone and asks for no policy.
        interaction_cost: how many steps later the search looks behind a pickup, drop or toggle.
        shared: see ``Planner``.
    """

    def __init__(
        self,
        *,
        batch: int = 128,
        goal_horizon: float = 15.0,
        prior_weight: float = 1.0,
        interaction_cost: float = 4.0,
        **shared: Any,
    ) -> None:
        check_counts(batch=batch)
        check_amounts(goal_horizon=goal_horizon, prior_weight=prior_weight, interaction_cost=interaction_cost)
        super().__init__(**shared)
        self._batch, self._goal_horizon = batch, goal_horizon
        self._prior_weight, self._interaction_cost = prior_weight, interaction_cost

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        frontier = Frontier(
            graph,
            prior_weight=self._prior_weight,
            interaction_cost=self._interaction_cost,
            failure_threshold=self._failure_threshold,
        )
        horizon = self._goal_horizon * (1 + self._fruitless / PATIENCE)
        self._expand(graph, frontier, horizon, self._batch, SLACK if self._prior_weight else 0.0)
        return likeliest(graph)
