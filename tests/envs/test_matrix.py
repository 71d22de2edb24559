"""Every id with every start, and every wrapper on both worlds, passes both checkers without a warning."""

import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import wmtoolkit  # noqa: F401 - registers the ids
from wmtoolkit.envs import BeliefCompletion, DriftCheck, PartialObservability, TokenizedMission, make_real_env
from wmtoolkit.world.trajectory import Trajectory

sb3 = pytest.importorskip("stable_baselines3.common.env_checker")

LEVEL = "BabyAI-GoToLocal-v0"
IDS = sorted(name for name in gymnasium.registry if name.startswith("AnyOrderWM-BabyAI"))
STARTS = ("level", "look_around", "dataset", "dream", "branch", "trajectory")
WRAPPERS = {
    "hidden": lambda env, model: PartialObservability(env, cell_dropout=0.2, occlusion="random", frame_dropout=0.2),
    "believed": lambda env, model: BeliefCompletion(PartialObservability(env, cell_dropout=0.2), model),
    "drifting": DriftCheck,
}


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """Windows open nowhere, and a warning fails."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not trained on.*")
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
        warnings.filterwarnings("ignore", message=".*system font.*")  # pygame's, for MiniGrid's own window
        yield


def _real(level, steps=3):
    env = make_real_env(level)
    observation, _ = env.reset(seed=0)
    episode = Trajectory.start(observation, level=level)
    for _ in range(steps):
        observation, *_ = env.step(0)
        episode = episode.extended(0, observation)
    return episode


def _options(level, start):
    episode = _real(level)
    if start == "trajectory":
        return {"start": episode}
    return {"start": start, "dataset": [episode] if start in ("dataset", "branch") else None}


def test_all_ids_are_here():
    assert len(IDS) == 10


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", IDS)
def test_every_id_with_every_start(world_model, name, start):
    level = gymnasium.spec(name).kwargs.get("level", LEVEL)
    env = gymnasium.make(name, checkpoint=world_model, **_options(level, start)).unwrapped
    check_env(env)
    sb3.check_env(TokenizedMission(env))


@pytest.mark.parametrize("imagined", [True, False])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_on_both_worlds(world_model, wrapper, imagined):
    def make(render_mode=None):
        if imagined:
            env = gymnasium.make("AnyOrderWM-BabyAI", checkpoint=world_model, render_mode=render_mode)
        else:
            env = make_real_env(LEVEL, render_mode=render_mode)
        return WRAPPERS[wrapper](env, world_model)

    check_env(make("rgb_array"))
    sb3.check_env(TokenizedMission(make()))
