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
from wmtoolkit.world.config import WorldConfig

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
        world = WorldConfig(mission_features=True, start_heading=True)
        return AnyOrderWorldModel.create(LLaDA2MoeConfig(**TINY, initializer_range=0.2), world)


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


@pytest.fixture(scope="session")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text LLaDA2 as the hub has it, tiny: separate experts, shards with an index, a byte-level BPE tokenizer."""
    import json

    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
    from wmtoolkit.llada2.released import RELEASED

    folder = tmp_path_factory.mktemp("hub") / "LLaDA2-tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|mask|>", "<role>", "</role>", "<|role_end|>"]
    # Common words become one token, the rare ones (hallway, traverse, ...) stay in pieces.
    common = (
        "go to the a red green blue purple yellow grey ball box key door open pick up put next and then on your left"
    )
    sentences = [f" {one} {other}" for one in common.split() for other in common.split()]
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    text = {
        **RELEASED["mini"],
        **TINY,
        "num_hidden_layers": 3,
        "num_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "head_dim": 16,
        "vocab_size": 352,
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "rope_theta": 10000,
        "initializer_range": 0.1,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LLaDA2MoeForCausalLM(LLaDA2MoeConfig(**text)).to(torch.bfloat16)
        for layer in model.model.layers[1:]:
            layer.mlp.gate.expert_bias.normal_(std=0.1)
    model.save_pretrained(folder, max_shard_size="60KB")
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"eos_token": special[0], "pad_token": special[0], "mask_token": special[1]}
    settings = {**facts, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16384}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(json.dumps(facts))
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.fixture(scope="session")
def grown(text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``text_checkpoint`` with the world's tokens in its vocabulary."""
    from wmtoolkit.world.growth import grow

    folder = tmp_path_factory.mktemp("grown") / "LLaDA2-tiny-world"
    grow(text_checkpoint, folder)
    return folder
