"""Recording one episode: a level, a seed and a behaviour give a Trajectory."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.data import behaviours
from wmtoolkit.data.behaviours import Actor, BehaviourError
from wmtoolkit.data.levels import level_fault, reset_level
from wmtoolkit.world.trajectory import Trajectory

MakeActor = Callable[[MiniGridEnv, np.random.Generator], Actor]

ACTORS: dict[str, MakeActor] = {
    "bot": behaviours.bot,
    "noisy": behaviours.noisy,
    "random": behaviours.random,
    "tour": behaviours.tour,
}


class EpisodeTimeout(BaseException):
    """The episode took longer than its time limit. No ``Exception``: a behaviour must not take it for its own."""


@dataclass(frozen=True)
class Recording:
    """A recorded episode, or why there is none."""

    trajectory: Trajectory | None
    error: str | None = None
    """What went wrong: the behaviour's error, after which actions were random, or why the episode was skipped."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``EpisodeTimeout`` inside the block after ``seconds``, even out of a loop that never returns.

    It needs the main thread and a system with interval timers; elsewhere there is no limit inside a call. A timer
    that somebody else has set runs on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def expire(signum: int, frame: Any) -> None:
        raise EpisodeTimeout

    handler = signal.signal(signal.SIGALRM, expire)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def record_episode(
    env: MiniGridEnv,
    seed: int,
    behaviour: str,
    rng: np.random.Generator,
    *,
    make_actor: MakeActor | None = None,
    level: str | None = None,
    max_steps: int | None = None,
    seconds: float = 30.0,
) -> Recording:
    """Play one episode and record it.

    Where the behaviour fails on the way, the rest of the episode is random. Only an episode that a bot brought to
    success is labelled ``bot``; any other that a bot played in is labelled ``noisy``.

    Args:
        env: a level from ``make_level``.
        seed: resets the level.
        behaviour: one of ``BEHAVIOURS``.
        rng: the behaviour's randomness.
        make_actor: makes the behaviour after the reset; None for the built-in ones.
        level: id to record.
        max_steps: end the episode, as truncated, after so many actions; None for the level's own limit.
        seconds: wall-clock limit, after which the episode is given up.

    Raises:
        UserError: the level itself fails; names the level and the seed.
    """
    try:
        with time_limit(seconds):
            return _play(env, seed, behaviour, rng, make_actor or ACTORS[behaviour], level, max_steps, seconds)
    except EpisodeTimeout:
        return Recording(None, error="timeout")


def _play(
    env: MiniGridEnv,
    seed: int,
    behaviour: str,
    rng: np.random.Generator,
    make_actor: MakeActor,
    level: str | None,
    max_steps: int | None,
    seconds: float,
) -> Recording:
    deadline = time.monotonic() + seconds
    observation = reset_level(env, seed)
    images, directions = [observation["image"]], [observation["direction"]]
    actions: list[int] = []
    rewards: list[float] = []
    error: str | None = None
    try:
        actor = make_actor(env, rng)
    except BehaviourError as failure:
        actor, error = behaviours.random(env, rng), str(failure)
    limit = env.max_steps if max_steps is None else min(max_steps, env.max_steps)
    terminated = truncated = False
    previous: int | None = None
    while not (terminated or truncated):
        try:
            previous = actor(observation, previous)
        except BehaviourError as failure:
            actor, error = behaviours.random(env, rng), str(failure)
            previous = actor(observation, previous)
        try:
            observation, reward, terminated, truncated, _ = env.step(previous)
        except Exception as failure:
            raise level_fault(env, seed, failure) from failure
        images.append(observation["image"])
        directions.append(observation["direction"])
        actions.append(previous)
        rewards.append(float(reward))
        truncated = not terminated and (truncated or len(actions) >= limit)
        if time.monotonic() > deadline:
            raise EpisodeTimeout
    steps = len(actions)
    if behaviour == "bot" and (error is not None or not (terminated and rewards[-1] > 0)):
        behaviour = "noisy"
    last = np.arange(steps) == steps - 1
    trajectory = Trajectory(
        mission=str(observation["mission"]),
        images=np.stack(images).astype(np.uint8, copy=False),
        directions=np.array(directions, dtype=np.int64),
        actions=np.array(actions, dtype=np.int64),
        rewards=np.array(rewards, dtype=np.float32),
        terminations=last & terminated,
        truncations=last & truncated,
        behaviour=behaviour,
        level=level,
        seed=seed,
    )
    return Recording(trajectory, error)
