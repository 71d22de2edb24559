"""Episodes of an agent in a level, real or imagined: counted, measured and filmed."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from wmtoolkit.agents import Agent, WorldModel, make_agent
from wmtoolkit.agents.registry import PERFECT, SAVED, needs
from wmtoolkit.benchmarks.explain import Explanation
from wmtoolkit.benchmarks.films import film_frame, padded
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.envs.observability import PartialObservability
from wmtoolkit.envs.real import make_real_env
from wmtoolkit.envs.rendering import check_video, write_video
from wmtoolkit.errors import UserError, error_line
from wmtoolkit.evaluation.intervals import bootstrap_mean, wilson
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.progress import progress
from wmtoolkit.world import grid

IMAGINED = "wmtoolkit:AnyOrderWM-BabyAI"
AgentFactory = Callable[[gymnasium.Env], Agent]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        seed: that reset the level.
        success: it ended in the mission's success.
        episode_return: sum of rewards.
        length: steps taken; of an episode in which the agent raised, those before.
        decisions: actions chosen; the length, or one more if the last choice raised.
        seconds: spent by the agent in choosing; slowest: in its longest decision.
        forward_passes: of the model, as the agent counts them.
        error: what the agent raised, if it did; the episode then counts as failed.
    """

    seed: int
    success: bool
    episode_return: float
    length: int
    decisions: int
    seconds: float
    slowest: float
    forward_passes: int
    error: str | None = None


def run_episodes(
    agent: str | AgentFactory,
    level: str = DEFAULT_LEVEL,
    seeds: Sequence[int] = range(100),
    *,
    world_model: WorldModel | None = None,
    imagined: bool = False,
    temperature: float = 1.0,
    start: str = "level",
    mask_ratio: float = 0.0,
    budget: Mapping[str, Any] | None = None,
    video: str | Path | None = None,
    video_seed: int | None = None,
    explain: Path | None = None,
) -> list[EpisodeResult]:
    """Run one episode a seed. An agent that raises loses that episode and goes on with the next; a ``UserError`` in the
    first one is the caller's mistake and ends the run.

    Args:
        agent: a name for ``make_agent``, or a function that makes the agent for an environment.
        level: id of the level.
        seeds: each resets the level and the agent, so results of two agents are paired.
        world_model: what planners imagine with, and what an imagined level takes place in.
        imagined: whether the episodes take place in the world model.
        temperature: of what is imagined then; at 0 nothing ever comes into view but what is likeliest there, so that
            what the mission names and the first view does not show is never found.
        start: where imagination begins, see ``ImaginationEnv``.
        mask_ratio: probability that a cell of an observation is hidden.
        budget: options of a named agent.
        video: GIF or MP4 of one episode.
        video_seed: of that episode; None: the first.
        explain: folder for a page and a film that explain the decisions of the same episode.

    Returns:
        One result a seed, in order.

    Raises:
        UserError: for an unknown level, agent or option, or what is missing for it.
    """
    if isinstance(agent, str):
        check_perfect(agent, imagined=imagined, masked=bool(mask_ratio))
    if video is not None:
        check_video(video)
    film = seeds[0] if video_seed is None else video_seed
    if film not in seeds:
        raise UserError(f"the video's seed {film} is not among the episodes' seeds")
    env = _environment(
        level, world_model, imagined, temperature, start, mask_ratio, render=video is not None or explain is not None
    )
    try:
        actor = make_agent(agent, budget, world_model=world_model, env=env) if isinstance(agent, str) else agent(env)
        results: list[EpisodeResult] = []
        with progress("rollout", total=len(seeds)) as bar:
            for seed in seeds:
                frames: list[np.ndarray] | None = [] if video is not None and seed == film else None
                name = agent if isinstance(agent, str) else "an agent"
                notes = Explanation(f"{name} in {level}, seed {seed}") if explain and seed == film else None
                try:
                    result = run_episode(actor, env, int(seed), frames, notes, strict=not results)
                except Exception as error:
                    if not results:
                        raise  # nothing is lost yet
                    said = f"the level raised {error_line(error)}"
                    result = EpisodeResult(int(seed), False, 0.0, 0, 0, 0.0, 0.0, 0, said)
                    _log.debug("the level raised in the episode of seed %d", seed, exc_info=error)
                results.append(result)
                try:
                    if frames and video is not None:
                        write_video(video, padded(frames), fps=2)
                    if notes and explain:
                        notes.write(explain)
                except OSError as error:
                    if len(results) == 1:
                        raise  # nothing is lost yet
                    _log.warning("the pictures of seed %d could not be written (%s)", seed, error)
                bar.advance(info=f"success {sum(r.success for r in results)}/{len(results)}")
    finally:
        env.close()
    return results


def check_perfect(agent: str, *, imagined: bool, masked: bool) -> None:
    """Raise ``UserError`` where an agent that imagines with copies of the real level has none, or does not see it."""
    if agent.startswith(f"{PERFECT}:") and (imagined or masked):
        raise UserError(
            f"agent {agent!r} imagines with a copy of the real level, seen in full; use it without "
            + ("imagination (--imagined)" if imagined else "masking (--mask-ratio)")
        )


def rollout(
    *,
    agent: str = "best-first",
    level: str = DEFAULT_LEVEL,
    checkpoint: str | Path | None = None,
    imagined: bool = False,
    temperature: float = 1.0,
    start: str = "level",
    episodes: int = 100,
    seed: int = 900_000,
    settings: Sequence[str] = (),
    trust: bool = False,
    mask_ratio: float = 0.0,
    video: Path | None = None,
    video_episode: int = 0,
    explain: Path | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Load what is needed, run episodes of a named agent and report.

    Args:
        agent, level, imagined, temperature, start, mask_ratio, video, explain: see ``run_episodes``.
        checkpoint: folder of the world model; None: the packaged one. Not loaded where nothing needs it.
        episodes: number of episodes; episode i takes level seed ``seed + i``.
        settings: options of the agent, each ``key=value``.
        trust: allow an agent to read a file that runs code.
        video_episode: number of the filmed or explained episode, from 0.
        out: folder for ``results.json``.

    Returns:
        The document of ``results.json``, and a summary in ``text``.

    Raises:
        UserError: see ``run_episodes``; also for a missing or broken checkpoint.
    """
    arguments = {key: value for key, value in locals().items() if key != "out"}
    budget = dict(_setting(setting) for setting in settings) | ({"trust": True} if trust else {})
    world_model: WorldModel | None = None
    identity: dict[str, str] | None = None
    if imagined or "world_model" in needs(agent):
        world_model, identity = _load(checkpoint)
    elif agent.startswith(f"{SAVED}:") and (found := saved_hash(agent)):
        identity = {"path": agent.partition(":")[2], "sha256": found}
    seeds = range(seed, seed + episodes)
    if (video or explain) and video_episode >= episodes:
        raise UserError(f"the video's episode {video_episode} is not among the {episodes} episodes, counted from 0")
    results = run_episodes(
        agent,
        level,
        seeds,
        world_model=world_model,
        imagined=imagined,
        temperature=temperature,
        start=start,
        mask_ratio=mask_ratio,
        budget=budget,
        video=video,
        video_seed=seed + video_episode if video or explain else None,
        explain=explain,
    )
    metrics = summarise(results)
    document = results_document("rollout", arguments, metrics, rows(results), seed=seed, checkpoint=identity)
    if out is not None:
        write_json(out / "results.json", document)
    text = summary_text(agent, level, imagined, metrics, results)
    for path in (out / "results.json" if out else None, video, explain / "index.html" if explain else None):
        text += f"\nwrote {path}" if path and Path(path).is_file() else ""
    return {**document, "text": text}


def run_episode(
    agent: Agent,
    env: gymnasium.Env,
    seed: int,
    frames: list[np.ndarray] | None = None,
    notes: Explanation | None = None,
    strict: bool = False,
) -> EpisodeResult:
    """Run one episode from ``seed`` to its end; ``frames`` and ``notes``, if given, are added to at each decision.

    What the agent raises ends the episode and is its ``error``; with ``strict`` a ``UserError`` goes on to the caller.
    """
    observation, info = env.reset(seed=seed)
    total, length, decisions, seconds, slowest, forward_passes = 0.0, 0, 0, 0.0, 0.0, 0
    terminated = truncated = False
    reward, error = 0.0, None
    before: dict[str, Any] = {}
    now: dict[str, Any] = {}
    while not (terminated or truncated):
        started = time.perf_counter()
        try:
            if decisions == 0:
                agent.reset(seed)
            decisions += 1
            action = int(agent.act(observation))
            if action not in range(len(grid.ACTIONS)):
                raise ValueError(f"it chose action {action}, which is none of 0 to {len(grid.ACTIONS) - 1}")
            headline = f"step {length}: {grid.ACTIONS[action]}"
            now = dict(getattr(agent, "diagnostics", {}))
            forward_passes += int(now.get("forward_passes", 0))
        except Exception as raised:
            if strict and isinstance(raised, UserError):
                raise
            error = f"{type(raised).__name__}: {raised}"
            _log.debug("the agent raised in the episode of seed %d", seed, exc_info=raised)
        taken = time.perf_counter() - started
        seconds, slowest = seconds + taken, max(slowest, taken)
        if error is not None:
            break
        if frames is not None:
            frames.append(film_frame(env, observation, info, before, now, headline))
        if notes is not None:
            notes.note(env, observation, info, before, now, headline, action)
        before = now
        observation, raw_reward, terminated, truncated, info = env.step(action)
        reward = float(raw_reward)
        total += reward
        length += 1
    success = bool(terminated and reward > 0)
    end = "the agent raised" if error else "success" if success else "failure" if terminated else "time is up"
    if frames is not None:
        frames += 3 * [film_frame(env, observation, info, before, {}, f"step {length}: {end}")]
    if notes is not None:
        notes.note(env, observation, info, before, {}, f"step {length}: {end}", None)
    return EpisodeResult(seed, success, total, length, decisions, seconds, slowest, forward_passes, error)


def summarise(results: Sequence[EpisodeResult], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Metrics of episodes, each with value, ci95 (None where it has none) and n.

    ``success_rate`` has a Wilson interval, means have bootstrap intervals (``seed`` fixes them);
    ``decisions_per_second``, ``milliseconds_per_decision`` and ``forward_passes_per_decision`` are totals over
    totals; ``slowest_decision_milliseconds`` is that of all episodes; ``errors`` counts the episodes in which the agent
    or the level raised, which are no part of ``mean_episode_length``: they were cut short.
    """
    rng = np.random.default_rng(seed)
    count = len(results)
    successes = sum(result.success for result in results)
    decisions = sum(result.decisions for result in results)
    seconds = sum(result.seconds for result in results)
    passes = sum(result.forward_passes for result in results)

    def plain(value: float, n: int) -> dict[str, Any]:
        return {"value": value, "ci95": None, "n": n}

    metrics = {"success_rate": {"value": successes / count, "ci95": list(wilson(successes, count)), "n": count}}
    for name, field in (("mean_return", "episode_return"), ("mean_episode_length", "length")):
        values = np.array([getattr(result, field) for result in results if counts(name, result.error)], np.float64)
        found = {"value": float(values.mean()), "ci95": list(bootstrap_mean(values, rng))} if len(values) else None
        metrics[name] = {**(found or {"value": None, "ci95": None}), "n": len(values)}
    metrics["decisions_per_second"] = plain(decisions / max(seconds, 1e-9), decisions)
    metrics["milliseconds_per_decision"] = plain(1000 * seconds / max(decisions, 1), decisions)
    metrics["slowest_decision_milliseconds"] = plain(1000 * max(result.slowest for result in results), decisions)
    metrics["forward_passes_per_decision"] = plain(passes / max(decisions, 1), decisions)
    metrics["errors"] = plain(sum(result.error is not None for result in results), count)
    return metrics


def counts(mean: str, error: str | None) -> bool:
    """Whether an episode is part of a mean: one in which the agent raised has no length."""
    return mean != "mean_episode_length" or error is None


def rows(results: Sequence[EpisodeResult]) -> list[dict[str, Any]]:
    """One flat object an episode, for ``results.json``."""
    return [asdict(result) for result in results]


def summary_text(
    agent: str, level: str, imagined: bool, metrics: Mapping[str, Mapping[str, Any]], results: Sequence[EpisodeResult]
) -> str:
    """The metrics in a few lines for people."""
    success, length, returned = (metrics[n] for n in ("success_rate", "mean_episode_length", "mean_return"))
    count = success["n"]
    low, high = success["ci95"]
    lines = [
        f"{agent} in {'imagined' if imagined else 'real'} {level}, {count} episodes",
        f"  success  {round(success['value'] * count)}/{count} = {success['value']:.1%}"
        f"  (95 % interval {low:.1%} to {high:.1%})",
        f"  length   {length['value']:.2f} steps ({length['ci95'][0]:.2f} to {length['ci95'][1]:.2f})"
        if length["n"]
        else "  length   none: no episode came to its end",
        f"  return   {returned['value']:.3f} ({returned['ci95'][0]:.3f} to {returned['ci95'][1]:.3f})",
        f"  decision {metrics['milliseconds_per_decision']['value']:.1f} ms, "
        f"{metrics['forward_passes_per_decision']['value']:.2f} forward passes",
    ]
    if raised := [result for result in results if result.error]:
        lines.append(
            f"  errors   raised in {len(raised)} episodes, which count as failed; first in that of seed "
            f"{raised[0].seed}: {raised[0].error}"
        )
    return "\n".join(lines)


def saved_hash(agent: str) -> str | None:
    """sha256 of what is in the file or folder that ``KIND:PATH`` names; None if there is none."""
    path = Path(agent.partition(":")[2])
    path = path / "policy" if (path / "policy").is_dir() else path
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not all(file.is_file() for file in files):
        return None
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UserError(f"--set {text!r}: write key=value, for example max_nodes=200")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _load(checkpoint: str | Path | None) -> tuple[WorldModel, dict[str, str]]:
    """A world model and what identifies it."""
    from wmtoolkit.world.checkpoint import checkpoint_hash
    from wmtoolkit.world.model import AnyOrderWorldModel

    model = AnyOrderWorldModel.from_pretrained(checkpoint)
    assert model.path is not None
    return model, {"path": str(checkpoint or "packaged"), "sha256": checkpoint_hash(model.path)}


def _environment(
    level: str,
    world_model: WorldModel | None,
    imagined: bool,
    temperature: float,
    start: str,
    mask_ratio: float,
    render: bool,
) -> gymnasium.Env:
    if not 0 <= mask_ratio <= 1:
        raise UserError(f"mask ratio is a probability, not {mask_ratio}")
    env: gymnasium.Env
    mode = "rgb_array" if render else None
    if start != "level" and not imagined:
        raise UserError(f"start {start!r} is of imagination: it needs --imagined")
    if imagined:
        if world_model is None:
            raise UserError("an imagined level needs a world model; give a checkpoint")
        env = gymnasium.make(
            IMAGINED,
            level=level,
            checkpoint=world_model,
            start=start,
            temperature=temperature,
            render_mode=mode,
            disable_env_checker=True,
        )
    else:
        env = make_real_env(level, render_mode=mode)
    return PartialObservability(env, cell_dropout=mask_ratio) if mask_ratio else env
