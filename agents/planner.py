"""What all planners share: they act by a plan, check it against each observation, and plan again when it fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wmtoolkit.agents.budget import IMAGINE, Budget, Meter
from wmtoolkit.agents.exploration import Views, exploration_path, revisiting_path
from wmtoolkit.agents.false_goals import FalseGoals
from wmtoolkit.agents.frontier import Frontier
from wmtoolkit.agents.protocol import Observation, RolloutState, WorldModel, remembered
from wmtoolkit.agents.search_graph import INTERACTIONS, MOVES, Node, SearchGraph
from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Trajectory

ACTION_SETS = {"all": MOVES + INTERACTIONS, "moves": MOVES}
DOUBT = 6.0
"""So many steps longer a way counts whose success is sure not to come; in between in proportion."""
GUESS = 0.05
"""P(SUCCESS) below the threshold that is still worth a try when there is nothing left to see."""
WANDER = 8
"""Steps of a walk that only hopes to see something new."""
_SCENERY = [grid.OBJECTS.index(name) for name in ("unseen", "empty", "wall", "floor")]
"""What may come into view without being a reason to search anew."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan, what it is expected to show, and the number of that node in the graph it was found in."""

    action: int
    node: Node
    index: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that was thought of: its actions, what it is worth to its planner, and P(SUCCESS) at its end."""

    actions: tuple[int, ...]
    score: float
    success: float


class Planner(ABC):
    """Imagines, acts in the level, and imagines again whenever it sees what it did not imagine.

    Each search starts from all that was really seen and grows a graph of imagined situations, in which equal ones are
    merged; how it grows is what planners differ in (``_grow``). Where it meets a situation whose predicted P(SUCCESS)
    is above ``goal_threshold``, the plan is the shortest known way there, where each doubt counts as a detour. Where it
    meets none, the plan goes where imagined views show most cells never seen. A plan is followed as long as what was
    seen before looks as imagined and the way is free; what comes into view for the first time is another matter: it is
    no reason to give up a goal, and if it is no more than floor and walls, the way to look around is chosen anew from
    what was imagined already. A search that its budget cut short before it met a goal goes on with the next decision,
    so that a small budget costs detours rather than the episode. A goal that did not end the episode was a false one
    and is not tried again, in whatever guise (``FalseGoals``).

    Prior knowledge of MiniGrid it uses: ``SearchGraph`` (dead reckoning, actions that change nothing), ``SeenMap``, and
    ``FalseGoals`` (what a success is about). Missions that want several things done in order have progress that no view
    shows; situations that differ only in it are merged, so such missions are beyond it.

    Args:
        world_model: what it imagines with.
        seed: of all that is drawn.
        max_forward_passes, max_milliseconds, max_nodes: see ``Budget``; of one decision.
        goal_threshold: P(SUCCESS) from which a situation is a goal.
        failure_threshold: P(FAILURE) from which a situation is avoided.
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
        goal_threshold: float = 0.5,
        failure_threshold: float = 0.5,
        discount: float = 0.93,
        actions: str = "all",
    ) -> None:
        if actions not in ACTION_SETS:
            raise UserError(f"actions is one of {', '.join(ACTION_SETS)}, not {actions!r}")
        shares = {"goal_threshold": goal_threshold, "failure_threshold": failure_threshold, "discount": discount}
        for name, share in shares.items():
            if not 0 < share <= 1:
                raise UserError(f"{name} must be above 0 and at most 1, not {share}")
        self.budget = Budget(max_forward_passes, max_milliseconds, max_nodes)
        self.diagnostics: dict[str, Any] = {}
        self._world_model, self._actions = world_model, ACTION_SETS[actions]
        self._goal_threshold, self._failure_threshold = goal_threshold, failure_threshold
        self._discount = discount
        self._rng = np.random.default_rng(seed)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._history: Trajectory | None = None
        self._seen: SeenMap | None = None
        self._plan: deque[Step] = deque()
        self._last: Step | None = None
        self._to_goal = self._guess = False
        self._fruitless = 0
        self._false_goals = FalseGoals()
        self._planned_in: SearchGraph | None = None
        self._came_true = self._unfinished = False
        self._known: np.ndarray | None = None

    def act(self, observation: Observation) -> int:
        meter = Meter(self.budget, self._world_model)
        self._history = remembered(self._history, None if self._last is None else self._last.action, observation)
        if self._seen is None or self._last is None:
            self._seen = SeenMap(observation)
        else:
            self._seen.update(self._last.action, observation, self._last.node.image)
            pose = (*self._seen.position, self._seen.direction)
            self._false_goals.note(self._last.action, pose, observation["image"])
        again, reason = self._reason_to_plan(observation)
        thought: dict[str, Any] = {}
        if again:
            thought = self._search(meter, self._history, self._seen)
        self._last = self._plan.popleft()
        end = self._plan[-1] if self._plan else self._last
        self.diagnostics = {
            **meter.summary(),
            **thought,
            "reason": reason,
            "goal": self._to_goal,
            "guess": self._guess,
            "plan": [step.action for step in (self._last, *self._plan)],
            "plan_nodes": [step.node for step in (self._last, *self._plan)],
            "success_probability": end.node.success,
            "imagined_image": self._last.node.image,
            "imagined_direction": self._last.node.direction,
            "imagined_confidence": self._last.node.confidence,
        }
        return self._last.action

    def _begin(self, root: RolloutState, meter: Meter) -> SearchGraph:
        """What a search starts from: all that was imagined behind the present situation, if it came true, or else
        nothing."""
        before, last = self._planned_in, self._last
        if self._came_true and before and last and before.came_true(last.index, root):
            return before.rooted(last.index, root, meter)
        assert self._seen is not None
        return SearchGraph(root, self._seen, meter, self._actions, self._false_goals.cover)

    @abstractmethod
    def _grow(self, graph: SearchGraph) -> Sequence[Candidate]:
        """Imagine, starting at the root, until a goal is found, the budget is spent or nothing is left.

        Returns:
            What was considered, for people to look at. A goal is not told: it is looked for in the graph.
        """

    def _reason_to_plan(self, observation: Observation) -> tuple[bool, str]:
        """Whether to plan again, and why, or why not; notes a false goal."""
        if self._last is None:
            return True, "first observation"
        equal = np.array_equal(self._last.node.image, observation["image"])
        self._came_true &= equal
        if not self._plan and self._to_goal:
            assert self._planned_in is not None
            assert self._seen is not None
            if (*self._seen.position, self._seen.direction) != self._last.node.key[:3]:
                return True, "not as imagined"  # the way was blocked: the goal was not reached
            self._false_goals.add(self._planned_in, self._last.node)
            return True, "false goal"
        reason = "as imagined" if equal else self._adapted(observation["image"])
        if reason is None:
            return True, "not as imagined"
        if not self._plan:
            return True, "plan finished"
        return self._unfinished, f"{reason}, but the search was cut short" if self._unfinished else reason

    def _adapted(self, image: np.ndarray) -> str | None:
        """Keep the plan for an unexpected view, or take another way through what was imagined already, if one of them
        is good for it; returns why, or None."""
        assert self._last is not None
        assert self._seen is not None
        assert self._planned_in is not None
        assert self._known is not None
        other = (self._last.node.image != image).any(-1)
        places = self._seen.index(np.array([self._seen.position]), np.array([self._seen.direction]))[0]
        if not self._plan or (other & self._known.reshape(-1)[places]).any() or not self._passable(self._seen):
            return None
        kept = "as imagined, but for what came into view"
        if self._to_goal:
            return kept
        if not np.isin(image[other][:, 0], _SCENERY).all():
            return None
        if self._unfinished:
            return kept  # the search that goes on chooses the way
        path = exploration_path(self._planned_in, root=self._last.index, discount=self._discount)
        if not path:
            return kept
        same = all(node == step.index for (_, node), step in zip(path, self._plan, strict=False))
        self._plan = _as_plan(self._planned_in, path)
        return kept if same else "another way shows more"

    def _search(self, meter: Meter, history: Trajectory, seen: SeenMap) -> dict[str, Any]:
        """Make a new plan of at least one step; returns what people may want to see of the search."""
        root = self._world_model.rollout_state([history])
        meter.nodes += 1
        graph = self._begin(root, meter)
        candidates = list(self._grow(graph))
        if len(graph) == 1:
            graph.imagine([(0, grid.LEFT)])  # whatever the budget, there must be something to do
        thought = {"graph": graph, "candidates": candidates}
        path = graph.shortest(self._goals(graph))
        if not path and self._to_goal and self._passable(seen):
            # the goal was forgotten, is hidden for now, or was no more than a guess, but the way is still free
            self._unfinished &= not meter.room_for(IMAGINE)
            path = graph.along(step.action for step in self._plan)
            if path:
                self._follow(graph, path, seen)
            return {**thought, "kept": True}
        self._to_goal, self._guess = bool(path), False
        path = path or self._look_around(graph)
        self._unfinished = not self._to_goal and not meter.room_for(IMAGINE)
        if not path and self._unfinished:  # too early for guesses
            path = revisiting_path(graph, discount=self._discount)
        if not path:
            path = self._best_guess(graph)
            self._guess = self._to_goal = bool(path)
        path = path or revisiting_path(graph, discount=self._discount) or self._wander(graph, seen)
        self._fruitless = 0 if self._to_goal else self._fruitless + (not self._unfinished)
        self._follow(graph, path, seen)
        return thought

    def _follow(self, graph: SearchGraph, path: Sequence[tuple[int, int]], seen: SeenMap) -> None:
        """Make a way through a graph the plan."""
        self._plan, self._planned_in, self._known = _as_plan(graph, path), graph, seen.last_seen >= 0
        self._came_true = True

    def _look_around(self, graph: SearchGraph) -> list[tuple[int, int]]:
        """Where to go with no goal in sight; empty if there is nothing new to see."""
        return exploration_path(graph, discount=self._discount)

    def _expand(self, graph: SearchGraph, frontier: Frontier, horizon: float, batch: int, slack: float = 0.0) -> None:
        """Imagine outwards to a goal and as far beyond it as it is doubtful; or to the horizon if that shows anything
        new; or as far as can be."""
        views, dearest = Views.of_new_cells(graph), np.inf
        while frontier.next_cost < dearest and graph.meter.room_for(IMAGINE):
            if frontier.next_cost > horizon and any(views.masks()):
                return
            for node in frontier.expand(graph.meter.nodes_left(batch), slack):
                if self._promises(graph, node):
                    # a surer goal that costs less than this one's doubt is worth the search
                    doubt = DOUBT * (1 - graph.nodes[node].success)
                    dearest = min(dearest, frontier.costs.get(node, 0.0) + doubt)

    def _goals(self, graph: SearchGraph) -> dict[int, float]:
        """The goals that were found, and how many steps longer its doubt makes the way to each."""
        found = (node for node in range(1, len(graph)) if self._promises(graph, node))
        return {node: DOUBT * (1 - graph.nodes[node].success) for node in found}

    def _promises(self, graph: SearchGraph, node: int, threshold: float | None = None) -> bool:
        """Whether a node is a goal not yet found false."""
        threshold = self._goal_threshold if threshold is None else threshold
        at = graph.nodes[node]
        return at.success >= threshold and not self._false_goals.cover(graph, at)

    def _best_guess(self, graph: SearchGraph) -> list[tuple[int, int]]:
        """With nothing left to see: the way to the likeliest success, if any is likelier than chance."""
        likely = [node for node in range(1, len(graph)) if self._promises(graph, node, GUESS)]
        likely.sort(key=lambda node: -graph.nodes[node].success)
        # What was drawn is nobody's child, and so without a way there.
        return next((way for node in likely if (way := graph.shortest([node]))), [])

    def _wander(self, graph: SearchGraph, seen: SeenMap) -> list[tuple[int, int]]:
        """The last resort: a walk through the graph drawn from the model's policy, away from where it has been."""
        way: list[tuple[int, int]] = []
        node, been = 0, {0}
        while len(way) < WANDER:
            at = graph.nodes[node]
            options = [(action, child) for action, child in at.children.items() if child not in been]
            safe = [pair for pair in options if graph.nodes[pair[1]].failure < self._failure_threshold]
            if not safe and (way or not options):
                break
            options = safe or options
            visits = np.array([seen.visits[graph.nodes[child].key[:3]] for _, child in options])
            weights = at.prior[[action for action, _ in options]] / (1 + visits)
            action, node = options[int(self._rng.choice(len(options), p=weights / weights.sum()))]
            way.append((action, node))
            been.add(node)
        return way

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


def likeliest(graph: SearchGraph, count: int = 6) -> list[Candidate]:
    """The first ways to the situations of the greatest P(SUCCESS)."""
    nodes = sorted(range(1, len(graph)), key=lambda node: -graph.nodes[node].success)[:count]
    return [candidate(graph, node, graph.nodes[node].success) for node in nodes]


def candidate(graph: SearchGraph, node: int, score: float) -> Candidate:
    """The first way to a node."""
    return Candidate(tuple(graph.nodes[i].action for i in graph.path(node)), score, graph.nodes[node].success)


def _as_plan(graph: SearchGraph, path: Sequence[tuple[int, int]]) -> deque[Step]:
    return deque(Step(action, graph.nodes[node], node) for action, node in path)
