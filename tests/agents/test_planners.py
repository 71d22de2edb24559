"""Planners win with a perfect model that knows no more than was seen, follow their plans and think on."""

import numpy as np
import pytest

from tests.agents.conftest import PLANNERS, UNHURRIED, lengths, play
from wmtoolkit.agents import Agent, SimulatorWorldModel, make_agent
from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.infill import forward_score
from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory

CUT_SHORT = "as imagined, but the search was cut short"


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(("level", "count"), [("BabyAI-GoToLocal-v0", 8), ("BabyAI-PickupLoc-v0", 5)])
def test_planners_win_nearly_as_fast_as_the_bot_from_what_they_have_seen(name, level, count):
    seeds = range(900_000, 900_000 + count)
    mine = lengths(name, level, seeds, {"sees_hidden": False})
    assert mine <= 1.25 * lengths("bot", level, seeds)


@pytest.mark.parametrize(
    ("level", "count", "factor"),
    [
        ("BabyAI-GoToRedBallGrey-v0", 20, 1.15),
        ("BabyAI-OpenRedDoor-v0", 8, 1.05),
        ("BabyAI-GoToObjMazeS4R2-v0", 8, 1.2),
        ("BabyAI-PutNextLocal-v0", 4, 1.3),
        ("BabyAI-UnlockPickup-v0", 6, 1.3),
        ("MiniGrid-DoorKey-6x6-v0", 8, 1.3),
    ],
)
def test_best_first_handles_objects_and_doors(level, count, factor):
    seeds = range(900_000, 900_000 + count)
    assert lengths("best-first", level, seeds, {"sees_hidden": False}) <= factor * lengths("bot", level, seeds)


def test_moves_alone_are_enough_where_nothing_must_be_handled():
    seeds = range(900_000, 900_015)
    mine = lengths("best-first", "BabyAI-GoToLocal-v0", seeds, {"sees_hidden": False}, actions="moves")
    assert mine <= 1.1 * lengths("bot", "BabyAI-GoToLocal-v0", seeds)


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_best_first_needs_no_policy_where_goals_are_near(prior_weight):
    seeds = range(900_000, 900_010)
    mine = lengths("best-first", "BabyAI-PickupLoc-v0", seeds, {"sees_hidden": False}, prior_weight=prior_weight)
    assert mine <= 1.1 * lengths("bot", "BabyAI-PickupLoc-v0", seeds)


@pytest.mark.parametrize("options", [{"knows_walls": False}, {"memory": 1}])
def test_it_wins_with_a_model_that_imagines_wrongly_or_forgets(options):
    seeds = range(900_000, 900_020)
    mine = lengths("best-first", "BabyAI-GoToRedBallGrey-v0", seeds, {"sees_hidden": False, **options})
    assert mine <= 1.3 * lengths("bot", "BabyAI-GoToRedBallGrey-v0", seeds)


@pytest.mark.parametrize("name", PLANNERS)
def test_predicted_failure_is_avoided(name):
    env = make_level("MiniGrid-LavaGapS6-v0")
    agent = make_agent(name, world_model=SimulatorWorldModel(env), **UNHURRIED)
    for seed in range(4):
        assert play(agent, env, seed)[0]


@pytest.mark.parametrize("name", PLANNERS)
def test_a_plan_is_followed_without_asking_the_model_again(name):
    env = make_level("BabyAI-GoToLocal-v0")
    far = {"horizons": list(range(1, 11))} if name == "infill" else {}
    agent = make_agent(name, world_model=SimulatorWorldModel(env), **UNHURRIED, **far)
    _, steps, log = play(agent, env, 900_001)
    assert steps > 2
    assert log[0]["forward_passes"] > 0
    for decision in log[1:]:
        assert (decision["forward_passes"], decision["reason"]) == (0, "as imagined")
    assert log[0]["goal"]
    assert log[0]["success_probability"] == 1
    assert [log[0]["plan"][i] for i in range(steps)] == [decision["plan"][0] for decision in log]
    assert log[0]["candidates"]
    assert max(candidate.success for candidate in log[0]["candidates"]) == 1


def test_what_comes_into_view_starts_no_search():
    """The copy of the level knows no more than was seen: what comes into view is news, and mostly no contradiction."""
    env = make_level("BabyAI-GoToObjMazeS4R2-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env, sees_hidden=False), **UNHURRIED)
    news = []
    for seed in range(900_000, 900_006):
        success, _, log = play(agent, env, seed)
        assert success
        news += [decision for decision in log if decision["reason"] == "as imagined, but for what came into view"]
    assert news
    assert all(decision["forward_passes"] == 0 for decision in news)


def test_it_imagines_what_it_then_sees():
    env = make_level("BabyAI-GoToLocal-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env))
    observation = reset_level(env, 900_001)
    action = agent.act(observation)
    observation, *_ = env.step(action)
    np.testing.assert_array_equal(agent.diagnostics["imagined_image"], observation["image"])
    assert agent.diagnostics["imagined_direction"] == observation["direction"]


@pytest.mark.parametrize("name", PLANNERS)
def test_episodes_repeat_under_their_seed(world_model, name):
    """With a model that knows nothing, everything is chance: and chance is seeded."""
    env = make_level("BabyAI-GoToLocal-v0", max_steps=4)
    agent = make_agent(name, world_model=world_model, max_nodes=12, **UNHURRIED)
    assert isinstance(agent, Agent)
    runs = []
    for seed in (3, 4, 3):
        _, _, log = play(agent, env, seed)
        runs.append([decision["plan"][0] for decision in log])
    assert runs[0] == runs[2]
    assert all(action in range(len(grid.ACTIONS)) for run in runs for action in run)


def test_mcts_draws_what_it_might_see_and_never_counts_on_it():
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    observation = reset_level(env, 900_001)  # the target is out of sight
    thought = {}
    for chances in (1, 4):
        model = SimulatorWorldModel(env, sees_hidden=False)
        agent = make_agent("mcts", world_model=model, chances=chances, actions="moves", **UNHURRIED)
        agent.act(observation)
        thought[chances] = agent.diagnostics
    assert all(not node.key[4] for node in thought[1]["graph"].nodes)
    drawn = [node for node in thought[4]["graph"].nodes if node.key[4]]
    assert drawn
    for node in drawn:
        assert {cell[0] for _, _, cell in node.key[4]} <= {grid.OBJECTS.index(name) for name in ("key", "ball", "box")}
    assert not thought[4]["goal"]
    assert all(not node.key[4] for node in thought[4]["plan_nodes"])


@pytest.mark.parametrize("name", PLANNERS)
def test_a_search_goes_on_with_what_was_imagined_behind_a_plan_that_came_true(name):
    env = make_level("BabyAI-GoToObjMazeS4R2-v0")
    model = SimulatorWorldModel(env)
    agent = make_agent(name, world_model=model, max_forward_passes=8, **UNHURRIED)
    kept = 0
    for seed in range(900_000, 900_004):
        _, _, log = play(agent, env, seed)
        for decision in log:
            if "graph" not in decision or len(decision["graph"]) <= decision["nodes"]:
                continue
            assert decision["reason"] in ("plan finished", "false goal", CUT_SHORT)
            graph = decision["graph"]
            for index in range(1, len(graph), 5):
                node, way = graph.nodes[index], [graph.nodes[step].action for step in graph.path(index)]
                state = graph.nodes[0].state
                for action in way:
                    state = state.step([action])
                np.testing.assert_array_equal(state.images[0], node.image)
                assert len(way) == node.depth
                kept += 1
    assert kept > 20


def test_a_plans_score_is_what_the_model_gives_its_way_forwards(world_model):
    """Views, headings and outcomes of each step, and SUCCESS in place of the outcome that was likeliest at the end."""
    env = make_level("BabyAI-GoToLocal-v0")
    observation = reset_level(env, 900_000)
    state = world_model.rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(state, SeenMap(observation), Meter(Budget(99, 1e9, 99), world_model))
    (first,) = graph.imagine([(0, grid.LEFT)])
    (second,) = graph.imagine([(first, grid.LEFT)])
    state = state.step([grid.LEFT]).step([grid.LEFT])
    odds = state.outcomes[0]
    expected = state.total_log_prob[0] + np.log(odds[Outcome.SUCCESS] / odds.max())
    assert forward_score(graph, [0, first, second]) == pytest.approx(expected, abs=1e-3)
