"""Best-first search over imagined situations: the nearest predicted success, or else the best place to look from."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.exploration import exploration_path, shows_new_cells
from wmtoolkit.agents.protocol import Observation, WorldModel, remembered
from wmtoolkit.agents.search_graph import INTERACTIONS, MOVES, Node, SearchGraph
from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Trajectory

ACTION_SETS = {"all": MOVES + INTERACTIONS, "moves": MOVES}
DOUBT = 0.1
"""Share of the policy that is spread evenly, so that no action is ruled out by a policy that errs."""
PATIENCE = 3
"""After so many searches in a row without a goal, the next one looks twice as far."""
SLACK = 1.0
"""How much dearer than the cheapest candidate, in steps, the others of its forward pass may be."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a plan and what it is expected to show."""

    action: int
    node: Node


class BestFirstAgent:
    """Searches in imagination and acts in the level, looking again whenever it sees what it did not imagine.

    Each search starts from all that was really seen. It imagines situations, many in one forward pass, in the order
    of their cost: steps, plus ``prior_weight`` times the surprise -log pi of each action under the model's own policy
    (the order of Levin tree search, Orseau et al. 2018, with a sum for its product). Equal situations are merged. The
    search ends at the first one whose predicted P(SUCCESS) is above ``goal_threshold``. Where there is none, the
    plan goes where imagined views show most cells never seen. A plan is followed as long as the level looks as
    imagined. A goal that did not end the episode was a false one and is not tried again, from whichever side it is
    faced: what was faced and carried is remembered.

    Prior knowledge of MiniGrid it uses: ``SearchGraph`` (dead reckoning, actions that change nothing) and
    ``SeenMap``. Missions that want several things done in order have progress that no view shows; situations that
    differ only in it are merged, so such missions are beyond it.

    Args:
        world_model: what it imagines with.
        seed: of the last resort, a random walk through imagined situations.
        max_forward_passes, max_milliseconds, max_nodes: see ``Budget``; of one decision.
        batch: most situations imagined in one forward pass.
        goal_threshold: P(SUCCESS) from which a situation is a goal.
        failure_threshold: P(FAILURE) from which a situation is avoided.
        goal_horizon: cost at which the search for a goal ends, as long as there is something new to see elsewhere.
        prior_weight: weight of the policy; 0 searches by distance alone and asks for no policy.
        interaction_cost: how many steps later the search looks behind a pickup, drop or toggle.
        discount: weight of seeing a new cell one step later.
        actions: ``"all"`` but done, or ``"moves"`` only (enough where nothing must be handled).

    Raises:
        UserError: for a budget of nothing or an unknown set of actions.
    """

    def __init__(
        self,
        *,
        world_model: WorldModel,
        seed: int = 0,
        max_forward_passes: int = Budget.max_forward_passes,
        max_milliseconds: float = Budget.max_milliseconds,
        max_nodes: int = Budget.max_nodes,
        batch: int = 128,
        goal_threshold: float = 0.5,
        failure_threshold: float = 0.5,
        goal_horizon: float = 15.0,
        prior_weight: float = 1.0,
        interaction_cost: float = 4.0,
        discount: float = 0.93,
        actions: str = "all",
    ) -> None:
        if actions not in ACTION_SETS:
            raise UserError(f"agent 'best-first': actions is one of {', '.join(ACTION_SETS)}, not {actions!r}")
        if batch < 1:
            raise UserError(f"agent 'best-first': batch must be at least 1, not {batch}")
        self.budget = Budget(max_forward_passes, max_milliseconds, max_nodes)
        self.diagnostics: dict[str, Any] = {}
        self._world_model, self._actions, self._batch = world_model, ACTION_SETS[actions], batch
        self._goal_threshold, self._failure_threshold = goal_threshold, failure_threshold
        self._goal_horizon, self._prior_weight = goal_horizon, prior_weight
        self._interaction_cost, self._discount = interaction_cost, discount
        self._rng = np.random.default_rng(seed)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._history: Trajectory | None = None
        self._seen: SeenMap | None = None
        self._plan: deque[_Step] = deque()
        self._last: _Step | None = None
        self._to_goal = False
        self._fruitless = 0
        self._false_goals: set[tuple] = set()

    def act(self, observation: Observation) -> int:
        meter = Meter(self.budget)
        self._history = remembered(self._history, None if self._last is None else self._last.action, observation)
        if self._seen is None or self._last is None:
            self._seen = SeenMap(observation)
        else:
            self._seen.update(self._last.action, observation, self._last.node.image)
        reason = self._reason_to_plan(observation)
        if reason is not None:
            self._search(meter, self._history, self._seen)
        self._last = self._plan.popleft()
        end = self._plan[-1] if self._plan else self._last
        self.diagnostics = {
            **meter.summary(),
            "reason": reason or "as imagined",
            "goal": self._to_goal,
            "plan": [step.action for step in (self._last, *self._plan)],
            "success_probability": end.node.success,
            "imagined_image": self._last.node.image,
            "imagined_direction": self._last.node.direction,
            "imagined_confidence": self._last.node.confidence,
        }
        return self._last.action

    def _reason_to_plan(self, observation: Observation) -> str | None:
        """Why the present plan is not followed, or None; notes a false goal."""
        if self._last is None:
            return "first observation"
        if not self._plan and self._to_goal:
            self._false_goals.add(_handled(self._last.node))
            return "false goal"
        if not np.array_equal(self._last.node.image, observation["image"]):
            return "not as imagined"
        return None if self._plan else "plan finished"

    def _search(self, meter: Meter, history: Trajectory, seen: SeenMap) -> None:
        """Make a new plan of at least one step."""
        graph = SearchGraph(
            self._world_model.rollout_state([history]),
            seen,
            actions=self._actions,
            interaction_cost=self._interaction_cost,
        )
        meter.add(1, 1)
        goal = self._grow(graph, meter)
        if goal is None and self._to_goal and self._passable(seen):
            return  # it was forgotten or is hidden for now, but the way is still free
        path = exploration_path(graph, seen, discount=self._discount) if goal is None else []
        if not path:
            goal = self._best_guess(graph) if goal is None else goal
            end = self._wander(graph, seen) if goal is None else goal
            path = [(graph.nodes[node].action, node) for node in graph.path(end)]
        self._to_goal = goal is not None
        self._fruitless = 0 if self._to_goal else self._fruitless + 1
        self._plan = deque(_Step(action, graph.nodes[node]) for action, node in path)

    def _grow(self, graph: SearchGraph, meter: Meter) -> int | None:
        """Imagine outwards until a goal is found, the budget is spent or nothing is left; returns the goal."""
        horizon = self._goal_horizon * (1 + self._fruitless / PATIENCE)
        self._open(graph, [0], meter)
        while graph.next_cost < np.inf and (len(graph) == 1 or meter.room_for(1)):
            if graph.next_cost > horizon and shows_new_cells(graph):
                return None
            room = max(1, self.budget.max_nodes - meter.nodes)
            new = graph.expand(min(self._batch, room), SLACK if self._prior_weight else 0.0)
            meter.add(bool(new), len(new))
            goals = [node for node in new if self._promises(graph.nodes[node], self._goal_threshold)]
            if goals:
                return min(goals, key=lambda node: (graph.nodes[node].depth, -graph.nodes[node].success))
            self._open(graph, [node for node in new if graph.nodes[node].failure < self._failure_threshold], meter)
        return None

    def _open(self, graph: SearchGraph, nodes: list[int], meter: Meter) -> None:
        """Open nodes that came from one forward pass."""
        if not nodes:
            return
        if self._prior_weight and meter.room_for(2):  # the policy is worth its pass only if another follows
            rows = np.array([graph.nodes[node].row for node in nodes])
            policy = graph.nodes[nodes[0]].state.select(rows).policy()
            meter.add(1, 0)
        else:
            policy = np.full((len(nodes), len(grid.ACTIONS)), 1.0)
        cost = -self._prior_weight * np.log((1 - DOUBT) * policy + DOUBT / len(grid.ACTIONS))
        for node, extra in zip(nodes, cost, strict=True):
            graph.open(node, extra)

    def _promises(self, node: Node, threshold: float) -> bool:
        return node.success >= threshold and _handled(node) not in self._false_goals

    def _best_guess(self, graph: SearchGraph) -> int | None:
        """With nothing left to see: the likeliest success below the threshold, if any is likelier than chance."""
        likely = [i for i, node in enumerate(graph.nodes) if i and self._promises(node, 0.05)]
        return max(likely, key=lambda node: graph.nodes[node].success) if likely else None

    def _wander(self, graph: SearchGraph, seen: SeenMap) -> int:
        """A situation the agent was least often in; any of them."""
        others = [i for i, node in enumerate(graph.nodes) if i and node.failure < self._failure_threshold]
        if not others:
            others = list(range(1, len(graph.nodes)))
        visits = np.array([seen.visits[graph.nodes[node].key[:3]] for node in others])
        return int(self._rng.choice(np.array(others)[visits == visits.min()]))

    def _passable(self, seen: SeenMap) -> bool:
        """Whether, for all that was really seen, nothing blocks the rest of the plan."""
        if not self._plan:
            return False
        position, direction = np.array(seen.position), seen.direction
        for step in self._plan:
            if step.action == grid.FORWARD:
                position = (position + grid.forward_vector(direction)) % SIZE
                cell = seen.cells[tuple(position)]
                if cell[0] != grid.UNSEEN and not grid.enterable(cell):
                    return False
            elif step.action in (grid.LEFT, grid.RIGHT):
                direction = (direction + (1 if step.action == grid.RIGHT else -1)) % 4
        return True


def _handled(node: Node) -> tuple:
    """What a goal was about: the cell faced, what it shows, and what is carried."""
    x, y, direction, carried, _ = node.key
    step = grid.forward_vector(direction)
    front = tuple(node.image[grid.FRONT_CELL].tolist())
    return (x + int(step[0])) % SIZE, (y + int(step[1])) % SIZE, front, carried
