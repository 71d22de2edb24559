"""What to imagine next, cheapest first: the order of best-first search."""

from __future__ import annotations

import heapq

import numpy as np

from wmtoolkit.agents.search_graph import INTERACTIONS, SearchGraph
from wmtoolkit.world import grid


class Frontier:
    """Candidates of a search: situations whose actions are not weighed yet, and actions not imagined yet.

    An action costs one step, plus ``prior_weight`` times its surprise -log pi under the model's own policy (the order
    of Levin tree search, Orseau et al. 2018, with a sum for its product). What lies behind an action that handles
    something costs up to ``interaction_cost`` more, the less the policy expects it. The policy is asked only in
    situations whose turn has come.

    Args:
        graph: grows by ``expand``; the frontier begins at its root.
        prior_weight: 0 goes by distance alone and asks for no policy.
        interaction_cost: in steps.
        failure_threshold: P(FAILURE) from which a situation is a dead end.
    """

    def __init__(
        self,
        graph: SearchGraph,
        *,
        prior_weight: float = 0.0,
        interaction_cost: float = 0.0,
        failure_threshold: float = 0.5,
    ) -> None:
        self._graph, self._prior_weight = graph, prior_weight
        self._interaction_cost, self._failure_threshold = interaction_cost, failure_threshold
        self._nodes = [(0.0, 0)]
        self._actions: list[tuple[float, int, int]] = []
        self.costs = {0: 0.0}
        """What the way to each node cost, by which it was found first."""

    @property
    def next_cost(self) -> float:
        """The least that anything not imagined yet costs; infinite if nothing is left."""
        opened = self._actions[0][0] if self._actions else np.inf
        return min(opened, self._nodes[0][0] + 1 if self._nodes else np.inf)

    def expand(self, batch: int, slack: float = 0.0) -> list[int]:
        """Imagine the cheapest candidates in one forward pass, after one more for the policy where it is needed.

        Args:
            batch: most candidates taken.
            slack: how much dearer than the cheapest the others may be, in steps.

        Returns:
            The new nodes; empty if all candidates turned out to be known.
        """
        self._weigh(self.next_cost + slack)
        limit = (self._actions[0][0] if self._actions else 0.0) + slack
        chosen: dict[tuple[int, int], float] = {}
        while self._actions and len(chosen) < batch and self._actions[0][0] <= limit:
            cost, node, action = heapq.heappop(self._actions)
            if self._graph.known(node, action) is None:
                chosen[node, action] = cost
        before = len(self._graph)
        for child, ((node, action), cost) in zip(self._graph.imagine(chosen), chosen.items(), strict=True):
            if child >= before:
                self._reached(child, node, action, cost)
        return list(range(before, len(self._graph)))

    def _weigh(self, limit: float) -> None:
        """Make candidates of the actions of the situations whose turn has come; go through what is known already."""
        while self._nodes and self._nodes[0][0] + 1 <= limit:
            due = []
            while self._nodes and self._nodes[0][0] + 1 <= limit:
                due.append(heapq.heappop(self._nodes)[1])
            policy = self._graph.policy(due) if self._prior_weight else np.ones((len(due), len(grid.ACTIONS)))
            for node, surprise in zip(due, -np.log(policy), strict=True):
                for action in self._graph.useful(node):
                    cost = float(self.costs[node] + 1 + self._prior_weight * surprise[action])
                    child = self._graph.known(node, action)
                    if child is None:
                        heapq.heappush(self._actions, (cost, node, action))
                    else:
                        self._reached(child, node, action, cost)

    def _reached(self, child: int, node: int, action: int, cost: float) -> None:
        """Note what the first way to a node cost."""
        if child in self.costs:
            return
        if action in INTERACTIONS:
            policy = self._graph.nodes[node].policy
            cost += self._interaction_cost * (1.0 if policy is None else 1 - float(policy[action]))
        self.costs[child] = cost
        if self._graph.nodes[child].failure < self._failure_threshold:
            heapq.heappush(self._nodes, (cost, child))
