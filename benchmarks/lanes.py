"""Imagined episodes of agents that do not search, many at once: one batch of the network serves all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from wmtoolkit.agents import Agent
from wmtoolkit.agents.policy import PolicyAgent
from wmtoolkit.benchmarks.rollouts import EpisodeResult
from wmtoolkit.envs.imagination_vector import ImaginationVectorEnv

LANES = 32
"""Episodes at once, at most."""
AGENTS = ("policy", "random")
"""Agents that play like this."""


def run_lanes(agents: Sequence[Agent], env: ImaginationVectorEnv, seeds: Sequence[int]) -> Iterator[EpisodeResult]:
    """Play an imagined episode a lane, each as ``run_episode`` would play it, and give its result when it ends.

    Args:
        agents: one a lane, all of one class and of one world model.
        env: as many lanes, with autoreset disabled; those that end are dropped from it.
        seeds: one a lane; resets it and its agent.
    """
    observation, _ = env.reset(seed=list(seeds))
    playing = list(zip(seeds, agents, strict=True))
    for seed, agent in playing:
        agent.reset(seed)
    length, seconds, slowest = 0, 0.0, 0.0
    passes = np.zeros(len(playing), dtype=np.int64)
    while playing:
        started = time.perf_counter()
        actions = _act([agent for _, agent in playing], observation)
        share = (time.perf_counter() - started) / len(playing)
        passes += [int(agent.diagnostics.get("forward_passes", 0)) for _, agent in playing]
        observation, rewards, terminated, truncated, _ = env.step(np.array(actions))
        length, seconds, slowest = length + 1, seconds + share, max(slowest, share)
        ended = terminated | truncated
        for lane in np.flatnonzero(ended):
            reward = float(rewards[lane])
            success = bool(terminated[lane] and reward > 0)
            yield EpisodeResult(playing[lane][0], success, reward, length, length, seconds, slowest, int(passes[lane]))
        if ended.all():
            return
        if ended.any():
            playing = [pair for pair, over in zip(playing, ended, strict=True) if not over]
            passes = passes[~ended]
            observation = env.keep(~ended)


def _act(agents: Sequence[Agent], observation: dict[str, np.ndarray]) -> list[int]:
    each = [{key: values[lane] for key, values in observation.items()} for lane in range(len(agents))]
    policies = [agent for agent in agents if isinstance(agent, PolicyAgent)]
    if len(policies) == len(agents):
        return PolicyAgent.act_together(policies, each)
    return [agent.act(own) for agent, own in zip(agents, each, strict=True)]
