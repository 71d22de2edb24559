"""ImaginationEnv keeps Gymnasium's contract and the real level's, whatever the model imagines."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.error import InvalidAction, ResetNeeded
from gymnasium.utils.env_checker import check_env

import wmtoolkit  # noqa: F401 - registers the id
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.envs import ImaginationEnv, TokenizedMission, draw_view, make_real_env
from wmtoolkit.envs.grammar import is_mission, unposed_verbs
from wmtoolkit.envs.starts import mission_max_steps
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import Outcome, Trajectory

LEVEL = "BabyAI-GoToLocal-v0"
BABYAI = sorted(name for name in gymnasium.registry if name.startswith("BabyAI-"))


def _recorded(level=LEVEL, seed=0, steps=3):
    env = make_real_env(level)
    observation, _ = env.reset(seed=seed)
    trajectory = Trajectory.start(observation, level=level, seed=seed)
    for action in [0, 1, 0, 1, 0, 1][:steps]:
        observation, reward, terminated, truncated, _ = env.step(action)
        trajectory = trajectory.extended(action, observation, reward, terminated, truncated)
    return trajectory


def _run(env, seed, steps=12):
    """Everything an episode shows, as comparable bytes and numbers."""
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    shown = [(observation["image"].tobytes(), int(observation["direction"]), observation["mission"], 0.0, False)]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(int(rng.integers(7)))
        shown.append(
            (observation["image"].tobytes(), int(observation["direction"]), info["log_prob"], reward, truncated)
        )
        if terminated or truncated:
            break
    return shown


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "decoding_steps": 2, "render_mode": "rgb_array"},
        {"level": "BabyAI-BossLevel-v0"},
        {"level": "MiniGrid-DoorKey-5x5-v0", "temperature": 1.0},
        {"start": "dataset", "dataset": [_recorded(seed=s) for s in range(3)]},
        {"start": _recorded(steps=2), "temperature": 1.0},
        {"start": "dream", "render_mode": "rgb_array"},
    ],
    ids=lambda options: "-".join(map(str, options)) or "defaults",
)
def test_gymnasiums_checker_finds_nothing(world_model, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not trained on.*")
        env = gymnasium.make("AnyOrderWM-BabyAI", checkpoint=world_model, **options)
        check_env(env.unwrapped)
        _run(env, seed=1)


def test_both_forms_of_the_id_work_in_a_fresh_process(checkpoint):
    code = (
        "import gymnasium, sys; {};"
        "env = gymnasium.make('{}', checkpoint=sys.argv[1]); observation, _ = env.reset(seed=0);"
        "env.step(2); print(observation['mission'])"
    )
    for statement, name in (("import wmtoolkit", "AnyOrderWM-BabyAI"), ("pass", "wmtoolkit:AnyOrderWM-BabyAI")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(statement, name), str(checkpoint)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("go to")


@pytest.mark.filterwarnings("ignore:.*not trained on")
def test_common_levels_have_ids_of_their_own(world_model):
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    ids = [name for name in gymnasium.registry if name.startswith("AnyOrderWM-BabyAI/")]
    assert len(ids) == 9
    for name in ids:
        env = gymnasium.make(name, checkpoint=world_model).unwrapped
        assert env.starts.name == name.replace("AnyOrderWM-BabyAI/", "BabyAI-") + "-v0"
        check_env(env)
        sb3.check_env(TokenizedMission(env))
    assert gymnasium.make_vec(ids[0], num_envs=2, checkpoint=world_model).starts[1].name in BABYAI


def test_importing_wmtoolkit_is_cheap():
    code = "import sys, json, wmtoolkit, wmtoolkit.envs; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "gymnasium" in loaded
    assert not loaded & {"torch", "transformers", "minigrid", "stable_baselines3", "pygame", "matplotlib"}


def test_spaces_and_first_observations_are_the_real_levels(world_model):
    env, real = ImaginationEnv(LEVEL, world_model), make_level(LEVEL)
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space
    for seed in (5, None, None, 7):
        observation, _ = env.reset(seed=seed)
        expected = reset_level(real, seed)
        np.testing.assert_array_equal(observation["image"], expected["image"])
        assert (observation["direction"], observation["mission"]) == (expected["direction"], expected["mission"])
        assert env.max_steps == real.max_steps


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_one_seed_gives_one_episode(world_model, temperature):
    one, two = (ImaginationEnv(LEVEL, world_model, temperature=temperature) for _ in range(2))
    assert _run(one, seed=3) == _run(two, seed=3)
    assert _run(one, seed=3) == _run(two, seed=3)  # also after other episodes


def test_sampled_episodes_differ_without_a_seed(world_model):
    start = _recorded()
    env = ImaginationEnv(LEVEL, world_model, start, temperature=1.0)
    assert len({_run(env, seed=None, steps=1)[1][0] for _ in range(4)}) > 1


def test_rewards_and_ends_follow_the_predicted_outcome(world_model):
    env = ImaginationEnv(LEVEL, world_model, temperature=1.0, max_steps=4)
    ends = set()
    for seed in range(80):
        env.reset(seed=seed)
        for count in range(1, 5):
            _, reward, terminated, truncated, _ = env.step(2)
            assert truncated == (count == 4)
            if terminated or truncated:
                break
            assert reward == 0
        assert not terminated or reward in (0, 1 - 0.9 * (count / 4))
        outcome = env.trajectory.outcomes[-1]
        assert (outcome == Outcome.SUCCESS) == (reward > 0)
        assert (outcome in (Outcome.SUCCESS, Outcome.FAILURE)) == terminated
        ends.add((bool(reward > 0), terminated, truncated))
    assert {(True, True, False), (False, True, False), (False, False, True)} <= ends


def test_info_tells_how_sure_the_model_is(world_model):
    env = ImaginationEnv(LEVEL, world_model)
    _, info = env.reset(seed=0)
    assert info["log_prob"] == 0
    assert (info["confidence"] == 1).all()
    _, _, _, _, info = env.step(1)
    assert info["log_prob"] < 0
    assert info["confidence"].shape == (7, 7)
    assert ((info["confidence"] > 0) & (info["confidence"] <= 1)).all()
    assert info["outcome_probabilities"].sum() == pytest.approx(1, abs=1e-5)


def test_the_trajectory_is_what_was_seen_and_done(world_model):
    env = ImaginationEnv(LEVEL, world_model, temperature=1.0)
    observation, _ = env.reset(seed=2)
    images, actions, rewards = [observation["image"]], [], []
    for action in (0, 2, 5, 1):
        observation, reward, terminated, truncated, _ = env.step(action)
        images.append(observation["image"])
        actions.append(action)
        rewards.append(np.float32(reward))
        if terminated or truncated:
            break
    trajectory = env.trajectory.validate()
    np.testing.assert_array_equal(trajectory.images, np.stack(images))
    assert trajectory.actions.tolist() == actions
    assert trajectory.rewards.tolist() == rewards
    assert (trajectory.level, trajectory.seed) == (LEVEL, 2)


def test_imagination_goes_on_from_a_trajectory(world_model):
    start = _recorded(steps=3)
    env = ImaginationEnv(LEVEL, world_model, start, max_steps=4)
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["image"], start.images[-1])
    *_, truncated, _ = env.step(2)
    assert truncated  # the three real steps count
    assert len(env.trajectory) == 4
    assert env.trajectory.prefix(3) == start
    other = _recorded(seed=5, steps=1)
    observation, _ = env.reset(options={"start": other})
    np.testing.assert_array_equal(observation["image"], other.images[-1])
    observation, _ = env.reset()
    np.testing.assert_array_equal(observation["image"], start.images[-1])


def test_a_trajectory_that_cannot_be_continued_is_refused(world_model):
    start = _recorded(steps=3)
    ended = replace(start, terminations=np.array([False, False, True]))
    for bad, message in (
        (ended, "already ended"),
        (replace(start, mission="go to the elephant"), "elephant"),
        (replace(start, images=start.images[:2]), "images has shape"),
    ):
        with pytest.raises(UserError, match=message):
            ImaginationEnv(LEVEL, world_model, bad)
    with pytest.raises(UserError, match="limit is 3"):
        ImaginationEnv(LEVEL, world_model, start, max_steps=3)
    with pytest.raises(UserError, match="not a mission of MiniGrid-DoorKey"):
        ImaginationEnv("MiniGrid-DoorKey-5x5-v0", world_model, start)


def test_starts_are_drawn_from_the_datasets_episodes_of_the_level(world_model):
    episodes = [_recorded(seed=seed) for seed in range(4)] + [_recorded("BabyAI-OpenDoor-v0", seed=9)]
    env = ImaginationEnv(LEVEL, world_model, "dataset", dataset=episodes)
    firsts = {episode.images[0].tobytes() for episode in episodes[:4]}
    drawn = {env.reset(seed=seed)[0]["image"].tobytes() for seed in range(30)}
    assert drawn == firsts
    assert len(env.trajectory) == 0
    with pytest.raises(UserError, match="no episode of BabyAI-GoTo-v0"):
        ImaginationEnv("BabyAI-GoTo-v0", world_model, "dataset", dataset=episodes)


def test_a_dream_begins_with_a_mission_of_the_level_and_a_view_of_the_models(world_model):
    env = ImaginationEnv(LEVEL, world_model, "dream", render_mode="rgb_array")
    observation, info = env.reset(seed=4)
    real, _ = make_real_env(LEVEL).reset(seed=4)
    assert observation["mission"] == real["mission"]
    assert (observation["image"] != real["image"]).any()
    assert info["log_prob"] < 0
    assert (info["confidence"] < 1).any()
    np.testing.assert_array_equal(env.render(), draw_view(observation["image"], info["confidence"]))
    np.testing.assert_array_equal(env.reset(seed=4)[0]["image"], observation["image"])
    env.step(2)
    np.testing.assert_array_equal(env.trajectory.validate().images[0], observation["image"])
    assert (env.reset(seed=5)[0]["image"] != observation["image"]).any()


def test_a_level_the_model_was_not_trained_on_is_told(checkpoint):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImaginationEnv(LEVEL, checkpoint)
    with pytest.warns(UserWarning, match="not trained on BabyAI-Open-v0, only on BabyAI-GoToLocal-v0"):
        ImaginationEnv("BabyAI-Open-v0", checkpoint)


@pytest.mark.parametrize("level", BABYAI)
def test_the_limit_and_the_grammar_of_a_mission_are_the_real_levels(level):
    env = make_level(level)
    for seed in range(2):
        mission = reset_level(env, seed)["mission"]
        assert mission_max_steps(env, mission) == env.max_steps
        assert is_mission(mission)
        assert not unposed_verbs(level, mission)


def test_pictures_show_the_imagined_view_faded(world_model):
    env = ImaginationEnv(LEVEL, world_model, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), draw_view(observation["image"]))
    observation, _, _, _, info = env.step(2)
    np.testing.assert_array_equal(env.render(), draw_view(observation["image"], info["confidence"]))


def test_a_window_opens_and_closes(world_model, monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = ImaginationEnv(LEVEL, world_model, render_mode="human")
    env.reset(seed=0)
    env.step(0)
    surface = pygame.display.get_surface()
    assert surface is not None
    assert len(np.unique(pygame.surfarray.array3d(surface))) > 2
    env.close()
    assert pygame.display.get_surface() is None


def test_steps_out_of_turn_and_actions_out_of_range_are_refused(world_model):
    env = ImaginationEnv(LEVEL, world_model, max_steps=1)
    for call in (lambda: env.step(0), env.render, lambda: env.trajectory):
        with pytest.raises(ResetNeeded, match="reset"):
            call()
    env.reset(seed=0)
    for action in (7, -1, 1.5, None):
        with pytest.raises(InvalidAction, match="0 left"):
            env.step(action)
    env.step(np.int64(0))  # the refused actions have changed nothing: this is still the first step
    assert len(env.trajectory) == 1
    with pytest.raises(ResetNeeded, match="ended"):
        env.step(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "BabyAI-GoToLocl-v0"}, "did you mean BabyAI-GoToLocal-v0"),
        ({"level": "CartPole-v1"}, "7x7x3"),
        ({"level": "MiniGrid-Dynamic-Obstacles-5x5-v0"}, r"Discrete\(3\)"),
        ({"start": "middle"}, "level, look_around, dataset, branch, dream"),
        ({"start": 3}, "level, look_around, dataset, branch, dream"),
        ({"start": "dataset"}, "dataset="),
        ({"start": "dataset", "dataset": 3}, "not int"),
        ({"start": "dataset", "dataset": "no/such/folder"}, "no/such/folder"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"decoding_steps": 0}, "decoding_steps"),
        ({"decoding_steps": 1.5}, "decoding_steps"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 2.5}, "max_steps"),
        ({"render_mode": "ansi"}, "rgb_array"),
    ],
)
def test_a_wrong_option_is_named(world_model, options, message):
    with pytest.raises(UserError, match=message):
        ImaginationEnv(checkpoint=world_model, **options)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        ImaginationEnv(LEVEL, tmp_path / "nowhere")
    with pytest.raises(UserError, match="int"):
        ImaginationEnv(LEVEL, 3)
    with pytest.raises(UserError, match="precision is 'half'"):
        ImaginationEnv(LEVEL, precision="half")


def test_environments_of_one_checkpoint_share_its_weights(checkpoint):
    one, two = ImaginationEnv(LEVEL, checkpoint), ImaginationEnv(LEVEL, str(checkpoint))
    assert one.world_model is two.world_model
    exact, rough = (ImaginationEnv(LEVEL, checkpoint, precision=name) for name in ("float32", "bf16"))
    assert not exact.world_model.network.bf16_inference
    assert rough.world_model.network.bf16_inference
