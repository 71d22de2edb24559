"""Stable-Baselines3 lives in imagined and real levels with the same lines."""

import warnings

import numpy as np
import pytest

from wmtoolkit.errors import UserError
from wmtoolkit.world import grid

sb3 = pytest.importorskip("stable_baselines3")
contrib = pytest.importorskip("sb3_contrib")

from gymnasium.vector import SyncVectorEnv  # noqa: E402
from stable_baselines3.common.env_checker import check_env  # noqa: E402
from stable_baselines3.common.evaluation import evaluate_policy  # noqa: E402

from wmtoolkit.envs import (  # noqa: E402
    ImaginationEnv,
    ImaginationVectorEnv,
    MissionGridExtractor,
    PartialObservability,
    TokenizedMission,
    make_real_env,
    make_sb3_vec_env,
)
from wmtoolkit.envs.pessimism import Trust  # noqa: E402
from wmtoolkit.envs.sb3 import SB3VecEnv  # noqa: E402

LEVEL = "BabyAI-GoToLocal-v0"
POLICY = {"features_extractor_class": MissionGridExtractor, "features_extractor_kwargs": {"channels": 8}}
ON_POLICY = {"n_steps": 16, "batch_size": 32, "n_epochs": 1}
ALGORITHMS = {
    "PPO": (sb3.PPO, "MultiInputPolicy", ON_POLICY),
    "DQN": (sb3.DQN, "MultiInputPolicy", {"buffer_size": 500, "learning_starts": 32, "batch_size": 16}),
    "MaskablePPO": (contrib.MaskablePPO, "MultiInputPolicy", ON_POLICY),
    "RecurrentPPO": (contrib.RecurrentPPO, "MultiInputLstmPolicy", ON_POLICY),
}


def _vec_env(world_model, imagined, **options):
    if imagined:
        options = {"temperature": 1.0, **options}
    return make_sb3_vec_env(LEVEL, num_envs=4, imagined=imagined, checkpoint=world_model, **options)


def _learner(name, env, **options):
    algorithm, policy, settings = ALGORITHMS[name]
    defaults = {"policy_kwargs": POLICY, "seed": 0, "device": "cpu"}
    return algorithm(policy, env, **{**defaults, **settings, **options})


@pytest.mark.parametrize("imagined", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_on_both(world_model, name, imagined):
    env = _vec_env(world_model, imagined, max_steps=8, partial_observability={"cell_dropout": 0.1})
    model = _learner(name, env)
    before = [weights.clone() for weights in model.policy.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.learn(128)
    after = list(model.policy.parameters())
    assert any((old != new).any() for old, new in zip(before, after, strict=True))
    assert len(model.ep_info_buffer) > 0
    assert all(episode["l"] <= 8 for episode in model.ep_info_buffer)


@pytest.mark.slow
@pytest.mark.parametrize("imagined", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_trains_on_both_for_2048_steps(world_model, name, imagined):
    model = _learner(name, _vec_env(world_model, imagined, partial_observability={"cell_dropout": 0.1}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.learn(2048)
    assert model.num_timesteps >= 2048
    assert all(weights.isfinite().all() for weights in model.policy.parameters())
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    assert len(lengths) > 10
    assert max(lengths) <= 64


@pytest.mark.parametrize("imagined", [True, False])
def test_sb3s_checker_finds_nothing(world_model, imagined):
    env = ImaginationEnv(LEVEL, world_model, temperature=1.0) if imagined else make_real_env(LEVEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(TokenizedMission(PartialObservability(env, cell_dropout=0.2)))


def test_a_policy_moves_between_imagined_and_real_unchanged(world_model):
    imagined, real = (_vec_env(world_model, kind, max_steps=8) for kind in (True, False))
    assert imagined.observation_space == real.observation_space
    assert imagined.action_space == real.action_space
    model = _learner("PPO", imagined).learn(64)
    rewards, lengths = evaluate_policy(model, real, n_eval_episodes=4, return_episode_rewards=True)
    assert len(rewards) == 4
    assert all(1 <= length <= 8 for length in lengths)
    single = TokenizedMission(make_real_env(LEVEL))
    assert single.observation_space == real.observation_space
    action, _ = model.predict(single.reset(seed=0)[0])
    assert 0 <= int(action) < 7


@pytest.mark.parametrize("imagined", [True, False])
def test_ends_are_told_as_sb3_wants_them(world_model, imagined):
    env = _vec_env(world_model, imagined, max_steps=3, seed=5)
    observations = env.reset()
    seen = {"truncated": 0, "terminated": 0}
    for _ in range(30):
        before = {key: value.copy() for key, value in observations.items()}
        observations, rewards, dones, infos = env.step(np.full(4, grid.DONE))
        assert rewards.dtype == np.float32
        assert dones.dtype == bool
        for lane, info in enumerate(infos):
            assert ("terminal_observation" in info) == dones[lane]
            assert isinstance(info["TimeLimit.truncated"], bool)
            if not dones[lane]:
                assert not info["TimeLimit.truncated"]
                continue
            last = info["terminal_observation"]
            assert env.observation_space.contains(last)
            np.testing.assert_array_equal(last["mission"], before["mission"][lane])
            if not imagined:  # the real agent does nothing: its last view is the one before
                np.testing.assert_array_equal(last["image"], before["image"][lane])
            truncated = info["TimeLimit.truncated"]
            seen["truncated" if truncated else "terminated"] += 1
            if truncated:
                assert info["episode"]["l"] == 3
                assert rewards[lane] == 0
    assert seen["truncated"] > 0
    assert seen["terminated"] > 0 or not imagined


@pytest.mark.parametrize("imagined", [True, False])
def test_the_world_model_can_fill_in_what_is_hidden(world_model, imagined):
    hidden = {"partial_observability": {"cell_dropout": 1.0}, "seed": 1}
    blind = _vec_env(world_model, imagined, **hidden).reset()["image"]
    believed = _vec_env(world_model, imagined, belief={"fill": "mode"}, **hidden).reset()["image"]
    assert not blind.any()
    assert believed.any(axis=1).all()


def test_seeds_decide_what_happens(world_model):
    def images(seed):
        env = _vec_env(world_model, True, seed=seed)
        shown = [env.reset()["image"]]
        shown += [env.step(np.array([0, 1, 2, 3]))[0]["image"] for _ in range(3)]
        return np.stack(shown)

    np.testing.assert_array_equal(images(7), images(7))
    assert (images(7) != images(8)).any()
    real = make_real_env(LEVEL)
    for lane in range(4):
        np.testing.assert_array_equal(images(7)[0, lane], real.reset(seed=7 + lane)[0]["image"].reshape(-1))


@pytest.mark.parametrize("imagined", [True, False])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_features_see_ids_not_fractions(world_model, name, imagined):
    seen = []

    class Spy(MissionGridExtractor):
        def forward(self, observations):
            seen.append({key: value.clone() for key, value in observations.items()})
            return super().forward(observations)

    env = _vec_env(world_model, imagined, seed=3)
    model = _learner(name, env, policy_kwargs={"features_extractor_class": Spy})
    observations = env.reset()
    seen.clear()
    model.predict(observations, deterministic=True)
    given = seen[0]
    np.testing.assert_array_equal(given["image"].numpy(), observations["image"])
    np.testing.assert_array_equal(given["mission"].numpy(), observations["mission"])
    np.testing.assert_array_equal(given["direction"].reshape(4, 4).argmax(1), observations["direction"])
    model.learn(64)
    assert all((batch["image"] == batch["image"].round()).all() for batch in seen)
    assert max(batch["image"].max() for batch in seen) > 1


def test_features_depend_on_the_view_the_heading_and_the_words_order(world_model):
    env = _vec_env(world_model, False, seed=0)
    policy = _learner("PPO", env).policy
    observation = env.reset()

    def features(**changes):
        tensors, _ = policy.obs_to_tensor({**observation, **changes})
        return policy.extract_features(tensors).detach()

    image, words = observation["image"].copy(), observation["mission"].copy()
    image[:, 0] = (image[:, 0] + 1) % len(grid.OBJECTS)
    words[:, [0, 1]] = words[:, [1, 0]]
    for changed in ({"image": image}, {"direction": (observation["direction"] + 1) % 4}, {"mission": words}):
        assert (features(**changed) != features()).any(dim=1).all()


def test_masked_actions_are_never_taken(world_model):
    env = _vec_env(world_model, True)
    masks = np.stack(env.env_method("action_masks"))
    assert masks.shape == (4, 7)
    assert not masks[:, grid.DONE].any()
    assert masks.sum() == 4 * 6
    model = _learner("MaskablePPO", env)
    observations = env.reset()
    drawn = [model.predict(observations, action_masks=masks)[0] for _ in range(50)]
    assert grid.DONE not in np.stack(drawn)


def test_pictures_of_all_lanes(world_model):
    env = _vec_env(world_model, True, render_mode="rgb_array")
    env.reset()
    assert [image.shape for image in env.get_images()] == [(224, 224, 3)] * 4
    assert env.render(mode="rgb_array").shape == (448, 448, 3)


def test_attributes_are_shared_by_the_lanes(world_model):
    env = SB3VecEnv(ImaginationVectorEnv(3, LEVEL, world_model))
    assert env.get_attr("temperature") == [0.0] * 3
    env.set_attr("temperature", 0.5)
    assert env.get_attr("temperature", [1]) == [0.5]
    assert not env.has_attr("nothing")
    with pytest.raises(ValueError, match="all of them"):
        env.set_attr("temperature", 1.0, [0])
    with pytest.raises(AttributeError, match="action_masks"):
        env.env_method("fly")


def test_what_sb3_cannot_take_is_refused(world_model):
    with pytest.raises(UserError, match="SameStep"):
        SB3VecEnv(ImaginationVectorEnv(2, LEVEL, world_model, autoreset_mode="Disabled"))
    with pytest.raises(UserError, match="SameStep"):
        SB3VecEnv(SyncVectorEnv([lambda: make_real_env(LEVEL)]))
    with pytest.raises(UserError, match="TokenizedMission"):
        MissionGridExtractor(make_real_env(LEVEL).observation_space)
    with pytest.raises(UserError, match="unknown level"):
        make_sb3_vec_env("BabyAI-Nowhere-v0", imagined=False)
    with pytest.raises(UserError, match="trust"):
        make_sb3_vec_env(LEVEL, imagined=False, trust=Trust())
    with pytest.raises(UserError, match="temprature"):
        make_sb3_vec_env(LEVEL, imagined=False, temprature=1.0)
    for imagined in (True, False):
        with pytest.raises(UserError, match="num_envs must be at least 1"):
            make_sb3_vec_env(LEVEL, 0, imagined, world_model)


@pytest.mark.parametrize("imagined", [True, False])
def test_the_same_line_makes_both(world_model, imagined):
    options = {"temperature": 1.0, "decoding_steps": 1, "start": "level", "precision": "float32", "device": "cpu"}
    env = make_sb3_vec_env(
        LEVEL, 2, imagined, world_model, seed=0, belief={}, max_episode_steps=1, render_mode="rgb_array", **options
    )
    env.reset()
    *_, dones, infos = env.step(np.array([grid.LEFT, grid.LEFT]))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos) or imagined
