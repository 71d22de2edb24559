"""Acting by hand: level and imagination take the same actions, side by side."""

import click
import numpy as np

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.envs.playing import play
from wmtoolkit.envs.terminal import view_lines
from wmtoolkit.world import grid

LEVEL = "BabyAI-GoToLocal-v0"


def _played(world_model: AnyOrderWorldModel, keys: str, **options) -> tuple[dict, list[str]]:
    screens: list[str] = []
    left = iter(keys)
    document = play(lambda: next(left, ""), screens.append, level=LEVEL, checkpoint=world_model, **options)
    return document, [click.unstyle(screen) for screen in screens]


def test_keys_are_actions_in_both(world_model: AnyOrderWorldModel) -> None:
    document, screens = _played(world_model, "awzd", seed=4)
    env = make_level(LEVEL)
    views = [reset_level(env, 4)["image"]] + [env.step(action)[0]["image"] for action in (0, 2, 1)]
    shown = [[line[:14] for line in screen.splitlines()[2:9]] for screen in screens]
    expected = [[click.unstyle(line) for line in view_lines(view)] for view in views]
    assert shown == [expected[0], expected[1], expected[2], expected[2], expected[3]]  # z is no key
    assert document["steps"] == 3
    assert [row["step"] for row in document["drift"]] == [1, 2, 3]


def test_a_look_at_reality_and_the_next_level(world_model: AnyOrderWorldModel) -> None:
    document, screens = _played(world_model, "aran", seed=3)
    ahead = [screen.splitlines()[1].split("imagined, ")[1][0] for screen in screens]
    assert ahead == ["0", "1", "0", "1", "0"]
    assert (document["seed"], document["episodes"]) == (4, 2)


def test_what_differs_is_marked(episodes: list[Trajectory]) -> None:
    view = episodes[0].images[0]
    other = view.copy()
    other[1, 2] = (grid.WALL, 0, 0)
    changed = int((view != other).any())
    assert "".join(view_lines(view, expected=view)).count("!") == 0
    assert "".join(view_lines(other, expected=view)).count("!") == changed == 1
    assert all(len(click.unstyle(line)) == 14 for line in view_lines(view, np.zeros((7, 7))))
