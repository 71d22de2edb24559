"""Options of planners that make no sense are refused when the planner is made."""

from types import SimpleNamespace

import pytest

from tests.agents.conftest import PLANNERS
from wmtoolkit.agents import SimulatorWorldModel, make_agent
from wmtoolkit.data.levels import make_level
from wmtoolkit.errors import UserError

NO_MODEL = SimpleNamespace(infill_plan=None)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    "wrong",
    [
        {"max_nodes": 0},
        {"max_nodes": 1},
        {"max_forward_passes": 0},
        {"max_milliseconds": 0},
        {"actions": "some"},
        {"discount": 0},
    ],
)
def test_a_budget_of_nothing_is_refused(name, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_agent(name, world_model=NO_MODEL, **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_nodes": "many"}, "max_nodes is a whole number, not 'many'"),
        ({"batch": 2.5}, "batch is a whole number"),
        ({"goal_threshold": "x"}, "goal_threshold is a number"),
        ({"actions": 3}, "actions is a word"),
        ({"prior_weight": True}, "prior_weight is a number"),
    ],
)
def test_an_option_of_another_kind_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        make_agent("best-first", world_model=SimulatorWorldModel(make_level("BabyAI-GoToObj-v0")), **wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("best-first", {"batch": 0}),
        ("beam", {"width": 0}),
        ("shooting", {"samples": 0}),
        ("cem", {"elite": 2.0}),
        ("best-first", {"prior_weight": float("nan")}),
        ("best-first", {"prior_weight": -1.0}),
        ("best-first", {"interaction_cost": -5.0}),
        ("best-first", {"goal_horizon": float("nan")}),
        ("mcts", {"settle": -1}),
        ("mcts", {"exploration": float("inf")}),
        ("infill", {"temperature": -1.0}),
        ("policy", {"temperature": float("nan")}),
        ("policy", {"temperature": float("inf")}),
        ("mcts", {"leaves": 0}),
        ("mcts", {"failure_threshold": 0}),
        ("infill", {"horizons": []}),
        ("infill", {"horizons": 3}),
        ("infill", {"horizons": [0, 2]}),
    ],
)
def test_an_option_of_nothing_is_refused(name, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_agent(name, world_model=NO_MODEL, **wrong)


def test_infill_looks_outwards_or_does_not():
    with pytest.raises(UserError, match="outwards is true or false, not 3"):
        make_agent("infill", world_model=NO_MODEL, outwards=3)


def test_infill_needs_a_model_that_infills():
    class Forward:
        rollout_state = policy = None

    with pytest.raises(UserError, match="infill_plan"):
        make_agent("infill", world_model=Forward())


def test_infill_is_refused_horizons_beyond_the_models_when_it_is_made(world_model):
    furthest = world_model.network.world.span - 1
    make_agent("infill", world_model=world_model, horizons=[1, furthest])
    with pytest.raises(UserError, match=f"horizons must be at most {furthest} for this world model.*not 100"):
        make_agent("infill", world_model=world_model, horizons=[1, 100])
