"""The planner wins with a perfect model that knows no more than was seen, and copes with a model that errs."""

import numpy as np
import pytest

from wmtoolkit.agents import Agent, SimulatorWorldModel, make_agent
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome


def play(agent, env, seed):
    """(success, steps, diagnostics of each decision)."""
    observation = reset_level(env, seed)
    agent.reset(seed)
    log = []
    while True:
        action = agent.act(observation)
        log.append(agent.diagnostics)
        observation, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return terminated and reward > 0, len(log), log


def lengths(name, level, seeds, model_options=None, **budget):
    env = make_level(level)
    model = SimulatorWorldModel(env, **(model_options or {}))
    agent = make_agent(name, world_model=model, env=env, **budget)
    results = [play(agent, env, seed) for seed in seeds]
    assert all(success for success, *_ in results)
    return np.mean([steps for _, steps, _ in results])


@pytest.mark.parametrize("actions", ["all", "moves"])
@pytest.mark.parametrize("level", ["BabyAI-GoToRedBallGrey-v0", "BabyAI-GoToLocal-v0"])
def test_it_wins_nearly_as_fast_as_the_bot_from_what_it_has_seen(level, actions):
    seeds = range(900_000, 900_030)
    mine = lengths("best-first", level, seeds, {"sees_hidden": False}, actions=actions)
    assert mine <= 1.1 * lengths("bot", level, seeds)


@pytest.mark.parametrize(
    ("level", "factor"),
    [("BabyAI-PickupLoc-v0", 1.1), ("BabyAI-OpenRedDoor-v0", 1.05), ("BabyAI-GoToObjMazeS4R2-v0", 1.2)],
)
def test_it_handles_objects_and_doors(level, factor):
    seeds = range(900_000, 900_012)
    mine = lengths("best-first", level, seeds, {"sees_hidden": False})
    assert mine <= factor * lengths("bot", level, seeds)


@pytest.mark.parametrize("options", [{"knows_walls": False}, {"memory": 1}])
def test_it_wins_with_a_model_that_imagines_wrongly_or_forgets(options):
    seeds = range(900_000, 900_020)
    mine = lengths("best-first", "BabyAI-GoToRedBallGrey-v0", seeds, {"sees_hidden": False, **options})
    assert mine <= 1.3 * lengths("bot", "BabyAI-GoToRedBallGrey-v0", seeds)


class Liar:
    """A model that promises success in front of every object that the agent has seen."""

    def __init__(self, model):
        self.model = model

    def rollout_state(self, histories):
        return LyingState(self.model.rollout_state(histories))


class LyingState:
    def __init__(self, state):
        self.state = state

    def __len__(self):
        return len(self.state)

    def __getattr__(self, name):
        return getattr(self.state, name)

    @property
    def outcomes(self):
        lies = np.isin(self.state.images[:, 3, 5, 0], [5, 6, 7])
        outcomes = self.state.outcomes.copy()
        outcomes[lies] = np.eye(4)[Outcome.SUCCESS]
        return outcomes

    def step(self, actions, **options):
        return LyingState(self.state.step(actions, **options))

    def select(self, rows):
        return LyingState(self.state.select(rows))

    @staticmethod
    def cat(states):
        return LyingState(states[0].state.cat([state.state for state in states]))


def test_a_false_goal_is_tried_once():
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    agent = make_agent("best-first", world_model=Liar(SimulatorWorldModel(env, sees_hidden=False)), actions="moves")
    false = 0
    for seed in range(900_000, 900_010):
        success, _, log = play(agent, env, seed)
        tried = sum(decision["reason"] == "false goal" for decision in log)
        assert success
        assert tried <= 7  # there are seven wrong objects
        false += tried
    assert false


def test_predicted_failure_is_avoided():
    env = make_level("MiniGrid-LavaGapS6-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env))
    for seed in range(5):
        assert play(agent, env, seed)[0]


def test_a_plan_is_followed_without_asking_the_model_again():
    env = make_level("BabyAI-GoToLocal-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env))
    _, steps, log = play(agent, env, 900_001)
    assert steps > 2
    assert log[0]["forward_passes"] > 0
    for decision in log[1:]:
        assert (decision["forward_passes"], decision["reason"]) == (0, "as imagined")
    assert log[0]["goal"]
    assert log[0]["success_probability"] == 1
    assert [log[0]["plan"][i] for i in range(steps)] == [decision["plan"][0] for decision in log]


def test_it_imagines_what_it_then_sees():
    env = make_level("BabyAI-GoToLocal-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env))
    observation = reset_level(env, 900_001)
    action = agent.act(observation)
    observation, *_ = env.step(action)
    np.testing.assert_array_equal(agent.diagnostics["imagined_image"], observation["image"])
    assert agent.diagnostics["imagined_direction"] == observation["direction"]


@pytest.mark.parametrize("budget", [{"max_forward_passes": 2}, {"max_nodes": 5}, {"max_milliseconds": 1}])
def test_the_budget_is_kept_and_an_action_comes_anyway(budget):
    env = make_level("BabyAI-GoToLocal-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env, sees_hidden=False), **budget)
    for seed in range(900_000, 900_003):
        _, _, log = play(agent, env, seed)
        for decision in log:
            assert decision["forward_passes"] <= budget.get("max_forward_passes", 99)
            assert decision["nodes"] <= budget.get("max_nodes", 99)


@pytest.mark.parametrize(
    "wrong",
    [{"max_nodes": 0}, {"max_forward_passes": 0}, {"max_milliseconds": 0}, {"actions": "some"}, {"batch": 0}],
)
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_agent("best-first", world_model=Liar(None), **wrong)


def test_episodes_repeat_under_their_seed(world_model):
    """With a model that knows nothing, everything is chance: and chance is seeded."""
    env = make_level("BabyAI-GoToLocal-v0", max_steps=6)
    agent = make_agent("best-first", world_model=world_model, max_nodes=12)
    assert isinstance(agent, Agent)
    runs = []
    for seed in (3, 4, 3):
        _, _, log = play(agent, env, seed)
        runs.append([decision["plan"][0] for decision in log])
    assert runs[0] == runs[2]
    assert all(action in range(len(grid.ACTIONS)) for run in runs for action in run)
