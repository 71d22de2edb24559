"""Beginnings: branches within the limit, missions that a level could pose, and refusals that change nothing."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from wmtoolkit.envs import ImaginationEnv, ImaginationVectorEnv, make_real_env
from wmtoolkit.envs.grammar import is_mission
from wmtoolkit.envs.starts import Starts
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Outcome, Trajectory

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


@pytest.mark.parametrize("level", ["BabyAI-UnlockPickup-v0", LEVEL])
def test_a_look_around_shows_what_a_turn_on_the_spot_shows(level):
    starts, real = Starts(level, "look_around"), make_real_env(level)
    for seed in range(4):
        opening, (first, _) = starts.draw(seed, np.random.default_rng(0)), real.reset(seed=seed)
        assert opening.shown.actions.tolist() == [0, 0, 0, 0]
        assert set(opening.shown.outcomes[1:]) == {Outcome.CONTINUE}
        assert len(opening.history) == 0
        assert opening.max_steps == real.unwrapped.max_steps
        seen = [first]
        for _ in range(4):
            observation, _, ended, *_ = real.step(0)
            seen.append(observation)
            if ended:  # it faced what the mission names: no look around ends there
                break
        count = len(seen)
        assert count == 5 or level == LEVEL
        np.testing.assert_array_equal(opening.shown.images[:count], [one["image"] for one in seen])
        np.testing.assert_array_equal(opening.shown.directions[:count], [one["direction"] for one in seen])
        np.testing.assert_array_equal(opening.shown.images[-1], first["image"])
        np.testing.assert_array_equal(opening.history.images[0], first["image"])


def test_after_a_look_around_nothing_near_has_to_be_made_up():
    """The packaged model turns left: it has seen what comes into view, or it has to draw it."""
    real, right = make_real_env(LEVEL), {}
    for start in ("level", "look_around"):
        env, shown, told = ImaginationEnv(LEVEL, start=start, temperature=1.0), [], []
        for seed in range(6):
            first, _ = env.reset(seed=seed)
            expected, _ = real.reset(seed=seed)
            np.testing.assert_array_equal(first["image"], expected["image"])
            told.append(env.step(0)[0]["image"])
            shown.append(real.step(0)[0]["image"])
            assert len(env.trajectory) == 1
        right[start] = np.mean(np.all(np.array(told) == shown, axis=(-1, -2, -3)))
    assert right["look_around"] == 1
    assert right["level"] < 0.5


def test_looks_are_not_for_who_forgets_them(world_model):
    with pytest.raises(UserError, match="remembers cells"):
        ImaginationEnv(LEVEL, world_model, "look_around", memory=0)
    with pytest.raises(UserError, match="remembers cells"):
        ImaginationVectorEnv(2, LEVEL, world_model, "look_around", memory=0)


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
