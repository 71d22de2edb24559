"""Belief completion shows what the model believes where something is hidden, and the truth elsewhere."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from wmtoolkit.data.levels import make_level
from wmtoolkit.envs import (
    BeliefCompletion,
    ImaginationEnv,
    PartialObservability,
    VectorBeliefCompletion,
    VectorPartialObservability,
    make_real_env,
)
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.tokenizer import Visibility
from wmtoolkit.world.trajectory import Trajectory

LEVEL = "BabyAI-GoToLocal-v0"
HIDDEN = {"cell_dropout": 0.4, "attribute_dropout": 0.1}


def _hiding(**options):
    return PartialObservability(make_real_env(LEVEL, **options), **HIDDEN)


def _episode(env, seed=0, actions=(0, 2, 1, 2)):
    steps = [env.reset(seed=seed)]
    for action in actions:
        observation, *_, info = env.step(action)
        steps.append((observation, info))
    return steps


def test_what_is_visible_stays(world_model):
    for (shown, _), (believed, info) in zip(
        _episode(_hiding()), _episode(BeliefCompletion(_hiding(), world_model)), strict=True
    ):
        visible = info["visible"]
        np.testing.assert_array_equal(believed["image"][visible], shown["image"][visible])
        assert (info["belief_confidence"][visible.all(-1)] == 1).all()
        assert (info["belief_confidence"][~visible.any(-1)] < 1).all()


def test_with_nothing_hidden_nothing_changes(world_model):
    env = BeliefCompletion(PartialObservability(make_real_env(LEVEL)), world_model)
    for (truth, _), (believed, info) in zip(_episode(make_real_env(LEVEL)), _episode(env), strict=True):
        np.testing.assert_array_equal(believed["image"], truth["image"])
        assert (info["belief_confidence"] == 1).all()


def test_the_filling_is_the_models_belief_given_the_window(world_model):
    actions = (0, 2, 1, 2)
    shown = _episode(_hiding(), actions=actions)
    believed = _episode(BeliefCompletion(_hiding(), world_model, window=3), actions=actions)
    history = Trajectory.start(shown[2][0])
    for action, (observation, _) in zip(actions[2:], shown[3:], strict=True):
        history = history.extended(action, observation)
    visible = replace(Visibility.full(2), images=np.stack([info["visible"] for _, info in shown[2:]]))
    expected = world_model.belief([history], [visible])[0]
    np.testing.assert_array_equal(believed[-1][0]["image"], expected.trajectory.images[-1])
    confidence = expected.confidence[-1, 3:].reshape(7, 7)
    np.testing.assert_allclose(believed[-1][1]["belief_confidence"], confidence, rtol=1e-4)


def test_gating_leaves_unsure_cells_hidden(world_model):
    mode = _episode(BeliefCompletion(_hiding(), world_model))
    gated = _episode(BeliefCompletion(_hiding(), world_model, fill="gated", threshold=0.3))
    counts = np.zeros(2, int)
    for (shown, _), (full, sure), (some, kept) in zip(_episode(_hiding()), mode, gated, strict=True):
        filled = (sure["belief_confidence"] >= 0.3) | sure["visible"].all(-1)
        np.testing.assert_array_equal(some["image"][filled], full["image"][filled])
        np.testing.assert_array_equal(some["image"][~filled], shown["image"][~filled])
        assert not kept["belief_confidence"][~filled].any()
        counts += (~filled).sum(), (filled & ~sure["visible"].all(-1)).sum()
    assert (counts > 0).all()


def test_samples_depend_on_the_seed_alone(world_model):
    def images(seed):
        env = BeliefCompletion(_hiding(), world_model, fill="sample")
        return np.stack([observation["image"] for observation, _ in _episode(env, seed)])

    np.testing.assert_array_equal(images(1), images(1))
    mode = np.stack([o["image"] for o, _ in _episode(BeliefCompletion(_hiding(), world_model), 1)])
    assert (images(1) != mode).any()


def test_without_a_mask_unseen_cells_count_as_hidden(world_model):
    truth, _ = make_real_env(LEVEL).reset(seed=0)
    observation, info = BeliefCompletion(make_real_env(LEVEL), world_model).reset(seed=0)
    seen = truth["image"][..., 0] != grid.UNSEEN
    np.testing.assert_array_equal(observation["image"][seen], truth["image"][seen])
    assert (info["belief_confidence"] < 1).any()
    np.testing.assert_array_equal(info["belief_confidence"] == 1, seen)


@pytest.mark.parametrize("fill", ["mode", "sample", "gated"])
@pytest.mark.parametrize("imagined", [True, False])
def test_gymnasiums_checker_finds_nothing(world_model, fill, imagined):
    env = ImaginationEnv(LEVEL, world_model, temperature=1.0) if imagined else make_real_env(LEVEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        hidden = PartialObservability(env, cell_dropout=0.3)
        check_env(BeliefCompletion(hidden, world_model, fill=fill), skip_render_check=True)


def test_memory_is_bounded_by_the_window(world_model):
    env = BeliefCompletion(_hiding(), world_model, window=2)
    env.reset(seed=0)
    for _ in range(6):
        env.step(0)
    assert len(env.belief.evidence()[0].images) == 2


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("fill", ["mode", "sample"])
def test_each_lane_of_the_vector_version_goes_as_it_would_alone(world_model, fill, mode):
    alone = [BeliefCompletion(_hiding(max_steps=4), world_model, fill=fill) for _ in range(3)]
    lanes = SyncVectorEnv([lambda: make_real_env(LEVEL, max_steps=4)] * 3, autoreset_mode=mode)
    together = VectorBeliefCompletion(VectorPartialObservability(lanes, **HIDDEN), world_model, fill=fill)
    observations, infos = together.reset(seed=2)
    expected = [env.reset(seed=2 + lane) for lane, env in enumerate(alone)]
    rng = np.random.default_rng(0)
    for _ in range(10):
        for lane, (observation, info) in enumerate(expected):
            np.testing.assert_array_equal(observations["image"][lane], observation["image"])
            np.testing.assert_allclose(infos["belief_confidence"][lane], info["belief_confidence"], rtol=1e-3)
        assert together.observation_space.contains(observations)
        actions = rng.integers(7, size=3)
        observations, _, terminations, truncations, infos = together.step(actions)
        ended = terminations | truncations
        for lane, env in enumerate(alone):
            observation, *_, info = env.step(actions[lane])
            if ended[lane]:
                if mode is AutoresetMode.SAME_STEP:
                    np.testing.assert_array_equal(infos["final_obs"][lane]["image"], observation["image"])
                    final = infos["final_info"]["belief_confidence"][lane]
                    np.testing.assert_allclose(final, info["belief_confidence"], rtol=1e-3)
                observation, info = env.reset()
            expected[lane] = observation, info
        if mode is AutoresetMode.DISABLED and ended.any():
            before = infos["belief_confidence"]
            observations, infos = together.reset(options={"reset_mask": ended})
            np.testing.assert_array_equal(infos["belief_confidence"][~ended], before[~ended])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"fill": "guess"}, "mode, sample"),
        ({"threshold": 2}, "threshold"),
        ({"window": 0}, "window"),
        ({"window": 2.5}, "window"),
        ({"decoding_steps": 0}, "decoding_steps"),
        ({"fil": "mode"}, "unknown fil; there are fill"),
    ],
)
def test_a_wrong_setting_is_named(world_model, bad, message):
    with pytest.raises(UserError, match=message):
        BeliefCompletion(make_real_env(LEVEL), world_model, **bad)
    lanes = SyncVectorEnv([make_real_env], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(UserError, match=message):
        VectorBeliefCompletion(lanes, world_model, **bad)


def test_use_out_of_turn_is_refused(world_model):
    vector = VectorBeliefCompletion(SyncVectorEnv([make_real_env], autoreset_mode="SameStep"), world_model)
    for env, action in ((BeliefCompletion(make_level(LEVEL), world_model), 0), (vector, [0])):
        with pytest.raises(ResetNeeded, match="reset"):
            env.step(action)
    with pytest.raises(UserError, match=r"SAME_STEP or AutoresetMode\.DISABLED"):
        VectorBeliefCompletion(SyncVectorEnv([make_real_env]), world_model)
