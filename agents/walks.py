"""Random action sequences walked through imagination side by side: what shooting methods draw and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from wmtoolkit.agents.budget import IMAGINE
from wmtoolkit.agents.exploration import Views, information_worth
from wmtoolkit.agents.planner import Candidate
from wmtoolkit.agents.search_graph import SearchGraph


@dataclass
class Walk:
    """A sequence of actions and the nodes it leads through, the root first."""

    nodes: list[int] = field(default_factory=lambda: [0])
    actions: list[int] = field(default_factory=list)


def take_walks(
    graph: SearchGraph,
    weights: np.ndarray,
    count: int,
    rng: np.random.Generator,
    is_goal: Callable[[SearchGraph, int], bool],
) -> list[Walk]:
    """Draw action sequences, one step of all of them in a forward pass, until one of them reaches a goal.

    An action is drawn from the model's policy times the weights, among those that are useful and do not lead back to
    where the walk has been: a loop never helps. Walks that meet share what is imagined.

    Args:
        weights: (horizon, 7) of each action at each step.
        count: number of walks.
    """
    walks = [Walk() for _ in range(count)]
    going = walks
    for weight in weights:
        if not going or not graph.meter.room_for(IMAGINE):
            break
        chosen = []
        for walk, policy in zip(going, graph.policy([walk.nodes[-1] for walk in going]), strict=True):
            node = walk.nodes[-1]
            options = [action for action in graph.useful(node) if graph.known(node, action) not in walk.nodes]
            if options:
                odds = (policy * weight)[options]
                chosen.append((walk, options[int(rng.choice(len(options), p=odds / odds.sum()))]))
        del chosen[graph.meter.nodes_left(count) :]
        children = graph.imagine([(walk.nodes[-1], action) for walk, action in chosen])
        for (walk, action), child in zip(chosen, children, strict=True):
            walk.actions.append(action)
            walk.nodes.append(child)
        if any(is_goal(graph, child) for child in children):
            break
        going = [walk for walk, _ in chosen if not graph.ends(walk.nodes[-1])]
    return [walk for walk in walks if walk.actions]


def worth(graph: SearchGraph, walks: Sequence[Walk], views: Views, discount: float) -> np.ndarray:
    """(n,) what each walk is worth: P(SUCCESS) at its end, less P(FAILURE), and a little for information on its way.

    All of it is discounted by the step it comes at.
    """
    masks = views.masks()
    values = np.zeros(len(walks))
    for index, walk in enumerate(walks):
        shown = masks[0]
        for step, node in enumerate(walk.nodes[1:], 1):
            values[index] += discount**step * information_worth(masks[node] & ~shown)
            shown |= masks[node]
        end = graph.nodes[walk.nodes[-1]]
        values[index] += discount ** len(walk.actions) * (end.success - end.failure)
    return values


def walk_candidates(graph: SearchGraph, walks: Sequence[Walk], views: Views, discount: float) -> list[Candidate]:
    """The walks, best first, each once, for people to look at."""
    values = worth(graph, walks, views, discount)
    found: dict[tuple[int, ...], Candidate] = {}
    for index in np.argsort(-values, kind="stable"):
        walk = walks[index]
        success = graph.nodes[walk.nodes[-1]].success
        found.setdefault(tuple(walk.actions), Candidate(tuple(walk.actions), float(values[index]), success))
    return list(found.values())
