"""Imagination is cut where it is not to be believed, and goes on as it was elsewhere."""

import numpy as np
import pytest

from wmtoolkit.envs import ImaginationVectorEnv
from wmtoolkit.envs.pessimism import PessimisticImagination, Trust
from wmtoolkit.envs.sb3 import make_sb3_vec_env
from wmtoolkit.errors import UserError

LEVEL, LANES = "BabyAI-GoToLocal-v0", 4


def played(world_model, trust, steps=12):
    """(observation, rewards, terminations, truncations, infos) of some steps; plain imagination without trust."""
    env = ImaginationVectorEnv(LANES, LEVEL, world_model, temperature=1.0, max_steps=8)
    wrapped = env if trust is None else PessimisticImagination(env, trust)
    wrapped.reset(seed=0)
    rng = np.random.default_rng(0)
    return [wrapped.step(rng.integers(0, 6, LANES)) for _ in range(steps)]


def test_all_is_believed_when_nothing_is_asked_for(world_model):
    plain = played(world_model, None)
    for one, other in zip(plain, played(world_model, Trust(outcome_confidence=0.0)), strict=True):
        np.testing.assert_array_equal(one[0]["image"], other[0]["image"])
        for index in (1, 2, 3):
            np.testing.assert_array_equal(one[index], other[index])
        assert not other[4]["unsure"].any()


def test_what_is_not_sure_is_cut_without_a_reward(world_model):
    for _, rewards, terminations, truncations, infos in played(world_model, Trust(outcome_confidence=1.0)):
        assert infos["unsure"].all()  # random weights are never quite sure
        assert truncations.all()
        assert not terminations.any()
        assert not rewards.any()
        assert infos["_final_obs"].all()
        assert all(last["image"].shape == (7, 7, 3) for last in infos["final_obs"])


def test_a_cut_episode_is_told_like_any_other(world_model):
    plain = played(world_model, None, steps=1)[0][4]
    env = ImaginationVectorEnv(LANES, LEVEL, world_model, temperature=1.0, max_steps=8)
    wrapped = PessimisticImagination(env, Trust(outcome_confidence=1.0))
    wrapped.reset(seed=0)
    observation, *_, infos = wrapped.step(np.random.default_rng(0).integers(0, 6, LANES))
    assert set(infos["final_info"]) == set(plain) - {"final_obs", "final_info", "_final_obs", "_final_info"}
    for lane in range(LANES):
        last, now = infos["final_info"]["trajectory"][lane], infos["trajectory"][lane]
        assert (len(last), len(now)) == (1, 0)
        np.testing.assert_array_equal(last.images[-1], infos["final_obs"][lane]["image"])
        np.testing.assert_array_equal(now.images[-1], observation["image"][lane])


def test_lanes_must_start_anew_in_the_same_step(world_model):
    env = ImaginationVectorEnv(2, LEVEL, world_model, autoreset_mode="Disabled")
    with pytest.raises(UserError, match="SAME_STEP"):
        PessimisticImagination(env, Trust())


def test_exactly_the_unsure_lanes_begin_anew(world_model):
    trust = Trust(outcome_confidence=0.5)
    seen = {"cut": 0, "kept": 0}
    elapsed = np.zeros(LANES, int)
    for _, _, terminations, truncations, infos in played(world_model, trust):
        ended = terminations | truncations
        elapsed += 1
        assert (infos["unsure"] <= truncations).all()
        assert (ended == infos.get("_final_obs", np.zeros(LANES, bool))).all()
        assert (truncations & ~infos["unsure"] <= (elapsed == 8)).all()
        for lane in np.flatnonzero(~ended):
            assert infos["outcome_probabilities"][lane, 1] >= 0.5
        elapsed[ended] = 0
        seen["cut"] += int(infos["unsure"].sum())
        seen["kept"] += int((~ended).sum())
    assert seen["cut"] > 0
    assert seen["kept"] > 0


def test_decoding_orders_that_disagree_are_not_believed(world_model):
    """Drawn outcomes of random weights are often not those that greedy decoding comes to."""
    env = ImaginationVectorEnv(LANES, LEVEL, world_model, temperature=1.0, max_steps=8)
    wrapped = PessimisticImagination(env, Trust(outcome_confidence=0.0, orders=2))
    wrapped.reset(seed=0)
    cut = 0
    for action in (0, 1, 2, 3):
        actions = np.full(LANES, action)
        greedy = env.save().state.step(actions, steps=2).sampled_outcomes
        *_, infos = wrapped.step(actions)
        # A lane that goes on was decided to CONTINUE, as by the other order.
        assert (greedy[~infos["unsure"] & ~infos.get("_final_obs", np.zeros(LANES, bool))] == 1).all()
        cut += int(infos["unsure"].sum())
    assert cut > 0
    with pytest.raises(UserError, match="orders must be at least 1"):
        Trust(orders=0)
    with pytest.raises(UserError, match="outcome_confidence is a probability"):
        Trust(outcome_confidence=2)


def test_stable_baselines_sees_a_cut_as_a_truncation(world_model):
    pytest.importorskip("stable_baselines3")
    env = make_sb3_vec_env(LEVEL, LANES, checkpoint=world_model, trust=Trust(outcome_confidence=1.0), seed=0)
    env.reset()
    _, rewards, dones, infos = env.step(np.zeros(LANES, int))
    assert dones.all()
    assert not rewards.any()
    assert all(info["TimeLimit.truncated"] and "terminal_observation" in info for info in infos)


def test_a_branch_begins_at_any_moment_of_an_episode(world_model, episodes):
    known = [episode for episode in episodes if episode.level == LEVEL]
    env = ImaginationVectorEnv(16, LEVEL, world_model, "branch", dataset=known)
    observation, _ = env.reset(seed=0)
    moments = {image.tobytes() for episode in known for image in episode.images}
    firsts = {episode.images[0].tobytes() for episode in known}
    shown = [image.tobytes() for image in observation["image"]]
    assert set(shown) <= moments
    assert not set(shown) <= firsts
