"""Beginnings: branches within the limit, missions that a level could pose, and refusals that change nothing."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from wmtoolkit.envs import ImaginationEnv, make_real_env
from wmtoolkit.envs.grammar import is_mission
from wmtoolkit.envs.starts import Starts
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Trajectory

LEVEL = "BabyAI-GoToLocal-v0"


def _episode(steps, seed=0):
    env = make_real_env(LEVEL)
    observation, _ = env.reset(seed=seed)
    episode = Trajectory.start(observation, level=LEVEL)
    for _ in range(steps):
        observation, *_ = env.step(0)
        episode = episode.extended(0, observation)
    return episode


@pytest.mark.parametrize("limit", [1, 4])
def test_a_branch_of_a_longer_episode_is_within_the_limit(limit):
    starts, rng = Starts(LEVEL, "branch", [_episode(10)], max_steps=limit), np.random.default_rng(0)
    assert {len(starts.draw(None, rng).history) for _ in range(60)} == set(range(limit))


def test_an_episode_without_actions_branches_at_its_only_view():
    starts = Starts(LEVEL, "branch", [_episode(0)])
    assert len(starts.draw(None, np.random.default_rng(0)).history) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_refused_start_leaves_the_running_episode_alone(world_model, temperature):
    one, two = (ImaginationEnv(LEVEL, world_model, temperature=temperature) for _ in range(2))
    bad = replace(_episode(1), mission="go to the elephant")
    one.reset(seed=0)
    two.reset(seed=0)
    for start, message in ((bad, "elephant"), ("dream", "'dream'"), (7, "int")):
        with pytest.raises(UserError, match=message):
            one.reset(seed=4, options={"start": start})
    for action in (0, 1, 2):
        (shown, *ends, _), (expected, *others, _) = one.step(action), two.step(action)
        np.testing.assert_array_equal(shown["image"], expected["image"])
        assert ends == others
        if any(ends[1:]):
            break
    np.testing.assert_array_equal(one.reset()[0]["image"], two.reset()[0]["image"])


@pytest.mark.parametrize(
    "mission",
    [
        "ball go to up then",
        "go to ball",
        "go to the red red ball",
        "pick up the door",
        "open the red ball",
        "put the ball next to",
        "go to the ball and go to the box and go to the key",
        "go to the ball then go to the box",
        " go to the ball",
        "",
    ],
)
def test_a_sentence_that_is_no_mission_is_refused(mission):
    with pytest.raises(UserError, match="grammar"):
        Starts(LEVEL, replace(_episode(0), mission=mission))


def test_the_grammar_has_the_longest_of_its_missions():
    thing = "the red ball in front of you"
    clause = f"put {thing} next to a grey door on your left and pick up an object".replace("an object", "a key")
    assert is_mission(f"{clause} after you open a door and go to the object behind you")
    assert is_mission(f"{clause}, then {clause}")


def test_what_the_level_never_asks_for_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Starts(LEVEL, replace(_episode(0), mission="go to a green key"))
        Starts("BabyAI-PickupLoc-v0", replace(_episode(0), mission="pick up a green key"))
    with pytest.warns(UserWarning, match="no mission of BabyAI-GoToLocal-v0 says 'pick up'"):
        Starts(LEVEL, replace(_episode(0), mission="pick up a green key"))


def test_other_levels_keep_missions_of_their_own():
    start = Trajectory.start(make_real_env("MiniGrid-DoorKey-5x5-v0").reset(seed=0)[0])
    assert Starts("MiniGrid-DoorKey-5x5-v0", start).fixed.mission == start.mission
