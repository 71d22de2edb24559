"""What a training will cost, without training: ``wmtool train --dry-run``."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import OmegaConf

from wmtoolkit.training.config import Config
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import BLOCK

TIMED = 200_000_000
"""Most parameters of a network that a dry run builds and times."""


def dry_run_report(config: Config) -> dict[str, Any]:
    """Parameters, tokens, and hours at this machine's speed, measured on one step.

    A network too large for that is only counted: its ``expected_hours`` are None.
    """
    with torch.device("meta"):
        network = WorldNetwork(WorldNetwork.fitted(config.model.llada2(), config.world), config.world)
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    recent = config.world.recent
    length = 8 + config.world.memory + (2 * BLOCK + 1 + config.masking.lone_outcomes) * recent
    tokens = length * config.training.batch_size
    hours = None if trained > TIMED else _step_seconds(config, length) * config.training.steps / 3600
    document = {
        "config": asdict(config),
        "parameters": trained,
        "tokens_per_step": tokens,
        "tokens": tokens * config.training.steps,
        "expected_hours": hours,
    }
    text = OmegaConf.to_yaml(OmegaConf.create(asdict(config)))
    text += f"# {trained:,} trained parameters, {tokens:,} tokens a step, "
    text += (
        "too large to be timed here: see wmtool plan-cluster"
        if hours is None
        else f"about {hours:.2f} hours here without mixed precision"
    )
    return {**document, "text": text}


def _step_seconds(config: Config, length: int) -> float:
    """Seconds of one forward and backward pass of a batch."""
    network = WorldNetwork(WorldNetwork.fitted(config.model.llada2(), config.world), config.world)
    hidden = torch.zeros(config.training.batch_size, length, config.model.hidden_size)
    positions = torch.zeros(network.llada2.config.rope_axes, *hidden.shape[:2])
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        network.llada2.model(inputs_embeds=hidden, position_ids=positions).last_hidden_state.sum().backward()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
