"""Beam search: the action sequences that the model's own policy finds likeliest, kept to a few at each length."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmtoolkit.agents.budget import IMAGINE, check_counts
from wmtoolkit.agents.planner import Candidate, Planner, candidate
from wmtoolkit.agents.search_graph import Pair, SearchGraph


class BeamAgent(Planner):
    """Lengthens the likeliest sequences by one action a forward pass; sequences that meet are one.

    Args:
        width: sequences kept at each length, which is also the size of a pass.
        horizon: longest sequence.
        shared: see ``Planner``.
    """

    def __init__(self, *, width: int = 12, horizon: int = 24, **shared: Any) -> None:
        check_counts(width=width, horizon=horizon)
        super().__init__(**shared)
        self._width, self._horizon = width, horizon

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        scores = {0: 0.0}
        beam = [0]
        for _ in range(self._horizon):
            if not beam or not graph.meter.room_for(IMAGINE):
                break
            longer: dict[Pair, float] = {}
            for node, policy in zip(beam, graph.policy(beam), strict=True):
                for action in graph.useful(node):
                    if graph.known(node, action) not in scores:
                        longer[node, action] = scores[node] + float(np.log(policy[action]))
            kept = sorted(longer, key=longer.__getitem__, reverse=True)[: graph.meter.nodes_left(self._width)]
            reached: dict[int, float] = {}
            for pair, child in zip(kept, graph.imagine(kept), strict=True):
                if child not in scores:
                    reached[child] = max(longer[pair], reached.get(child, -np.inf))
            scores |= reached
            beam = [node for node in reached if not graph.ends(node)]
            if any(self._promises(graph, node) for node in reached):
                break
        ends = sorted(scores, key=lambda node: (graph.nodes[node].depth, scores[node]), reverse=True)
        return [candidate(graph, node, scores[node]) for node in ends if node]
