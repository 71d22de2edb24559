"""When a plan goes on, when it is changed without a search, and what is made of it when nothing is in sight."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from minigrid.core.world_object import Ball

from tests.agents.conftest import UNHURRIED, play
from tests.agents.test_false_goals import Liar, LyingState
from wmtoolkit.agents import SimulatorWorldModel, make_agent
from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.exploration import NAT, UNIT
from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.agents.walks import Walk, worth
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory


def test_a_goal_whose_way_was_blocked_is_no_false_goal():
    """Something comes to lie in front of the last step: the agent was never there."""
    env = make_level("BabyAI-GoToLocal-v0")
    model = SimulatorWorldModel(env)
    agent = make_agent("best-first", world_model=model, actions="moves", **UNHURRIED)
    blocked = 0
    for seed in range(900_000, 900_010):
        observation = reset_level(env, seed)
        agent.reset(seed)
        plan = [agent.act(observation), *agent.diagnostics["plan"][1:]]
        if plan[-1] != grid.FORWARD:
            continue
        for action in plan[:-1]:
            observation, *_ = env.step(action)
            agent.act(observation)
        for level in (env.unwrapped, model._now):
            level.put_obj(Ball("grey"), *env.unwrapped.front_pos)
        observation, *_ = env.step(grid.FORWARD)
        agent.act(observation)
        assert agent.diagnostics["reason"] == "not as imagined"
        blocked += 1
    assert blocked


def test_a_better_way_to_look_around_is_taken_without_a_search():
    """The copy expects empty cells beyond the outer walls, so that walls come into view as news."""
    env = make_level("BabyAI-GoToObj-v0")
    model = SimulatorWorldModel(env, sees_hidden=False, knows_walls=False)
    agent = make_agent("best-first", world_model=model, **UNHURRIED)
    changed = 0
    for seed in range(900_000, 900_003):
        success, _, log = play(agent, env, seed)
        assert success
        for before, decision in pairwise(log):
            if decision["reason"] == "another way shows more":
                assert decision["forward_passes"] == 0
                assert not decision["goal"]
                assert decision["plan_nodes"] != before["plan_nodes"][1:]
                changed += 1
    assert changed


def test_a_guess_has_a_way_there():
    """Situations that were drawn are nobody's children: the best guess is the best one that can be reached."""
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    observation = reset_level(env, 900_002)
    model = SimulatorWorldModel(env, sees_hidden=False)
    graph = SearchGraph(
        model.rollout_state([Trajectory.start(observation)]),
        SeenMap(observation),
        Meter(Budget(100, 1e9, 100), model),
    )
    (drawn,) = graph.draw([(0, grid.LEFT)], torch.Generator().manual_seed(0))
    (child,) = graph.imagine([(0, grid.RIGHT)])
    assert drawn < child
    agent = make_agent("mcts", world_model=model)
    agent._promises = lambda graph, node, threshold=None: True
    assert agent._best_guess(graph) == [(grid.RIGHT, child)]


def test_the_worth_of_a_walk_by_hand():
    """P(SUCCESS) less P(FAILURE) at its end and the information of each step, the sooner the more."""
    nodes = [SimpleNamespace(success=0.0, failure=0.0), SimpleNamespace(success=0.5, failure=0.25)]
    nodes.append(SimpleNamespace(success=0.0, failure=1.0))
    views = SimpleNamespace(masks=lambda: [0b1, 0b0111, 0b1110])
    walks = [Walk([0, 1], [grid.LEFT]), Walk([0, 1, 2], [grid.LEFT, grid.LEFT])]
    bit = NAT * UNIT
    one, two = worth(SimpleNamespace(nodes=nodes), walks, views, 0.5)
    assert one == pytest.approx(0.5 * (2 * bit + 0.25))
    assert two == pytest.approx(0.5 * 2 * bit + 0.25 * (1 * bit - 1.0))


@pytest.mark.parametrize("outwards", [True, False])
def test_what_infill_follows_is_listed_and_said_to_be_a_plans_or_not(outwards):
    env = make_level("BabyAI-GoToLocal-v0")
    model = SimulatorWorldModel(env, sees_hidden=False)
    agent = make_agent("infill", world_model=model, horizons=[1, 2], outwards=outwards, **UNHURRIED)
    planned = []
    for seed in range(900_000, 900_006):
        _, _, log = play(agent, env, seed)
        for decision in log:
            if "candidates" in decision and decision["goal"] and not decision.get("kept"):
                listed = [each.actions for each in decision["candidates"]]
                assert tuple(decision["plan"]) in listed
                best = decision["candidates"][0]
                assert best.success >= 0.5
                if decision["planned"]:
                    assert best.actions == tuple(decision["plan"])
                planned.append(decision["planned"])
    assert set(planned) == ({True, False} if outwards else {True})


class ShyState(LyingState):
    """Gives every success no more than 0.3."""

    @property
    def outcomes(self):
        outcomes = self.state.outcomes.copy()
        shy = 0.7 * outcomes[:, Outcome.SUCCESS]
        outcomes[:, Outcome.SUCCESS] -= shy
        outcomes[:, Outcome.CONTINUE] += shy
        return outcomes


def test_a_guess_remains_one_while_it_is_followed():
    env = make_level("BabyAI-PutNextLocal-v0")
    model = Liar(SimulatorWorldModel(env), ShyState)
    agent = make_agent("best-first", world_model=model, max_nodes=60, **UNHURRIED)
    followed = 0
    for seed in range(900_000, 900_003):
        _, _, log = play(agent, env, seed)
        for before, decision in pairwise(log):
            if before["guess"] and decision["reason"] == "as imagined":
                assert decision["guess"]
                followed += 1
    assert followed
