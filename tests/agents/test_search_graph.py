"""Equal situations are imagined once, and only actions that change nothing are left out."""

import numpy as np
import pytest

from wmtoolkit.agents.search_graph import INTERACTIONS, MOVES, SearchGraph, useful_actions
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.agents.simulator import SimulatorWorldModel
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Trajectory


def graph_of(level, seed, **options):
    env = make_level(level)
    observation = reset_level(env, seed)
    root = SimulatorWorldModel(env).rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(root, SeenMap(observation), **options)
    graph.open(0)
    return env, graph


def grown(graph, limit=2000, batch=64):
    while graph.next_cost < np.inf and len(graph) < limit:
        for node in graph.expand(batch):
            if graph.nodes[node].success < 0.5:
                graph.open(node)
    return graph


@pytest.mark.parametrize("level", ["BabyAI-PutNextLocal-v0", "BabyAI-UnlockPickup-v0", "BabyAI-KeyInBox-v0"])
def test_actions_left_out_change_nothing(level):
    env = make_level(level, max_steps=10_000)
    rng = np.random.default_rng(0)
    left_out = 0
    for seed in range(3):
        observation = reset_level(env, seed)
        model = SimulatorWorldModel(env)
        history = Trajectory.start(observation)
        state = model.rollout_state([history])
        for action in rng.choice([0, 1, 2, 2, 2, 3, 4, 5], 120):
            image = state.images[0]
            kept = useful_actions(image[grid.FRONT_CELL], image[grid.AGENT_CELL], MOVES + INTERACTIONS)
            out = [other for other in MOVES + INTERACTIONS if other not in kept]
            if out:
                after = state.select(np.zeros(len(out), int)).step(np.array(out))
                assert (after.images == image).all()
                left_out += len(out)
            state = state.step([int(action)])
            if state.outcomes[0, 2:].any():
                break
    assert left_out > 300


def test_each_pose_of_a_room_is_imagined_once():
    env, graph = graph_of("BabyAI-GoToObj-v0", 0, actions=MOVES)
    grown(graph)
    free = sum(cell is None for cell in env.grid.grid)
    goals = sum(node.success >= 0.5 for node in graph.nodes)
    assert goals
    assert len({node.key for node in graph.nodes}) == len(graph)
    assert free * 4 - 8 <= len(graph) <= free * 4  # all but what lies behind a goal
    for node in graph.nodes:
        assert node.depth == len(graph.path(graph.nodes.index(node)))


def test_depths_are_shortest_and_the_batch_does_not_matter():
    _, one = graph_of("BabyAI-GoToLocal-v0", 1)
    _, many = graph_of("BabyAI-GoToLocal-v0", 1)
    grown(one, batch=3)
    grown(many, batch=500)
    assert {node.key: node.depth for node in one.nodes} == {node.key: node.depth for node in many.nodes}
    for node in many.nodes:
        for child in node.children.values():
            assert many.nodes[child].depth <= node.depth + 1


def test_merged_situations_look_the_same():
    """Keys decide what is one situation; two ways to one key must show one image."""
    _, graph = graph_of("BabyAI-PutNextLocal-v0", 2, actions=MOVES + INTERACTIONS, interaction_cost=0)
    grown(graph, limit=600)
    rng = np.random.default_rng(0)
    checked = 0
    for index in rng.permutation(len(graph))[:150]:
        node = graph.nodes[index]
        for action, child in node.children.items():
            if graph.nodes[child].parent != index:
                again = node.state.select([node.row]).step([action])
                np.testing.assert_array_equal(again.images[0], graph.nodes[child].image)
                checked += 1
    assert checked > 100


def test_putting_an_object_back_is_no_change():
    env = make_level("BabyAI-PickupLoc-v0", max_steps=1000)
    history = Trajectory.start(reset_level(env, 0))
    model = SimulatorWorldModel(env)
    model.rollout_state([history])
    rng = np.random.default_rng(0)
    while history.images[-1][grid.FRONT_CELL][0] not in (5, 6, 7):
        action = int(rng.choice(MOVES))
        history = history.extended(action, env.step(action)[0])
    graph = SearchGraph(model.rollout_state([history]), SeenMap(history.observation()), actions=INTERACTIONS)
    graph.open(0)
    new = graph.expand(8)
    picked = next(node for node in new if graph.nodes[node].action == grid.PICKUP)
    assert graph.nodes[picked].key[3] != graph.nodes[0].key[3]
    graph.open(picked)
    graph.expand(8)
    assert graph.nodes[picked].children[grid.DROP] == 0


def test_interactions_cost_what_was_asked():
    _, graph = graph_of("BabyAI-PickupLoc-v0", 2, actions=MOVES + INTERACTIONS, interaction_cost=4)
    grown(graph, limit=400)
    handled = [node for node in graph.nodes if node.action in INTERACTIONS]
    assert handled
    for node in graph.nodes[1:]:
        extra = 4 if node.action in INTERACTIONS else 0
        assert node.cost == graph.nodes[node.parent].cost + 1 + extra
