"""Tokenized observations: the same for real and imagined levels, and nothing silently rescaled."""

import warnings

import numpy as np
import pytest

from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.envs import PartialObservability, TokenizedMission, make_real_env
from wmtoolkit.envs.missions import PADDING, action_masks, mission_ids
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import mission_words


def test_words_can_be_read_back():
    mission = "put the red ball next to a box, then go to the key on your left"
    ids = mission_ids(mission)
    words = [grid.WORDS[index - 1] for index in ids if index != PADDING]
    assert words == mission_words(mission)
    assert (ids[len(words) :] == PADDING).all()


def test_unknown_words_and_long_missions_are_named():
    with pytest.raises(UserError, match="elephant"):
        mission_ids("go to the elephant")
    with pytest.raises(UserError, match="max_words=3"):
        mission_ids("go to the red ball", max_words=3)


def test_every_babyai_mission_fits():
    for level in ("BabyAI-BossLevel-v0", "BabyAI-MiniBossLevel-v0", "BabyAI-SynthSeq-v0"):
        env = make_level(level)
        for seed in range(20):
            mission_ids(reset_level(env, seed)["mission"])


def test_the_view_is_flat_and_keeps_its_ids():
    env = TokenizedMission(make_real_env("BabyAI-GoToLocal-v0"))
    observation, _ = env.reset(seed=0)
    truth, _ = make_real_env("BabyAI-GoToLocal-v0").reset(seed=0)
    np.testing.assert_array_equal(observation["image"].reshape(7, 7, 3), truth["image"])
    assert env.observation_space.contains(observation)
    assert env.observation_space["image"].high.max() == len(grid.OBJECTS) - 1


def test_stable_baselines3_accepts_it_without_a_warning():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(TokenizedMission(make_real_env("BabyAI-GoToLocal-v0")))


def test_only_dicts_of_views_can_be_tokenized():
    env = make_real_env("BabyAI-GoToLocal-v0")
    with pytest.raises(UserError, match="7x7x3"):
        TokenizedMission(TokenizedMission(env))
    with pytest.raises(UserError, match="7x7x3"):
        PartialObservability(TokenizedMission(env))


def test_masks_forbid_done_only():
    masks = action_masks()
    assert masks.dtype == bool
    assert masks.tolist() == [True] * 6 + [False]
    assert TokenizedMission(make_real_env("BabyAI-GoToLocal-v0")).action_masks().tolist() == masks.tolist()
