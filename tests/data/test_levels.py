"""Levels that the world model cannot speak of are refused in one line."""

import gymnasium
import pytest

from wmtoolkit.data.levels import make_level
from wmtoolkit.errors import UserError

OBSTACLES = sorted(name for name in gymnasium.registry if name.startswith("MiniGrid-Dynamic-Obstacles-"))


@pytest.mark.parametrize("level", OBSTACLES)
def test_other_actions_than_minigrids_seven_are_refused(level):
    with pytest.raises(UserError, match=r"Discrete\(3\).*left, right, forward"):
        make_level(level)


def test_all_levels_of_fewer_actions_are_tested():
    assert len(OBSTACLES) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "BabyAI-GoToLocl-v0"}, "did you mean BabyAI-GoToLocal-v0"),
        ({"level": "no_such_module:Level-v0"}, "cannot import module 'no_such_module'"),
        ({"level": "CartPole-v1"}, "7x7x3"),
        ({"max_steps": 2.5}, "max_steps"),
        ({"max_stops": 3}, "max_stops"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(UserError, match=message):
        make_level(**{"level": "BabyAI-GoToLocal-v0", **options})
