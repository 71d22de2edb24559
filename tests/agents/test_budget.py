"""Budgets of planners are kept, count what the network does, and cost detours rather than episodes."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.agents.conftest import PLANNERS, UNHURRIED, lengths, play
from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.agents import SimulatorWorldModel, make_agent
from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.data.levels import make_level, reset_level


@pytest.fixture(scope="module")
def packaged():
    return AnyOrderWorldModel.from_pretrained()


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    "budget",
    [
        {"max_forward_passes": 2},
        {"max_forward_passes": 9},
        {"max_nodes": 5},
        {"max_nodes": 40},
        {"max_milliseconds": 1},
    ],
)
def test_the_budget_is_kept_and_an_action_comes_anyway(name, budget):
    env = make_level("BabyAI-GoToLocal-v0", max_steps=20)
    agent = make_agent(name, world_model=SimulatorWorldModel(env, sees_hidden=False), **budget)
    for seed in range(900_000, 900_003):
        _, _, log = play(agent, env, seed)
        for decision in log:
            assert decision["forward_passes"] <= budget.get("max_forward_passes", 99)
            assert decision["nodes"] <= budget.get("max_nodes", 99)


def test_no_pass_is_begun_that_the_slowest_so_far_says_would_overrun(monkeypatch):
    now, counter = [0.0], SimpleNamespace(forward_passes=7)
    monkeypatch.setattr("wmtoolkit.agents.budget.time.perf_counter", lambda: now[0])
    meter = Meter(Budget(max_forward_passes=99, max_milliseconds=100), counter)
    assert meter.room_for(9)
    for passes, seconds in ((2, 0.02), (1, 0.03), (1, 0.01)):
        counter.forward_passes += passes
        now[0] += seconds
        room = meter.room_for(1), meter.room_for(2)
    assert room == (True, False)  # 60 ms are gone, and the slowest pass took 30
    now[0] += 0.011
    assert not meter.room_for(1)


@pytest.mark.parametrize("name", ["policy", *PLANNERS])
def test_forward_passes_are_calls_of_the_network(world_model, name):
    """What encodes a context, asks the policy, imagines a step or fills in a plan: all of it, and nothing else."""
    calls = []
    hook = world_model.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        env = make_level("BabyAI-GoToLocal-v0", max_steps=3)
        budget = {} if name == "policy" else {"max_nodes": 30, "max_forward_passes": 12, **UNHURRIED}
        _, _, log = play(make_agent(name, world_model=world_model, **budget), env, 900_000)
    finally:
        hook.remove()
    assert sum(decision["forward_passes"] for decision in log) == len(calls) > 0
    assert all(decision["forward_passes"] <= 12 for decision in log)


@pytest.mark.parametrize("name", ["best-first", "mcts"])
@pytest.mark.parametrize("limit", range(2, 13))
def test_a_real_model_is_never_called_more_often_than_the_budget_says(packaged, name, limit):
    """Near the limit, situations that were asked for the policy, and so encoded, are mixed with others."""
    env = make_level("BabyAI-GoToLocal-v0", max_steps=4)
    agent = make_agent(name, world_model=packaged, max_forward_passes=limit, **UNHURRIED)
    for seed in (900_008, 900_012):
        assert max(decision["forward_passes"] for decision in play(agent, env, seed)[2]) <= limit


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("level", ["BabyAI-GoToLocal-v0", "BabyAI-PickupLoc-v0"])
def test_a_small_budget_costs_detours_and_not_the_episode(name, level):
    seeds = range(900_000, 900_006)
    mine = lengths(name, level, seeds, {"sees_hidden": False}, max_forward_passes=4)
    assert mine <= 2 * lengths("bot", level, seeds)


def test_mcts_spends_its_budget_before_it_gives_up():
    """Simulations that end where everything is known already do not end the search, as long as there is more."""
    env = make_level("BabyAI-GoToObjMazeS4R2-v0")
    agent = make_agent("mcts", world_model=SimulatorWorldModel(env, sees_hidden=False), chances=1, **UNHURRIED)
    for seed in range(900_000, 900_004):
        agent.reset(seed)
        agent.act(reset_level(env, seed))
        thought = agent.diagnostics
        graph = thought["graph"]
        unknown = any(graph.known(node, action) is None for node in range(len(graph)) for action in graph.useful(node))
        assert thought["goal"] or thought["forward_passes"] >= 61 or not unknown


def test_infilling_takes_fewer_passes_than_searching():
    env = make_level("BabyAI-GoToLocal-v0")
    passes = {}
    for name in ("infill", "best-first"):
        agent = make_agent(name, world_model=SimulatorWorldModel(env, sees_hidden=False), **UNHURRIED)
        logs = [play(agent, env, seed)[2] for seed in range(900_000, 900_010)]
        passes[name] = np.mean([decision["forward_passes"] for log in logs for decision in log])
    assert passes["infill"] < passes["best-first"]
