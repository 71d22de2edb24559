"""Agents by name: the references, what each needs, and what is said when it is missing."""

from importlib.resources import files

import numpy as np
import pytest

from tests.agents.conftest import PLANNERS
from wmtoolkit.agents import AGENTS, Agent, SimulatorWorldModel, make_agent
from wmtoolkit.agents.registry import needs
from wmtoolkit.benchmarks.plans import load_plan
from wmtoolkit.benchmarks.success import SuccessPlan
from wmtoolkit.data.behaviours import BehaviourError
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.envs import ImaginationEnv
from wmtoolkit.errors import UserError

LEVEL = "BabyAI-GoToLocal-v0"


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_keeps_the_protocol(name):
    env = make_level(LEVEL)
    agent = make_agent(name, world_model=SimulatorWorldModel(env), env=env, seed=1)
    assert isinstance(agent, Agent)
    for seed in (0, 1):
        observation = reset_level(env, seed)
        agent.reset(seed)
        for _ in range(3):
            before = observation["image"].copy()
            action = agent.act(observation)
            assert type(action) is int
            assert 0 <= action < 7
            np.testing.assert_array_equal(observation["image"], before)
            observation, _, terminated, _, _ = env.step(action)
            if terminated:
                break


def test_an_unknown_agent_lists_the_known_ones():
    with pytest.raises(UserError) as error:
        make_agent("best-furst")
    assert "did you mean 'best-first'" in str(error.value)
    for name in AGENTS:
        assert name in str(error.value)


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match="world model; give a checkpoint"):
        make_agent("policy")
    with pytest.raises(UserError, match="needs the real level"):
        make_agent("bot")
    with pytest.raises(UserError, match=r"no option 'depth'; its options: max_forward_passes, .*actions, batch"):
        make_agent("best-first", world_model=object(), depth=3)
    assert needs("random") == set()
    assert needs("policy") == {"world_model"}


@pytest.mark.parametrize("given", [{"name": 1}, {"seed": "x"}, {"seed": -1}, {"seed": True}])
def test_a_setting_by_the_name_of_what_is_given_anyway_is_refused(given):
    with pytest.raises(UserError, match=rf"{next(iter(given))}.*its options: max_forward_passes, .*actions, batch"):
        make_agent("best-first", world_model=object(), **given)


@pytest.mark.parametrize("option", ["name", "env", "world_model", "seed", "file"])
def test_a_users_setting_is_never_taken_for_something_else(option):
    env = make_level(LEVEL)
    assert isinstance(make_agent("perfect:beam", {"width": 3}, env=env), Agent)
    with pytest.raises(UserError, match=rf"no option '{option}'; its options: max_forward_passes, .*width, horizon"):
        make_agent("perfect:beam", {option: 1}, env=env)


def test_a_planner_with_a_perfect_model_needs_the_level_and_no_checkpoint():
    env = make_level(LEVEL)
    agent = make_agent("perfect:best-first", env=env, actions="moves")
    assert needs("perfect:best-first") == {"env"}
    observation = reset_level(env, 3)
    agent.reset(3)
    steps, terminated = 0, False
    while not terminated and steps < 40:
        observation, _, terminated, _, _ = env.step(agent.act(observation))
        steps += 1
    assert terminated
    with pytest.raises(UserError, match="needs the real level"):
        make_agent("perfect:best-first")
    with pytest.raises(UserError, match="imagines nothing"):
        make_agent("perfect:random", env=env)


def test_the_random_agent_is_even_and_seeded():
    agent = make_agent("random")
    agent.reset(5)
    first = [agent.act({}) for _ in range(7000)]
    agent.reset(5)
    assert first == [agent.act({}) for _ in range(7000)]
    assert np.bincount(first, minlength=7).min() > 850


def test_the_bot_wins_and_refuses_imagination(world_model):
    env = make_level(LEVEL)
    agent = make_agent("bot", env=env)
    for seed in range(5):
        observation, done = reset_level(env, seed), False
        agent.reset(seed)
        while not done:
            observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
            done = terminated or truncated
        assert reward > 0
    with pytest.raises(UserError, match="cannot act in imagination"):
        make_agent("bot", env=ImaginationEnv(LEVEL, world_model))


def test_a_bot_that_runs_in_circles_raises_instead_of_hanging():
    env = make_level("BabyAI-UnlockToUnlock-v0")
    observation = reset_level(env, 4)
    agent = make_agent("bot", env=env)
    observation, *_ = env.step(agent.act(observation))
    with pytest.raises(BehaviourError, match="circles"):
        agent.act(observation)


def test_the_policy_agent_takes_the_likeliest_action_or_samples():
    class Fixed:
        histories, forward_passes = (), 0

        def policy(self, histories):
            self.histories = histories
            self.forward_passes += 1
            return np.array([[0.1, 0.5, 0.4, 0, 0, 0, 0]], np.float32)

    observation = {"image": np.zeros((7, 7, 3), np.uint8), "direction": 0, "mission": "go to the red ball"}
    model = Fixed()
    greedy = make_agent("policy", world_model=model)
    greedy.reset(0)
    assert [greedy.act(observation) for _ in range(4)] == [1] * 4
    assert model.histories[0].actions.tolist() == [1, 1, 1]
    sampled = make_agent("policy", world_model=model, temperature=1.0)
    sampled.reset(0)
    taken = np.bincount([sampled.act(observation) for _ in range(300)], minlength=7) / 300
    np.testing.assert_allclose(taken, [0.1, 0.5, 0.4, 0, 0, 0, 0], atol=0.09)
    sharp = make_agent("policy", world_model=model, temperature=1e-4)  # raised to this power all would be 0
    assert sharp.act(observation) == greedy.act(observation)
    with pytest.raises(UserError, match="temperature"):
        make_agent("policy", world_model=model, temperature=-1)


def test_the_packaged_comparison_of_planners_is_fair():
    """Every planner, beside it its control with a perfect simulator, and one budget for all."""
    plan = load_plan(SuccessPlan, "success", str(files("wmtoolkit") / "configs" / "bench" / "planners.yaml"))
    assert {spec.agent for spec in plan.agents} == {*PLANNERS, *(f"perfect:{name}" for name in PLANNERS)}
    assert all(spec.settings == plan.agents[0].settings for spec in plan.agents)
    assert set(plan.agents[0].settings) == {"max_forward_passes", "max_nodes", "max_milliseconds"}
    assert plan.levels == ["BabyAI-GoToRedBallGrey-v0", "BabyAI-GoToLocal-v0"]
