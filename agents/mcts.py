"""Monte Carlo tree search: PUCT with the model's own policy, and chance nodes where the model is unsure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from wmtoolkit.agents.budget import IMAGINE, check_amounts, check_counts
from wmtoolkit.agents.exploration import Views, information_worth
from wmtoolkit.agents.planner import Candidate, Planner
from wmtoolkit.agents.search_graph import Pair, SearchGraph

LOSS = 0.3
"""Virtual loss: what a simulation that is still on its way is taken to lose."""
IDLE = 16
"""After so many batches in a row that imagine nothing new there is nothing left to imagine."""


@dataclass(slots=True)
class _Edge:
    """An action in a node: P(action), simulations through it, the sum of what they returned, and where it led.

    ``outcomes`` begins with the most likely one; the others were drawn, and each may stand there several times.
    Simulations still ``pending`` count as visits.
    """

    prior: float
    visits: int = 0
    pending: int = 0
    total: float = 0.0
    outcomes: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Simulation:
    """A way from the root: edges taken, nodes reached, and the edge to be imagined at its end, if any."""

    pairs: list[Pair] = field(default_factory=list)
    nodes: list[int] = field(default_factory=lambda: [0])
    wants: Pair | None = None


class MCTSAgent(Planner):
    """Grows a tree by simulations, a batch of them in each forward pass, kept apart by virtual loss.

    A simulation follows PUCT (Silver et al. 2017) down to an action not imagined yet. What it returns is P(SUCCESS)
    less P(FAILURE) at its end and a little for the information that new cells promise on the way, discounted. Where an
    action shows cells never seen of which the model is unsure, it is a chance node: as it is visited more often, other
    outcomes are drawn (double progressive widening, Couetoux et al. 2011), and simulations take them in turn. A goal
    must be predicted, not drawn. Without one the agent takes the action visited most, and looks again.

    Args:
        leaves: simulations in one batch.
        exploration: weight of the policy and of rare visits against the value found.
        chances: most outcomes of one action; 1 plans with the most likely one alone.
        settle: batches spent on a better way after a goal was found.
        horizon: longest way.
        shared: see ``Planner``.
    """

    def __init__(
        self,
        *,
        leaves: int = 8,
        exploration: float = 1.0,
        chances: int = 3,
        settle: int = 1,
        horizon: int = 30,
        **shared: Any,
    ) -> None:
        check_counts(leaves=leaves, chances=chances, horizon=horizon)
        check_amounts(exploration=exploration, settle=settle)
        super().__init__(**shared)
        self._leaves, self._exploration, self._chances = leaves, exploration, chances
        self._settle, self._horizon = settle, horizon

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        self._graph, self._views = graph, Views.of_new_cells(graph, by_information=True)
        self._edges: dict[int, dict[int, _Edge]] = {}
        self._generator = torch.Generator().manual_seed(int(self._rng.integers(2**62)))
        self._open_nodes(range(len(graph)))
        left, idle = self._settle + 1, 0
        while left and idle < IDLE and graph.meter.room_for(IMAGINE):
            simulations = [self._simulate() for _ in range(min(self._leaves, graph.meter.nodes_left(self._leaves)))]
            before = len(graph)
            self._imagine(simulations)
            self._open_nodes(range(before, len(graph)))
            for simulation in simulations:
                self._return(simulation)
            # Simulations that imagine nothing new cost nothing, and as visits they drive the next ones elsewhere.
            idle = 0 if any(simulation.wants for simulation in simulations) else idle + 1
            if graph.shortest(self._goals(graph)):
                left -= 1
        root = sorted(self._edges[0].items(), key=lambda item: -item[1].visits)
        return [self._line(action) for action, edge in root if edge.visits]

    def _look_around(self, graph: SearchGraph) -> list[tuple[int, int]]:
        """The actions visited most, up to where it is unsure what it will see."""
        way: list[tuple[int, int]] = []
        node = 0
        while self._edges.get(node):
            action, edge = max(self._edges[node].items(), key=lambda item: item[1].visits)
            if not edge.outcomes or edge.total <= 0:
                break
            node = edge.outcomes[0]
            if node == 0 or any(node == been for _, been in way):
                break
            way.append((action, node))
            if len(edge.outcomes) > 1:
                break
        return way or super()._look_around(graph)

    def _simulate(self) -> _Simulation:
        """Follow PUCT to something not imagined yet, or to an end; takes a virtual loss on the way."""
        simulation = _Simulation()
        while len(simulation.pairs) < self._horizon:
            node = simulation.nodes[-1]
            action = self._choose(node, simulation.nodes)
            if action is None:
                break
            edge = self._edges[node][action]
            simulation.pairs.append((node, action))
            known = self._graph.known(node, action)
            if not edge.outcomes and known is not None:
                edge.outcomes.append(known)
            widen = self._is_chance(edge) and len(edge.outcomes) < min(self._chances, (edge.visits + 1) ** 0.5)
            edge.visits += 1
            edge.pending += 1
            if not edge.outcomes or widen:
                simulation.wants = (node, action)
                break
            simulation.nodes.append(edge.outcomes[edge.visits % len(edge.outcomes)])
        return simulation

    def _choose(self, node: int, been: list[int]) -> int | None:
        """The action of the greatest upper bound among those that do not lead back; None at an end."""
        edges = self._edges.get(node, {})
        open_ = {action: edge for action, edge in edges.items() if self._graph.known(node, action) not in been}
        if not open_:
            return None
        visits = sum(edge.visits for edge in edges.values())
        value = sum(edge.total for edge in edges.values()) / max(1, visits)

        def bound(edge: _Edge) -> float:
            mean = (edge.total - LOSS * edge.pending) / edge.visits if edge.visits else value
            return mean + self._exploration * edge.prior * (visits + 1) ** 0.5 / (1 + edge.visits)

        return max(open_, key=lambda action: bound(open_[action]))

    def _is_chance(self, edge: _Edge) -> bool:
        return self._chances > 1 and bool(edge.outcomes) and self._graph.uncertain(edge.outcomes[0])

    def _imagine(self, simulations: list[_Simulation]) -> None:
        """Let each simulation that wants it reach something new."""
        wanting = [simulation for simulation in simulations if simulation.wants]
        first = [s for s in wanting if not self._edge(s).outcomes]
        pairs = [simulation.pairs[-1] for simulation in first]
        for simulation, child in zip(first, self._graph.imagine(pairs), strict=True):
            edge = self._edge(simulation)
            edge.outcomes = edge.outcomes or [child]
            simulation.nodes.append(child)
        drawn = [s for s in wanting if len(s.nodes) == len(s.pairs)]
        if drawn and self._graph.meter.room_for(IMAGINE):
            pairs = [simulation.pairs[-1] for simulation in drawn]
            for simulation, child in zip(drawn, self._graph.draw(pairs, self._generator), strict=True):
                self._edge(simulation).outcomes.append(child)
                simulation.nodes.append(child)

    def _edge(self, simulation: _Simulation) -> _Edge:
        node, action = simulation.pairs[-1]
        return self._edges[node][action]

    def _open_nodes(self, nodes: Any) -> None:
        """Open nodes for simulations, with the model's policy among the actions that are useful there."""
        safe = [node for node in nodes if self._graph.nodes[node].failure < self._failure_threshold]
        useful = {node: self._graph.useful(node) for node in safe}
        inner = [node for node in safe if useful[node]]
        for node, policy in zip(inner, self._graph.policy(inner), strict=True):
            prior = policy[useful[node]] / policy[useful[node]].sum()
            self._edges[node] = {action: _Edge(float(p)) for action, p in zip(useful[node], prior, strict=True)}

    def _return(self, simulation: _Simulation) -> None:
        """Take the virtual losses back and add what the simulation found, discounted, to each edge."""
        masks = self._views.masks()
        shown, gains = masks[0], []
        for node in simulation.nodes[1:]:
            gains.append(information_worth(masks[node] & ~shown))
            shown |= masks[node]
        end = simulation.nodes[-1]
        at = self._graph.nodes[end]
        worth = at.success - at.failure if self._promises(self._graph, end, 0.0) else 0.0
        gains += [0.0] * (len(simulation.pairs) - len(gains))
        for (node, action), gain in zip(reversed(simulation.pairs), reversed(gains), strict=True):
            worth = self._discount * (worth + gain)
            edge = self._edges[node][action]
            edge.total += worth
            edge.pending -= 1

    def _line(self, action: int) -> Candidate:
        """The most visited way that begins with an action, and its mean value."""
        edge = self._edges[0][action]
        score, actions, node = edge.total / edge.visits, [action], 0
        been = {0}
        while edge.outcomes and edge.outcomes[0] not in been and self._edges.get(edge.outcomes[0]):
            node = edge.outcomes[0]
            been.add(node)
            action, edge = max(self._edges[node].items(), key=lambda item: item[1].visits)
            if not edge.visits:
                break
            actions.append(action)
        end = edge.outcomes[0] if edge.outcomes else node
        return Candidate(tuple(actions), score, self._graph.nodes[end].success)
