"""Small films of suites: an episode as it was, and beside it how imagination went on from its first view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from wmtoolkit.agents import Agent
from wmtoolkit.benchmarks.films import padded
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import slug
from wmtoolkit.benchmarks.play import Condition, Player
from wmtoolkit.envs.rendering import draw_view, side_by_side, write_video
from wmtoolkit.errors import UserError
from wmtoolkit.progress import Bar
from wmtoolkit.world import grid
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.trajectory import Trajectory

if TYPE_CHECKING:
    from wmtoolkit.benchmarks.fidelity import FidelityPlan
    from wmtoolkit.benchmarks.success import SuccessPlan

LARGEST = 200_000
"""Bytes of a film, at most: a page holds one a level."""
TILES = (20, 14, 9)
"""Pixels a cell, largest first; the first is taken whose film is small enough."""
LONGEST = 48
"""Steps of a film, at most."""


def film_units(plan: SuccessPlan | FidelityPlan, player: Player) -> Iterator[dict[str, Any]]:
    """A film a level, of the first level seed.

    Raises:
        UserError: the plan names no agent of its own.
    """
    if not plan.films:
        return
    agents = {agent.name: agent for agent in plan.agents}
    if plan.films not in agents:
        raise UserError(f"films: {plan.films!r} is none of the plan's agents; there are {', '.join(agents)}")
    spec = agents[plan.films]
    who = {"film": plan.films, "agent": spec.agent, "settings": dict(spec.settings)}
    for level in plan.levels:
        for seed in player.seeds(level, plan.seed, plan.episodes)[:1]:
            sha = player.identity["sha256"]
            yield {**who, "level": level, "checkpoint": sha, "seed": seed}


def film(plan: SuccessPlan | FidelityPlan, player: Player, ledger: Ledger, bar: Bar) -> None:
    """Make what is missing: ``LEVEL-AGENT-CHECKPOINT-SEED.gif`` in the suite's folder."""
    for unit in film_units(plan, player):

        def work(unit: dict[str, Any] = unit) -> dict[str, Any]:
            spec = next(agent for agent in plan.agents if agent.name == unit["film"])
            condition = Condition(unit["level"], spec)
            with player.environment(condition) as env:
                played = play(player.agent(condition, env), env, player.model, unit["seed"])
            # One file a checkpoint and seed: the rows of others in this folder go on naming theirs.
            name = (
                f"{unit['level'].rpartition(':')[2]}-{slug(unit['film'])}-{unit['checkpoint'][:8]}-{unit['seed']}.gif"
            )
            path = ledger.folder / name
            write_small(path, played)
            return {"file": path.name, "steps": len(played["actions"]), "success": played["success"]}

        ledger.do(unit, work)
        bar.advance(info=f"{unit['level']}: film")


def film_rows(plan: SuccessPlan | FidelityPlan, player: Player, ledger: Ledger) -> list[dict[str, Any]]:
    """Rows of the table ``films``, one a film."""
    rows = []
    for unit in film_units(plan, player):
        if values := ledger.values(unit):
            rows.append(
                {"table": "films", "level": unit["level"], "agent": unit["film"], "seed": unit["seed"], **values}
            )
    return rows


def play(agent: Agent, env: gymnasium.Env, model: AnyOrderWorldModel, seed: int) -> dict[str, Any]:
    """An episode, at most ``LONGEST`` steps of it, and what the model imagines from its first view under its actions.

    Returns:
        ``levels`` pictures from above, ``seen`` and ``imagined`` views (T+1, 7, 7, 3), ``confidence`` (T+1, 7, 7),
        ``actions``, and whether it was a ``success``.
    """
    observation, _ = env.reset(seed=seed)
    agent.reset(seed)
    level: Any = env.unwrapped
    state: Any = model.rollout_state([Trajectory.start(observation)])
    size = TILES[0] * grid.VIEW // max(level.width, level.height)
    above, seen, imagined = [level.get_frame(tile_size=size)], [observation["image"]], [observation["image"]]
    actions: list[int] = []
    terminated = truncated = success = False
    while not (terminated or truncated) and len(actions) < LONGEST:
        actions.append(int(agent.act(observation)))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        success = bool(terminated and float(reward) > 0)
        state = state.step(np.array(actions[-1:]))
        above.append(level.get_frame(tile_size=size))
        seen.append(observation["image"])
        imagined.append(state.images[0])
    return {"levels": above, "seen": seen, "imagined": imagined, "actions": actions, "success": success}


def write_small(path: Path, played: dict[str, Any]) -> None:
    """Write a film as a GIF of ``LARGEST`` bytes at most: with smaller cells, and at last its first steps alone."""
    for tile in TILES:
        frames = drawn(played, tile)
        write_video(path, frames, fps=2)
        if path.stat().st_size <= LARGEST:
            return
    while path.stat().st_size > LARGEST and len(frames) > 1:
        frames = frames[: max(1, len(frames) // 2)]
        write_video(path, frames, fps=2)


def drawn(played: dict[str, Any], tile: int) -> list[np.ndarray]:
    """Frames of a film: the level from above, what is seen, and what is imagined."""
    heads = ["start", *(f"{step}: {grid.ACTIONS[action]}" for step, action in enumerate(played["actions"], start=1))]
    frames = []
    for above, seen, imagined, head in zip(played["levels"], played["seen"], played["imagined"], heads, strict=True):
        rows, columns = (np.arange(0, length, TILES[0] / tile).astype(int) for length in above.shape[:2])
        views = [draw_view(image, tile_size=tile) for image in (seen, imagined)]
        frames.append(side_by_side([above[rows][:, columns], *views], [head, "seen", "imagined"]))
    frames = padded(frames)
    return [*frames, frames[-1], frames[-1]]
