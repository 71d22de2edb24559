"""Planners cope with a model that takes something else for success: what was in vain is not tried again."""

from types import SimpleNamespace

import numpy as np
import pytest
from minigrid.core.world_object import WorldObj

from tests.agents.conftest import PLANNERS, UNHURRIED, play
from wmtoolkit.agents import SimulatorWorldModel, make_agent
from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.false_goals import FalseGoals
from wmtoolkit.agents.search_graph import Node, SearchGraph, ahead
from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory


class Liar:
    """A model whose states lie: by default that to face any object that the agent has seen is success."""

    def __init__(self, model, kind=None):
        self.model, self.kind = model, kind or LyingState

    @property
    def forward_passes(self):
        return self.model.forward_passes

    def rollout_state(self, histories):
        return self.kind(self.model.rollout_state(histories))

    def infill_plan(self, *arguments, **options):
        return self.model.infill_plan(*arguments, **options)


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
        return type(self)(self.state.step(actions, **options))

    def select(self, rows):
        return type(self)(self.state.select(rows))

    @classmethod
    def cat(cls, states):
        return cls(states[0].state.cat([state.state for state in states]))


@pytest.mark.parametrize("name", PLANNERS)
def test_a_false_goal_is_tried_once(name):
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    model = Liar(SimulatorWorldModel(env, sees_hidden=False))
    agent = make_agent(name, world_model=model, actions="moves", **UNHURRIED)
    false = 0
    for seed in range(900_000, 900_006):
        success, _, log = play(agent, env, seed)
        tried = sum(decision["reason"] == "false goal" for decision in log)
        assert success
        assert tried <= 7  # there are seven wrong objects
        false += tried
    assert false


class PickupState(LyingState):
    """Says that to pick up anything is success."""

    def __init__(self, state, picked=None):
        super().__init__(state)
        self.picked = np.zeros(len(state), bool) if picked is None else picked

    @property
    def outcomes(self):
        outcomes = self.state.outcomes.copy()
        outcomes[self.picked] = np.eye(4)[Outcome.SUCCESS]
        return outcomes

    def step(self, actions, **options):
        state = self.state.step(actions, **options)
        full = np.isin(state.images[:, 3, 6, 0], grid.PORTABLE)
        return PickupState(state, full & (np.asarray(actions) == grid.PICKUP))

    def select(self, rows):
        return PickupState(self.state.select(rows), self.picked[rows])

    @classmethod
    def cat(cls, states):
        joint = states[0].state.cat([state.state for state in states])
        return cls(joint, np.concatenate([state.picked for state in states]))


def test_what_was_picked_up_in_vain_is_not_picked_up_again():
    """Neither where it lay nor where it was dropped meanwhile; the right thing is found among the wrong ones."""
    env = make_level("BabyAI-PickupLoc-v0")
    agent = make_agent(
        "best-first", world_model=Liar(SimulatorWorldModel(env), PickupState), prior_weight=0, **UNHURRIED
    )
    false = 0
    for seed in range(900_000, 900_004):
        success, _, log = play(agent, env, seed)
        things = sum(isinstance(cell, WorldObj) and cell.can_pickup() for cell in env.unwrapped.grid.grid)
        tried = sum(decision["reason"] == "false goal" for decision in log)
        assert success
        assert tried <= things
        false += tried
    assert false


def test_a_drop_speaks_for_drops_beside_less():
    """What a drop beside two things did not achieve, one beside either of them will not; beside a third it may."""
    level = "BabyAI-PutNextLocal-v0"
    env = make_level(level)
    observation = reset_level(env, 0)
    seen = SeenMap(observation)
    model = SimulatorWorldModel(env)
    root = model.rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(root, seen, Meter(Budget(10, 1e9, 10), model))
    ball, box, key = (6, 0, 0), (7, 1, 0), (5, 2, 0)
    x, y, heading = *seen.position, seen.direction
    front = ahead((x, y, heading))
    around = [((front[0] + dx) % SIZE, (front[1] + dy) % SIZE) for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    beside = [place for place in around if place != (x, y)]

    def dropped(*things):
        image = observation["image"].copy()
        image[grid.FRONT_CELL] = ball
        changes = frozenset((*place, thing) for place, thing in zip(beside, (*things, *3 * [(1, 0, 0)]), strict=False))
        state = SimpleNamespace(images=image[None], outcomes=np.eye(4)[[Outcome.SUCCESS]])
        return Node((x, y, heading, (1, 0, 0), changes | {(*front, ball)}), state, 0, 0, grid.DROP, 1)

    false = FalseGoals()
    false.add(graph, dropped(box, key))
    assert false.cover(graph, dropped(box, key))
    assert false.cover(graph, dropped(box))
    assert false.cover(graph, dropped())
    assert not false.cover(graph, dropped(key, box))  # the same things, but each elsewhere
    assert not false.cover(graph, dropped(box, key, key))
