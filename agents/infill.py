"""The any-order planner: set SUCCESS at a future block and let the model fill in how it comes about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch

from wmtoolkit.agents.budget import IMAGINE, check_counts
from wmtoolkit.agents.exploration import Views
from wmtoolkit.agents.frontier import Frontier
from wmtoolkit.agents.planner import Candidate, Planner
from wmtoolkit.agents.protocol import WorldModel
from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Trajectory

SPREAD = 6
"""How far, in steps, it looks around when the plans show nothing new."""
SPREAD_BATCH = 64
"""Most situations imagined in one pass of that."""


class Plan(Protocol):
    """What the agent reads of an infilled plan; ``wmtoolkit.world.infill.InfilledPlan`` is one."""

    actions: np.ndarray
    """(h,) 0-6."""
    action_log_prob: float
    """Log-probability of the actions as they were filled in, in nats."""


class GoalModel(WorldModel, Protocol):
    """A world model that can be asked backwards from the goal."""

    def infill_plan(
        self, histories: list[Trajectory], horizons: Sequence[int], *, steps: int, temperature: float, generator: Any
    ) -> list[list[Plan]]:
        """For each history and horizon h a plan of h actions that ends in SUCCESS; ``steps`` forward passes."""
        ...


class InfillAgent(Planner):
    """Asks for plans of several lengths at once and believes those that the model's forward rollout confirms.

    The present is fixed, SUCCESS is set so many steps ahead, and everything between is unmasked in the order of
    confidence: one batch for all lengths. The filled-in actions are then imagined step by step, side by side; the
    first situation whose predicted P(SUCCESS) is above ``goal_threshold`` is the goal. Where no plan leads to one,
    the plan that shows most cells never seen is followed, and where none shows any it looks around.

    Args:
        horizons: lengths of the plans, in steps; a model may not know long ones.
        samples: plans of each length: with 1 the most likely one, with more they are drawn.
        steps: rounds of unmasking, each a forward pass.
        temperature: of the drawing.
        shared: see ``Planner``.
    """

    def __init__(
        self,
        *,
        horizons: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10),
        samples: int = 1,
        steps: int = 4,
        temperature: float = 0.7,
        **shared: Any,
    ) -> None:
        if not isinstance(horizons, Sequence) or not all(isinstance(horizon, int) for horizon in horizons):
            raise UserError(f"horizons is a list of numbers of steps, not {horizons!r}")
        check_counts(horizons=min(horizons, default=0), samples=samples, steps=steps)
        super().__init__(**shared)
        if not hasattr(self._world_model, "infill_plan"):
            raise UserError("agent 'infill' needs a world model that infills plans (infill_plan)")
        self._goal_model = cast(GoalModel, self._world_model)
        self._horizons, self._samples = sorted(set(horizons)), samples
        self._steps, self._temperature = steps, temperature

    def _grow(self, graph: SearchGraph) -> list[Candidate]:
        plans = self._infilled(graph)
        ends = self._rolled_out(graph, plans)
        if not self._goals(graph) and not any(Views.of_new_cells(graph).masks()):
            self._expand(graph, Frontier(graph, failure_threshold=self._failure_threshold), SPREAD, SPREAD_BATCH)
        found: dict[tuple[int, ...], Candidate] = {}
        for plan, end in zip(plans, ends, strict=True):
            actions = tuple(int(action) for action in plan.actions)
            found.setdefault(actions, Candidate(actions, plan.action_log_prob, graph.nodes[end].success))
        return sorted(found.values(), key=lambda candidate: -candidate.success)

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
            temperature=self._temperature if self._samples > 1 else 0.0,
            generator=torch.Generator().manual_seed(int(self._rng.integers(2**62))),
        )
        graph.meter.nodes += len(horizons)
        return plans

    def _rolled_out(self, graph: SearchGraph, plans: Sequence[Plan]) -> list[int]:
        """The node each plan leads to, imagined one step of all plans a pass, until one of them reaches a goal.

        Actions that can change nothing where they are taken are left out.
        """
        ends = [0] * len(plans)
        for step in range(max((len(plan.actions) for plan in plans), default=0)):
            if not graph.meter.room_for(IMAGINE):
                break
            taken = [
                (row, (ends[row], int(plan.actions[step])))
                for row, plan in enumerate(plans)
                if step < len(plan.actions) and int(plan.actions[step]) in graph.useful(ends[row])
            ]
            del taken[graph.meter.nodes_left(len(plans)) :]
            for (row, _), child in zip(taken, graph.imagine(pair for _, pair in taken), strict=True):
                ends[row] = child
            if any(self._promises(graph, end) for end in ends):
                break
        return ends
