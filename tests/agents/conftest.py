"""What tests of planners share: who they are, and episodes played by them."""

import numpy as np

from wmtoolkit.agents import AGENTS, SimulatorWorldModel, make_agent
from wmtoolkit.agents.planner import Planner
from wmtoolkit.agents.registry import agent_class
from wmtoolkit.data.levels import make_level, reset_level

PLANNERS = [name for name in AGENTS if issubclass(agent_class(name), Planner)]
UNHURRIED = {"max_milliseconds": 60_000}  # so that a busy machine changes nothing


def play(agent, env, seed):
    """(success, steps, diagnostics of each decision)."""
    observation = reset_level(env, seed)
    agent.reset(seed)
    log = []
    while True:
        action = agent.act(observation)
        log.append(agent.diagnostics)
        observation, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return terminated and reward > 0, len(log), log


def lengths(name, level, seeds, model_options=None, **budget):
    env = make_level(level)
    model = SimulatorWorldModel(env, **(model_options or {}))
    patience = UNHURRIED if name in PLANNERS else {}
    agent = make_agent(name, world_model=model, env=env, **{**patience, **budget})
    results = [play(agent, env, seed) for seed in seeds]
    assert all(success for success, *_ in results)
    return np.mean([steps for _, steps, _ in results])
