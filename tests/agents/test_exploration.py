"""The most revealing way is the best of all ways, and looks only for what is wanted."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.exploration import (
    PATIENCE,
    STALE,
    UNIT,
    Views,
    exploration_path,
    most_revealing_path,
    revisiting_path,
)
from wmtoolkit.agents.frontier import Frontier
from wmtoolkit.agents.search_graph import MOVES, SearchGraph
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.agents.simulator import UNSEEN_CONFIDENCE, SimulatorWorldModel
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Trajectory


def random_graph(seed, nodes=6, cells=8):
    rng = np.random.default_rng(seed)
    children = [{a: int(rng.integers(nodes)) for a in range(2)} for _ in range(nodes)]
    masks = [int(rng.integers(2**cells)) & int(rng.integers(2**cells)) for _ in range(nodes)]
    return SimpleNamespace(nodes=[SimpleNamespace(children=each) for each in children]), masks


def gain_of(graph, masks, actions, discount):
    node, known, gain, ways = 0, masks[0], 0.0, []
    for depth, action in enumerate(actions, 1):
        node = graph.nodes[node].children[action]
        gain += discount**depth * (masks[node] & ~known).bit_count()
        known |= masks[node]
        ways.append(gain)
    return max(ways)


@pytest.mark.parametrize("seed", range(8))
def test_a_wide_beam_finds_the_best_way(seed):
    graph, masks = random_graph(seed)
    path = most_revealing_path(graph, masks, discount=0.8, horizon=6, width=10_000)
    best = max(gain_of(graph, masks, actions, 0.8) for actions in product(range(2), repeat=6))
    assert gain_of(graph, masks, [action for action, _ in path], 0.8) == pytest.approx(best)
    node = 0
    for action, child in path:
        assert graph.nodes[node].children[action] == child
        node = child


def test_nothing_to_show_is_no_way():
    graph, masks = random_graph(0)
    assert most_revealing_path(graph, [masks[0]] + [0] * 5) == []


@pytest.fixture
def room():
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    observation = reset_level(env, 900002)
    seen = SeenMap(observation)
    model = SimulatorWorldModel(env, sees_hidden=False)
    root = model.rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(root, seen, Meter(Budget(10_000, 1e9, 10_000), model), actions=MOVES)
    frontier = Frontier(graph)
    while frontier.next_cost < np.inf:
        frontier.expand(64)
    return graph, seen


def test_views_are_counted_by_world_cell(room):
    graph, seen = room
    masks = Views(graph, seen.last_seen < 0).masks()
    assert masks[0] == 0
    for node, mask in zip(graph.nodes, masks, strict=True):
        assert mask.bit_count() <= (node.image[..., 0] != grid.UNSEEN).sum()
    everything = 0
    for mask in masks:
        everything |= mask
    assert everything.bit_count() == 64 - (seen.last_seen >= 0).sum()  # an 8x8 room has 64 cells


def test_information_is_counted_in_nats_of_what_may_look_otherwise(room):
    """The copy is sure of the room's outer walls, and gives every other cell never seen the same confidence."""
    graph, seen = room
    nats = -sum(p * np.log(p) for p in (UNSEEN_CONFIDENCE, 1 - UNSEEN_CONFIDENCE))
    masks = Views.of_new_cells(graph, by_information=True).masks()
    counted = Views.of_new_cells(graph).masks()
    assert sum(mask.bit_count() for mask in counted) > 0
    for node, mask, count in zip(graph.nodes, masks, counted, strict=True):
        places = seen.index(np.array([node.key[:2]]), np.array([node.key[2]]))[0]
        new = (node.image[..., 0] != grid.UNSEEN) & (seen.last_seen.reshape(-1)[places] < 0)
        assert count.bit_count() == new.sum()
        assert mask.bit_count() == (new & (node.confidence < 1)).sum() * round(nats / UNIT)
    assert any(mask.bit_count() and not informative for mask, informative in zip(counted, masks, strict=True))


def test_new_cells_first_then_stale_ones_then_none(room):
    graph, seen = room
    new = exploration_path(graph)
    assert new
    seen.last_seen[:] = seen.time
    assert exploration_path(graph) == []
    seen.time += STALE + 1
    seen.last_seen[:] = seen.time
    x, y = graph.nodes[new[0][1]].key[:2]
    seen.last_seen[x - 3 : x + 4, y - 3 : y + 4] = 0
    assert exploration_path(graph) == []
    assert revisiting_path(graph)


def test_what_is_farther_than_it_looks_ahead_is_found():
    env = make_level("MiniGrid-Empty-16x16-v0")
    observation = reset_level(env, 0)
    seen = SeenMap(observation)
    model = SimulatorWorldModel(env)
    root = model.rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(root, seen, Meter(Budget(10_000, 1e9, 10_000), model), actions=MOVES)
    frontier = Frontier(graph)
    while frontier.next_cost < np.inf:
        frontier.expand(64)
    seen.last_seen[:] = 0
    x, y = seen.position
    seen.last_seen[x + 14, y + 14] = -1  # the corner of the wall that is farthest away
    masks = Views.of_new_cells(graph).masks()
    assert most_revealing_path(graph, masks) == []
    path = exploration_path(graph)
    assert masks[path[-1][1]]
    assert not any(masks[node] for _, node in path[:-1])


def test_cells_that_disappointed_are_given_up(room):
    graph, seen = room
    seen.broken_promises[:] = PATIENCE
    assert exploration_path(graph) == revisiting_path(graph) == []
