"""The loop that trains baselines, on the world model's data and budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from wmtoolkit.benchmarks.baselines.autoregressive import next_token_loss
from wmtoolkit.benchmarks.baselines.convolutional import CloningNetwork, StepNetwork, cloning_loss, step_loss
from wmtoolkit.data import open_store
from wmtoolkit.evaluation.transitions import all_steps
from wmtoolkit.progress import progress
from wmtoolkit.training.batches import starts
from wmtoolkit.training.config import Config
from wmtoolkit.training.loop import make_optimizers, make_sampler
from wmtoolkit.training.optim import schedule
from wmtoolkit.world import windows
from wmtoolkit.world.network import WorldNetwork, native_bf16
from wmtoolkit.world.tokenizer import BEHAVIOUR, BLOCK, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS

BOT = BEHAVIOURS.index("bot")
TRANSITIONS = 16
"""Steps in a batch of the convolutional networks, which cost little each, for every window of the config's."""
ANONYMOUS = 0.5
"""Share of windows that do not say who acted, so that the model can be asked what happens without knowing that."""

Loss = Callable[[int], tuple[torch.Tensor, float]]
"""Of an optimiser step: the weighted sum of the losses of its batch, and the sum of the weights."""


def training_frames(data: Sequence[str]) -> windows.Frames:
    """The training split of some datasets."""
    return windows.Frames.from_store(open_store(data, "train"))


def fit_autoregressive(config: Config, frames: windows.Frames) -> WorldNetwork:
    """The config's network trained from left to right, until it has read as many tokens as the config's would.

    A window of masked training holds every supervised frame twice, clean and with masks; from left to right it is held
    once, which buys more steps for the same tokens.
    """
    torch.manual_seed(config.training.seed)
    network = WorldNetwork(WorldNetwork.fitted(config.model.llada2(), config.world), config.world)
    count, sampler = config.world.recent + 1, make_sampler(config, 0)
    context = config.world.memory + 8
    ratio = (context + (2 * BLOCK + 1) * config.world.recent) / (context + BLOCK * count)
    steps = round(config.training.steps * ratio)
    low_precision = config.training.mixed_precision == "bf16" or (
        config.training.mixed_precision == "auto" and native_bf16("cpu")
    )

    def loss(step: int) -> tuple[torch.Tensor, float]:
        rng = np.random.default_rng((config.training.seed, step))
        episode, start = starts(frames, sampler, sampler.batch_size, count - 1, rng)
        window = windows.cut(frames, episode, start, count, config.world)
        window.mission.ids[rng.random(len(episode)) < ANONYMOUS, BEHAVIOUR] = WorldTokenizer.mask
        with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
            return next_token_loss(network, window, frames.behaviours[episode] == BOT, config.loss)

    network.train()
    _fit(network, make_optimizers(network, config), loss, steps, config, "autoregressive")
    network.bf16_inference = low_precision
    return network.eval()


def fit_steps(config: Config, frames: windows.Frames) -> StepNetwork:
    """The one-step predictor, with as many optimiser steps as the config's."""
    torch.manual_seed(config.training.seed)
    network, target = StepNetwork(), all_steps(frames)

    def loss(step: int) -> tuple[torch.Tensor, float]:
        rng = np.random.default_rng((config.training.seed, step))
        return step_loss(network, frames, rng.choice(target, TRANSITIONS * config.training.batch_size), config.loss)

    _fit(network, _adamw(network), loss, config.training.steps, config, "convolutional")
    return network.eval()


def fit_cloning(config: Config, frames: windows.Frames) -> CloningNetwork:
    """Behaviour cloning of the bot's episodes, with as many optimiser steps as the config's."""
    torch.manual_seed(config.training.seed)
    network, target = CloningNetwork(), all_steps(frames)
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    target = target[frames.behaviours[episode] == BOT]

    def loss(step: int) -> tuple[torch.Tensor, float]:
        rng = np.random.default_rng((config.training.seed, step))
        return cloning_loss(network, frames, rng.choice(target, TRANSITIONS * config.training.batch_size))

    _fit(network, _adamw(network), loss, config.training.steps, config, "cloning")
    return network.eval()


def _adamw(network: nn.Module) -> dict[str, torch.optim.Optimizer]:
    return {"adamw": torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)}


def _fit(
    network: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    loss: Loss,
    steps: int,
    config: Config,
    name: str,
) -> None:
    """Train in place, with the config's schedule and clipping."""
    options = config.training
    rates = {key: optimizer.param_groups[0]["lr"] for key, optimizer in optimizers.items()}
    with progress(f"train {name}", steps) as bar:
        for step in range(steps):
            factor = schedule(options.schedule, step, steps, options.warmup, options.decay)
            for key, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = rates[key] * factor
            total, weight = loss(step)
            (total / weight).backward()
            nn.utils.clip_grad_norm_(network.parameters(), options.gradient_clip)
            for optimizer in optimizers.values():
                optimizer.step()
            network.zero_grad(set_to_none=True)
            bar.advance(info=f"loss {float(total.detach()) / weight:.4f}" if step % 10 == 0 else None)
