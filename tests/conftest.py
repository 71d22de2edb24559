"""Fixtures shared by all tests: a real tiny world model and real BabyAI episodes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.llada2 import LLaDA2MoeConfig

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts": 4,
    "num_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "use_bias": False,
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
}


@pytest.fixture(scope="session")
def world_model() -> AnyOrderWorldModel:
    """A LLaDA2 world model of two layers with random weights: every code path is real, its predictions are not good."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AnyOrderWorldModel.create(LLaDA2MoeConfig(**TINY, initializer_range=0.2))


@pytest.fixture(scope="session")
def checkpoint(world_model: AnyOrderWorldModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``world_model`` saved to a folder."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    world_model.facts["levels"] = ["BabyAI-GoToLocal-v0"]
    world_model.save_pretrained(path)
    return path


def random_episode(level: str, seed: int, steps: int = 30) -> Trajectory:
    """An episode of a real level under random actions."""
    rng = np.random.default_rng(seed)
    env = make_level(level)
    trajectory = Trajectory.start(reset_level(env, seed), behaviour="random", level=level, seed=seed)
    for action in rng.integers(0, 7, steps):
        observation, reward, terminated, truncated, _ = env.step(int(action))
        trajectory = trajectory.extended(int(action), observation, float(reward), terminated, truncated)
        if terminated or truncated:
            break
    env.close()
    return trajectory


@pytest.fixture(scope="session")
def episodes() -> list[Trajectory]:
    """Short random episodes of two levels."""
    levels = ("BabyAI-GoToLocal-v0", "BabyAI-PutNextLocal-v0", "BabyAI-OpenRedDoor-v0")
    return [random_episode(level, seed) for seed in range(3) for level in levels]


@pytest.fixture
def tiny() -> dict:
    """Fields of a tiny LLaDA2 config."""
    return dict(TINY)
