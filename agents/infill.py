"""The any-order planner: set SUCCESS at a future block and let the model fill in how it comes about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch

from wmtoolkit.agents.budget import IMAGINE, Meter, check_amounts, check_counts
from wmtoolkit.agents.exploration import Views
from wmtoolkit.agents.frontier import Frontier
from wmtoolkit.agents.planner import Candidate, Planner
from wmtoolkit.agents.protocol import WorldModel
from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Trajectory

TINY = 1e-9
"""What P(SUCCESS) counts as where it is nothing."""
SPREAD = 6
"""How far, in steps, it looks around when the plans show nothing new."""
SPREAD_BATCH = 64
"""Most situations imagined in one pass of that."""
Way = list[tuple[int, int]]
"""(action, node) pairs from the root on."""


class Plan(Protocol):
    """What the agent reads of an infilled plan; ``wmtoolkit.world.infill.InfilledPlan`` is one."""

    actions: np.ndarray
    """(h,) 0-6."""


class GoalModel(WorldModel, Protocol):
    """A world model that can be asked backwards from the goal."""

    def infill_plan(
        self,
        histories: list[Trajectory],
        horizons: Sequence[int],
        *,
        steps: int,
        views: bool,
        temperature: float,
        generator: Any,
    ) -> list[list[Plan]]:
        """For each history and horizon h a plan of h actions that ends in SUCCESS; ``steps`` forward passes."""
        ...


class InfillAgent(Planner):
    """Asks for plans of several lengths at once and believes those that the model's forward rollout confirms.

    The present is fixed, SUCCESS is set so many steps ahead, and the actions between are unmasked in the order of
    confidence: one batch for all lengths. They are then imagined step by step, side by side, until a situation's
    predicted P(SUCCESS) is above ``goal_threshold``. Of plans that lead to one, the likeliest forwards is followed:

        score = sum over t <= h of log p(frame t | past, actions up to t), with SUCCESS as the outcome of frame h

    in nats; frames are views, headings and outcomes, their tokens taken as independent given the past. Where no plan
    leads to a goal and none shows a cell never seen, situations are imagined outwards from the present, nearest first,
    ``SPREAD`` steps and farther, and the nearest goal met there is followed, as by ``best-first``;
    ``diagnostics["planned"]`` says whether a goal is a plan's. With no goal, the way that shows most is followed.

    Args:
        horizons: lengths of the plans, in steps; a model may not know long ones.
        samples: plans of each length: with 1 the most likely one, with more they are drawn.
        steps: rounds of unmasking, each a forward pass.
        temperature: of the drawing.
        outwards: imagine outwards where no plan leads anywhere; without it, only what plans lead to is known.
        shared: see ``Planner``.
    """

    def __init__(
        self,
        *,
        horizons: Sequence[int] = (1, 2, 3, 4, 5, 6),
        samples: int = 1,
        steps: int = 2,
        temperature: float = 0.7,
        outwards: bool = True,
        **shared: Any,
    ) -> None:
        if not isinstance(horizons, Sequence) or not all(isinstance(horizon, int) for horizon in horizons):
            raise UserError(f"horizons is a list of numbers of steps, not {horizons!r}")
        check_counts(horizons=min(horizons, default=0), samples=samples, steps=steps)
        check_amounts(temperature=temperature)
        super().__init__(**shared)
        if not hasattr(self._world_model, "infill_plan"):
            raise UserError("agent 'infill' needs a world model that infills plans (infill_plan)")
        network = getattr(self._world_model, "network", None)
        if network is not None and max(horizons) > network.world.span - 1:
            raise UserError(
                f"horizons must be at most {network.world.span - 1} for this world model (world.span - 1), "
                f"not {max(horizons)}"
            )
        self._goal_model = cast(GoalModel, self._world_model)
        self._horizons, self._samples = sorted(set(horizons)), samples
        self._steps, self._temperature, self._outwards = steps, temperature, outwards
        self._scores: dict[int, float] = {}

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        plans = self._infilled(graph)
        ways = self._rolled_out(graph, plans)
        self._scores = {}
        met: Way = []
        if self._outwards and not self._goals(graph) and not any(Views.of_new_cells(graph).masks()):
            self._expand(graph, Frontier(graph, failure_threshold=self._failure_threshold), SPREAD, SPREAD_BATCH)
            met = graph.shortest(self._goals(graph))
        found: dict[tuple[int, ...], Candidate] = {}
        for way in (*ways, met):
            nodes = [0, *(node for _, node in way)]
            score, end = forward_score(graph, nodes), nodes[-1]
            if way is not met:
                self._scores[end] = max(score, self._scores.get(end, score))
            if way:  # not a plan of nothing that has a use here
                actions = tuple(action for action, _ in way)
                found.setdefault(actions, Candidate(actions, score, graph.nodes[end].success))
        return sorted(found.values(), key=lambda way: (way.success < self._goal_threshold, -way.score))

    def _search(self, meter: Meter, history: Trajectory, seen: SeenMap) -> dict[str, Any]:
        thought = super()._search(meter, history, seen)
        if not self._to_goal or thought.get("kept"):
            return thought
        return {**thought, "planned": self._plan[-1].index in self._scores}

    def _goals(self, graph: SearchGraph) -> dict[int, float]:
        """The goal that the likeliest plan leads to; those met otherwise only where no plan leads to any."""
        goals = super()._goals(graph)
        planned = [node for node in self._scores if node in goals]
        return {max(planned, key=self._scores.__getitem__): 0.0} if planned else goals

    def _infilled(self, graph: SearchGraph) -> list[Plan]:
        """Plans of all lengths, in as many rounds as the budget allows; one pass is left to check them."""
        steps = max((n for n in range(1, self._steps + 1) if graph.meter.room_for(n + IMAGINE)), default=0)
        horizons = (self._horizons * self._samples)[: graph.meter.nodes_left(self.budget.max_nodes) // 2]
        if not steps or not horizons:
            return []
        assert self._history is not None
        (plans,) = self._goal_model.infill_plan(
            [self._history],
            horizons,
            steps=steps,
            views=False,
            temperature=self._temperature if self._samples > 1 else 0.0,
            generator=torch.Generator().manual_seed(int(self._rng.integers(2**62))),
        )
        graph.meter.nodes += len(horizons)
        return plans

    def _rolled_out(self, graph: SearchGraph, plans: Sequence[Plan]) -> list[Way]:
        """The way of each plan, imagined one step of all plans at a time, until one reaches a goal.

        Actions that can change nothing where they are taken are left out.
        """
        ways: list[Way] = [[] for _ in plans]
        at = [0] * len(plans)
        for step in range(max((len(plan.actions) for plan in plans), default=0)):
            if not graph.meter.room_for(IMAGINE):
                break
            taken = [
                (row, (at[row], int(plan.actions[step])))
                for row, plan in enumerate(plans)
                if step < len(plan.actions) and int(plan.actions[step]) in graph.useful(at[row])
            ]
            del taken[graph.meter.nodes_left(len(plans)) :]
            for (row, (_, action)), child in zip(taken, graph.imagine(pair for _, pair in taken), strict=True):
                ways[row].append((action, child))
                at[row] = child
            if any(self._promises(graph, node) for node in at):
                break
        return ways


def forward_score(graph: SearchGraph, way: Sequence[int]) -> float:
    """Log-probability in nats of what a way (nodes, the root first) shows, ending in SUCCESS; see ``InfillAgent``."""
    end = graph.nodes[way[-1]]
    outcomes = end.state.outcomes[end.row]
    success = np.log(max(end.success, TINY)) - np.log(outcomes.max())
    return float(sum(graph.nodes[node].log_prob for node in way[1:]) + success)
