"""Equal situations are imagined once, and only actions that change nothing are left out."""

import numpy as np
import pytest

from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.frontier import Frontier
from wmtoolkit.agents.search_graph import INTERACTIONS, MOVES, SearchGraph, useful_actions
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.agents.simulator import SimulatorWorldModel
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Trajectory


def unlimited(model):
    return Meter(Budget(10_000, 1e9, 10_000), model)


def graph_of(level, seed, **options):
    env = make_level(level)
    observation = reset_level(env, seed)
    model = SimulatorWorldModel(env)
    root = model.rollout_state([Trajectory.start(observation)])
    return env, SearchGraph(root, SeenMap(observation), unlimited(model), **options)


def grown(graph, limit=2000, batch=64):
    frontier = Frontier(graph)
    while frontier.next_cost < np.inf and len(graph) < limit:
        frontier.expand(batch)
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
    assert len({node.key for node in graph.nodes[1:]}) == len(graph) - 1
    assert free * 4 - 8 <= len(graph) <= free * 4 + 1  # all but what lies behind a goal, and the start once more
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
    _, graph = graph_of("BabyAI-PutNextLocal-v0", 2, actions=MOVES + INTERACTIONS)
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
    seen = SeenMap(history.observation())
    seen.time = len(history)
    graph = SearchGraph(model.rollout_state([history]), seen, unlimited(model), actions=INTERACTIONS)
    (picked,) = graph.imagine([(0, grid.PICKUP)])
    assert graph.nodes[picked].key[3] != graph.nodes[0].key[3]
    assert graph.imagine([(picked, grid.DROP)]) == [0]


def test_interactions_cost_what_was_asked():
    _, graph = graph_of("BabyAI-PickupLoc-v0", 2, actions=MOVES + INTERACTIONS)
    frontier = Frontier(graph, interaction_cost=4)
    while len(graph) < 400:
        frontier.expand(64)
    handled = [node for node in graph.nodes if node.action in INTERACTIONS]
    assert handled
    for index, node in enumerate(graph.nodes[1:], 1):
        extra = 4 if node.action in INTERACTIONS else 0
        assert frontier.costs[index] == frontier.costs[node.parent] + 1 + extra


def test_interactions_cost_less_the_more_the_policy_expects_them():
    _, graph = graph_of("BabyAI-PickupLoc-v0", 2, actions=MOVES + INTERACTIONS)
    frontier = Frontier(graph, prior_weight=1.0, interaction_cost=4)
    while len(graph) < 400:
        frontier.expand(64)
    handled = [(index, node) for index, node in enumerate(graph.nodes) if node.action in INTERACTIONS]
    chances = [float(graph.nodes[node.parent].policy[node.action]) for _, node in handled]
    assert max(chances) > 0.5 > min(chances)  # one that the bot would take, and others
    for (index, node), chance in zip(handled, chances, strict=True):
        expected = frontier.costs[node.parent] + 1 - np.log(chance) + 4 * (1 - chance)
        assert frontier.costs[index] == pytest.approx(expected)


def test_a_doubtful_goal_counts_as_farther_away():
    _, graph = graph_of("BabyAI-GoToObj-v0", 0)
    (near,) = graph.imagine([(0, grid.LEFT)])
    (far,) = graph.imagine([(near, grid.LEFT)])
    assert graph.shortest({near: 0.5, far: 0.0}) == [(grid.LEFT, near)]
    assert graph.shortest({near: 1.5, far: 0.0}) == [(grid.LEFT, near), (grid.LEFT, far)]
    assert graph.shortest([near, far]) == [(grid.LEFT, near)]
    assert graph.shortest({}) == []


def test_a_refuted_success_ends_nothing():
    """The way goes on through a situation that was taken for success in vain."""
    env = make_level("BabyAI-GoToObj-v0")
    observation = reset_level(env, 0)
    model = SimulatorWorldModel(env)
    root = model.rollout_state([Trajectory.start(observation)])
    for refuted in (False, True):
        options = {"refuted": lambda graph, node, known=refuted: known}
        graph = SearchGraph(root, SeenMap(observation), unlimited(model), **options)
        grown(graph)
        goals = [index for index, node in enumerate(graph.nodes) if index and node.success > 0.5]
        assert goals
        assert all(graph.ends(goal) is not refuted for goal in goals)
        assert all(bool(graph.useful(goal)) is refuted for goal in goals)


def test_the_policy_orders_the_search_and_is_asked_once_a_node():
    _, graph = graph_of("BabyAI-PickupLoc-v0", 2, actions=MOVES + INTERACTIONS)
    frontier = Frontier(graph, prior_weight=1.0)
    while not any(node.success > 0.5 for node in graph.nodes):
        frontier.expand(64, slack=1.0)
    meter = graph.meter
    asked = [node for node in graph.nodes if node.policy is not None]
    assert meter.nodes == len(graph) - 1
    assert len(asked) < len(graph) < 100
    passes = meter.forward_passes
    graph.policy([index for index, node in enumerate(graph.nodes) if node.policy is not None])
    assert meter.forward_passes == passes
    graph.policy(range(len(graph)))
    assert meter.forward_passes == passes + 1
    _, blind = graph_of("BabyAI-PickupLoc-v0", 2, actions=MOVES + INTERACTIONS)
    assert len(grown(blind, limit=len(graph))) >= len(graph)
    assert not any(node.success > 0.5 for node in blind.nodes)


def test_a_search_that_begins_in_a_known_graph_imagines_nothing_twice():
    """It goes on where the other one ended, at the same costs, as if they had been one."""

    def searched(graph, *horizons):
        for horizon in horizons:
            frontier = Frontier(graph, prior_weight=1.0, interaction_cost=3.0)
            while frontier.next_cost <= horizon:
                frontier.expand(4)
        assert graph.meter.nodes == len(graph) - 1
        return {graph.nodes[node].key: cost for node, cost in frontier.costs.items() if cost <= horizons[-1]}

    _, graph = graph_of("BabyAI-PickupLoc-v0", 0, actions=MOVES + INTERACTIONS)
    _, whole = graph_of("BabyAI-PickupLoc-v0", 0, actions=MOVES + INTERACTIONS)
    found = searched(graph, 6, 9, 12)
    assert len(found) > 20
    assert found == pytest.approx(searched(whole, 12))


@pytest.mark.parametrize(("level", "action"), [("PutNextLocal", grid.PICKUP), ("GoToObjMazeS4R2", grid.TOGGLE)])
def test_what_was_imagined_behind_a_change_that_came_true_is_what_would_be_imagined_now(level, action):
    env = make_level(f"BabyAI-{level}-v0")
    observation, model = reset_level(env, 3), SimulatorWorldModel(env)
    history, seen = Trajectory.start(observation), SeenMap(observation)
    root = model.rollout_state([history])
    graph = grown(SearchGraph(root, seen, unlimited(model), actions=MOVES + INTERACTIONS), limit=1500)
    handled = [number for number, node in enumerate(graph.nodes) if node.action == action and node.key[4]]
    index = min(handled, key=lambda number: graph.nodes[number].depth)
    assert not graph.came_true(index, root)
    for step in [graph.nodes[number].action for number in graph.path(index)]:
        observation, *_ = env.step(step)
        history = history.extended(step, observation)
        seen.update(step, observation, observation["image"])
    root = model.rollout_state([history])
    assert graph.came_true(index, root)
    kept = graph.rooted(index, root, unlimited(model))
    assert len(kept) > 50
    anew = SearchGraph(root, seen, unlimited(model), actions=MOVES + INTERACTIONS)
    for number in range(1, len(kept), 7):
        there = 0
        for action in [kept.nodes[node].action for node in kept.path(number)]:
            (there,) = anew.imagine([(there, action)])
        np.testing.assert_array_equal(anew.nodes[there].image, kept.nodes[number].image)
        assert anew.nodes[there].key == kept.nodes[number].key


def test_equal_moves_of_one_pass_are_imagined_once():
    _, graph = graph_of("BabyAI-GoToObj-v0", 0)
    meter = graph.meter
    left, right = graph.imagine([(0, grid.LEFT), (0, grid.RIGHT)])
    once, again = graph.imagine([(left, grid.LEFT), (right, grid.RIGHT)])
    assert once == again
    assert (meter.forward_passes, meter.nodes) == (2, 3)
    assert graph.imagine([(right, grid.RIGHT)]) == [once]
    assert meter.forward_passes == 2


def test_the_shortest_known_way_is_found_whatever_way_was_imagined_first():
    _, graph = graph_of("BabyAI-GoToObj-v0", 0)
    node = 0
    for _ in range(3):
        (node,) = graph.imagine([(node, grid.LEFT)])
    assert len(graph.path(node)) == 3
    assert graph.shortest([node]) == [(grid.RIGHT, node)]


def test_an_episode_may_begin_in_front_of_its_goal():
    """The bot turns around itself where it stands; the planner too must find out that it need not go."""
    _, graph = graph_of("BabyAI-GoToObj-v0", 0)
    (left,) = graph.imagine([(0, grid.LEFT)])
    (back,) = graph.imagine([(left, grid.RIGHT)])
    assert back != 0
    assert graph.nodes[back].key == graph.nodes[0].key
    _, graph = graph_of("BabyAI-GoToObj-v0", 0)
    graph.seen.time = 1
    graph = SearchGraph(graph.nodes[0].state, graph.seen, graph.meter)
    (left,) = graph.imagine([(0, grid.LEFT)])
    assert graph.imagine([(left, grid.RIGHT)]) == [0]
