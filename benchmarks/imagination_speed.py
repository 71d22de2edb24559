"""Speed of imagination: how it grows with the batch, beside the real level; and what cache and memory save."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.benchmarks.speed import Comparison
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.data.recording import record_episode
from wmtoolkit.world import masks, windows
from wmtoolkit.world.batching import full_attention_batch
from wmtoolkit.world.decoding import fill
from wmtoolkit.world.tokenizer import BLOCK

LEVEL = "BabyAI-GoToLocal-v0"
HISTORY = 32
REAL = "real level"
WANTED = 1000
"""Imagined steps a second at the largest batch."""
ROUNDS = 4
"""Rounds of decoding where the cache is tried: what is kept of the context serves all of them."""


def comparisons(*, quick: bool = False, seed: int = 0, checkpoint: Path | None = None) -> Iterator[Comparison]:
    """What is compared, with a checkpoint's model; the targets are those of the issue that asked for imagination."""
    sizes, steps, lanes = ((1, 4), 2, 2) if quick else ((1, 4, 16, 64, 256), 8, 16)
    model = AnyOrderWorldModel.from_pretrained(checkpoint)
    histories = _histories(lanes, seed)
    rng = np.random.default_rng(seed)
    variants = {}
    for size in sizes:
        chosen = [histories[lane % lanes].prefix(1) for lane in range(size)]
        variants[f"{size} lanes"] = {"step": (size * steps, _steps(model, chosen, rng.integers(0, 7, (steps, size))))}
    variants[REAL] = {"step": (HISTORY * lanes, _real(histories))}
    yield Comparison("imagination", "steps", variants, targets={"64 lanes": 5.0}, rates={f"{sizes[-1]} lanes": WANTED})
    actions = rng.integers(0, 7, (steps, lanes))
    history = {
        "whole history anew": {"step": (lanes, _anew(model, histories))},
        "newest frame and memory": {"step": (lanes * steps, _steps(model, histories, actions))},
    }
    yield Comparison(f"{HISTORY} steps of history", "steps", history, targets={"newest frame and memory": 3.0})
    for name, branches in ((f"{ROUNDS} rounds", 1), (f"{ROUNDS} rounds of 7 actions", 7)):
        cached = {
            "context anew in each pass": {
                "step": (lanes * branches, _rounds(model, histories, branches, cached=False))
            },
            "cached context": {"step": (lanes * branches, _rounds(model, histories, branches, cached=True))},
        }
        yield Comparison(f"cache, {HISTORY} steps, {name}", "steps", cached, targets={"cached context": 3.0})


def _histories(count: int, seed: int) -> list[Trajectory]:
    """Random walks of 32 steps."""
    env: Any = make_level(LEVEL)
    rng = np.random.default_rng(seed)
    walks = (record_episode(env, number, "random", rng).trajectory for number in itertools.count(seed))
    long = (walk.prefix(HISTORY) for walk in walks if walk is not None and len(walk) > HISTORY)
    return list(itertools.islice(long, count))


def _steps(model: AnyOrderWorldModel, histories: list[Trajectory], actions: np.ndarray) -> Callable[[], None]:
    """Imagined steps, one after the other, as environments and planners take them."""
    start = model.rollout_state(histories)

    def call() -> None:
        state = start.select(np.arange(len(start)))  # the first context is read anew, as all others are
        for taken in actions:
            state = state.step(taken)

    return call


def _rounds(
    model: AnyOrderWorldModel, histories: list[Trajectory], branches: int, *, cached: bool
) -> Callable[[], None]:
    """One step for each of the first actions after each history, decoded in rounds.

    The context (mission, memory, newest frame) and what is asked are the same either way: it is read once, and its keys
    and values are kept and shared by the actions; or it is read anew in each pass.
    """
    each, actions = np.repeat(np.arange(len(histories)), branches), np.tile(np.arange(branches), len(histories))
    start = model.rollout_state(histories)
    apart = start.select(each)
    apart._cache = apart._cached = None

    def with_cache() -> None:
        state = start.select(np.arange(len(start)))
        state._cache = state._cached = None
        state._encode_context()
        state.select(each).step(actions, steps=ROUNDS)

    @torch.inference_mode()
    def without() -> None:
        block, hidden, _ = apart._question(actions)  # no cache is there, and so each pass reads the context too
        fill(model.network, block, hidden, steps=ROUNDS)

    return with_cache if cached else without


def _anew(model: AnyOrderWorldModel, histories: list[Trajectory]) -> Callable[[], None]:
    """One pass over all frames of the histories, the last of which is asked for: no memory, no cache.

    The network alone is timed: laying out tokens and reading what it says would come on top.
    """
    network, count = model.network, len(histories)
    world = replace(network.world, memory=0, expectation=False)
    frames = windows.Frames.from_trajectories(histories)
    window = windows.cut(frames, np.arange(count), np.zeros(count, np.int64), HISTORY + 1, world)
    drawn = masks.only("forward", (count, HISTORY + 1))
    drawn.slots[:, :-1], drawn.cells[:, :-1] = True, True
    batch = full_attention_batch(window, drawn, np.zeros(window.valid.shape, bool), world)
    tokens, attention = batch.tokens.tensors(network.device), batch.attention(network.device)

    @torch.inference_mode()
    def call() -> None:
        network(tokens, attention, keep=BLOCK)

    return call


def _real(histories: list[Trajectory]) -> Callable[[], None]:
    """Random steps of MiniGrid itself; it needs no resets for that, they are not counted."""
    env = make_level(LEVEL, fast=False)
    reset_level(env, 0)

    def call() -> None:
        for history in histories:
            for action in history.actions.tolist():
                env.step(action)

    return call
