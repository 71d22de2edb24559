"""Many imagined episodes at once: ``gym.make_vec("AnyOrderWM-BabyAI", num_envs=n)``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.envs.checkpoints import load_world_model, warn_of_unknown_level
from wmtoolkit.envs.checks import whole
from wmtoolkit.envs.imagination import RENDER_FPS, check_options, checked_action, step_info, success_reward
from wmtoolkit.envs.lanes import lane_seeds
from wmtoolkit.envs.probabilities import certain
from wmtoolkit.envs.recording import Recorder
from wmtoolkit.envs.rendering import draw_view
from wmtoolkit.envs.starts import Opening, Starts, begin, recordings, shown_memory
from wmtoolkit.errors import UserError
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.rollout import RolloutState
from wmtoolkit.world.trajectory import Outcome, Trajectory


@dataclass(frozen=True)
class Snapshot:
    """Everything that decides how the lanes of an ``ImaginationVectorEnv`` go on; see ``save`` there."""

    state: RolloutState
    before: tuple[RolloutState, np.ndarray] | None
    missions: tuple[str, ...]
    steps: np.ndarray
    elapsed: np.ndarray
    limits: np.ndarray
    ended: np.ndarray
    recorders: tuple[Recorder, ...]
    streams: tuple[tuple[Mapping[str, Any], torch.Tensor, Mapping[str, Any]], ...]


class ImaginationVectorEnv(VectorEnv[dict[str, Any], np.ndarray, np.ndarray]):
    """``ImaginationEnv`` in n lanes, all in one batch: a step passes twice through the network (what has been seen,
    then the frame to come; this once for each of ``decoding_steps``), however many lanes there are; up to four lanes
    that decode in one round take one pass for both.

    Lane i reset with seed s goes as a single environment reset with seed s + i: no lane attends to another and each has
    random streams of its own. Batches of other sizes are computed with other roundings, though: in ``float32`` they
    move probabilities in the sixth digit, and greedy lanes show the same frames; in ``bf16`` a close call may go the
    other way.

    Args:
        num_envs: number of lanes.
        level, checkpoint, start, dataset, temperature, decoding_steps, memory, max_steps, device, precision: as for
            ``ImaginationEnv``.
        max_episode_steps: truncates an episode after so many imagined steps, whatever ``max_steps`` says.
        autoreset_mode: ``AutoresetMode.SAME_STEP`` (a finished lane starts anew within the step; its last observation
            and info are in ``infos["final_obs"]`` and ``infos["final_info"]``) or ``DISABLED`` (finished lanes wait
            for ``reset(options={"reset_mask": bool array})``).
        render_mode: ``"rgb_array"`` or None.

    Raises:
        UserError: as ``ImaginationEnv``.
        gymnasium.error.ResetNeeded: for a step before ``reset``, or of a finished lane when autoreset is disabled.
        gymnasium.error.InvalidAction: for an action outside 0..6.
    """

    def __init__(
        self,
        num_envs: int = 1,
        level: str = DEFAULT_LEVEL,
        checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None = None,
        start: str | Trajectory = "level",
        *,
        dataset: str | os.PathLike[str] | Sequence[Trajectory] | None = None,
        temperature: float = 0.0,
        decoding_steps: int = 1,
        memory: int | None = None,
        max_steps: int | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        check_options(temperature, decoding_steps, render_mode)
        num_envs = whole(num_envs, "num_envs")
        if max_episode_steps is not None:
            whole(max_episode_steps, "max_episode_steps")
        if render_mode == "human":
            raise UserError("render_mode 'human' shows one environment; use gym.make, or render_mode='rgb_array'")
        mode = _autoreset_mode(autoreset_mode)
        episodes = recordings(dataset, level)
        self.starts = [Starts(level, start, episodes, max_steps) for _ in range(num_envs)]
        self.world_model = load_world_model(checkpoint, device, precision)
        warn_of_unknown_level(self.world_model, level)
        self.memory = shown_memory(start, self.world_model, memory)
        self.temperature = temperature
        self.decoding_steps = decoding_steps
        self.max_episode_steps = max_episode_steps
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.autoreset_mode = mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS, "autoreset_mode": mode}
        real = self.starts[0].level
        self.single_observation_space, self.single_action_space = real.observation_space, real.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._generators = [torch.Generator() for _ in range(num_envs)]
        self._state: RolloutState | None = None
        self._before: tuple[RolloutState, np.ndarray] | None = None
        self._missions = [""] * num_envs
        self._recorders: list[Recorder] = []
        self._steps = np.zeros(num_envs, dtype=np.int64)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._limits = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=bool)

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """The imagined episode of each lane so far, its beginning included."""
        self._running()
        return tuple(recorder.so_far for recorder in self._recorders)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start every lane anew, or those of ``options["reset_mask"]`` (bool (n,)).

        ``options["start"]``: a trajectory, or a list of one (or None) a lane, to continue from instead.
        """
        seeds = lane_seeds(seed, self.num_envs)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask must be bool ({self.num_envs},) with at least one True")
        if self._state is None and not mask.all():
            raise ResetNeeded("no episodes yet: the first reset() is of all lanes")
        lanes = np.flatnonzero(mask)
        given = self._given((options or {}).get("start"), lanes)  # refused before anything has changed
        super().reset(seed=seeds[0])
        if not self._rngs:
            self._rngs = [seeding.np_random()[0] for _ in range(self.num_envs)]
        for lane in lanes:
            if (own := seeds[lane]) is not None:
                self._rngs[lane] = seeding.np_random(own)[0]
        self._begin(lanes, seeds, given)
        infos: dict[str, Any] = {}
        for lane in lanes:
            infos = self._add_info(infos, step_info(self._running(), lane, self._recorders[lane]), int(lane))
        return self._observation(), infos

    def step(self, actions: np.ndarray) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        state = self._running()
        if self._ended.any():
            lanes = ", ".join(map(str, np.flatnonzero(self._ended)))
            raise ResetNeeded(f"lanes {lanes} have ended: reset(options={{'reset_mask': ...}}) before step()")
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions were given for {self.num_envs} lanes")
        acts = np.array([checked_action(action) for action in actions])
        self._before = state, acts
        self._state = state.step(
            acts,
            temperature=self.temperature,
            steps=self.decoding_steps,
            generator=self._generators,
        )
        self._steps += 1
        self._elapsed += 1
        outcomes = self._state.sampled_outcomes
        rewards = np.where(outcomes == Outcome.SUCCESS, success_reward(self._steps, self._limits), 0.0)
        terminations = np.isin(outcomes, (Outcome.SUCCESS, Outcome.FAILURE))
        truncations = self._steps >= self._limits
        if self.max_episode_steps is not None:
            truncations |= self._elapsed >= self.max_episode_steps
        ended = terminations | truncations
        self._record(acts, rewards, terminations, truncations)
        final: dict[str, Any] = {}
        if ended.any() and self.autoreset_mode is AutoresetMode.SAME_STEP:
            finished = np.flatnonzero(ended)
            last = self._observation()
            for lane in finished:
                observation = {key: values[lane] for key, values in last.items()}
                info = step_info(self._state, lane, self._recorders[lane])
                final = self._add_info(final, {"final_obs": observation, "final_info": info}, int(lane))
            self._begin(finished, [None] * self.num_envs, {})
        else:
            self._ended = ended
        return self._observation(), rewards, terminations, truncations, {**self._infos(), **final}

    def save(self) -> Snapshot:
        """The lanes as they are, random streams included, to ``restore`` any number of times; costs no forward pass."""
        state = self._running()
        streams = tuple(
            (rng.bit_generator.state, generator.get_state(), start.level.np_random.bit_generator.state)
            for rng, generator, start in zip(self._rngs, self._generators, self.starts, strict=True)
        )
        counts = (self._steps.copy(), self._elapsed.copy(), self._limits.copy(), self._ended.copy())
        recorders = tuple(recorder.fork() for recorder in self._recorders)
        return Snapshot(state, self._before, tuple(self._missions), *counts, recorders, streams)

    def restore(self, snapshot: Snapshot) -> dict[str, Any]:
        """Go back to a ``save`` of this environment; returns the observations of then."""
        if len(snapshot.missions) != self.num_envs:
            raise ValueError(f"the snapshot has {len(snapshot.missions)} lanes, the environment {self.num_envs}")
        self._state, self._before, self._missions = snapshot.state, snapshot.before, list(snapshot.missions)
        self._steps, self._elapsed = snapshot.steps.copy(), snapshot.elapsed.copy()
        self._limits, self._ended = snapshot.limits.copy(), snapshot.ended.copy()
        self._recorders = [recorder.fork() for recorder in snapshot.recorders]
        for lane, (rng, generator, level) in enumerate(snapshot.streams):
            self._rngs[lane].bit_generator.state = rng
            self._generators[lane].set_state(generator)
            self.starts[lane].level.np_random.bit_generator.state = level
        return self._observation()

    def keep(self, mask: np.ndarray) -> dict[str, Any]:
        """Drop all lanes but those of ``mask`` (bool (n,)) for good, e.g. those whose episodes have ended and that are
        not to begin anew; the rest go on as they would have. Returns their observations."""
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"mask must be bool ({self.num_envs},) with at least one True")
        state, lanes = self._running(), np.flatnonzero(mask)
        self._state = state.select(lanes)
        if self._before is not None:
            self._before = self._before[0].select(lanes), self._before[1][lanes]
        for name in ("starts", "_rngs", "_generators", "_missions", "_recorders"):
            setattr(self, name, [getattr(self, name)[lane] for lane in lanes])
        for name in ("_steps", "_elapsed", "_limits", "_ended"):
            setattr(self, name, getattr(self, name)[lanes])
        self.num_envs = len(lanes)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        return self._observation()

    def cell_probabilities(self) -> np.ndarray:
        """``ImaginationEnv.cell_probabilities`` of every lane, (n, 7, 7, 11, 6, 4) float32, in one pass."""
        known = certain(self._running().images)
        if self._before is None:
            return known
        state, actions = self._before
        imagined = (self._elapsed > 0)[:, None, None, None, None, None]
        return np.where(imagined, state.cell_probabilities(actions), known)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One picture a lane, (224, 224, 3) uint8, uncertain cells faded."""
        if self.render_mode is None:
            return None
        state = self._running()
        return tuple(draw_view(image, sure) for image, sure in zip(state.images, state.confidence, strict=True))

    def _given(self, start: Any, lanes: np.ndarray) -> dict[int, Opening]:
        """The beginnings of those ``lanes`` whose trajectories ``start`` gives."""
        if not isinstance(start, (list, tuple)):
            start = [start] * self.num_envs
        if len(start) != self.num_envs:
            raise UserError(
                f"start: {len(start)} trajectories for {self.num_envs} lanes; give one, or one (or None) a lane"
            )
        return {int(lane): self.starts[lane].continuation(start[lane]) for lane in lanes if start[lane] is not None}

    def _begin(self, lanes: np.ndarray, seeds: Sequence[int | None], given: Mapping[int, Opening]) -> None:
        openings = []
        for lane in lanes:
            rng, generator = self._rngs[lane], self._generators[lane]
            generator.manual_seed(int(rng.integers(2**63)))
            openings.append(given.get(int(lane)) or self.starts[lane].draw(seeds[lane], rng))
        fresh, histories = begin(self.world_model, openings, [self._generators[lane] for lane in lanes], self.memory)
        self._state = fresh if len(lanes) == self.num_envs else self._running().replace(lanes, fresh)
        self._recorders = self._recorders or [Recorder(history) for history in histories]
        for lane, opening, history in zip(lanes, openings, histories, strict=True):
            self._missions[lane] = opening.mission
            self._recorders[lane] = Recorder(history)
            self._steps[lane] = len(history)
            self._limits[lane] = opening.max_steps
        self._elapsed[lanes] = 0
        self._ended[lanes] = False

    def _record(
        self, actions: np.ndarray, rewards: np.ndarray, terminations: np.ndarray, truncations: np.ndarray
    ) -> None:
        state = self._running()
        shown = zip(state.images, state.directions.tolist(), strict=True)
        told = zip(actions.tolist(), rewards.tolist(), terminations.tolist(), truncations.tolist(), strict=True)
        for recorder, (image, direction), (action, *ends) in zip(self._recorders, shown, told, strict=True):
            recorder.add(action, {"image": image, "direction": direction}, *ends)

    def _running(self) -> RolloutState:
        if self._state is None:
            raise ResetNeeded("no episodes yet: call reset() first")
        return self._state

    def _observation(self) -> dict[str, Any]:
        state = self._running()
        return {"image": state.images.copy(), "direction": state.directions.copy(), "mission": tuple(self._missions)}

    def _infos(self) -> dict[str, Any]:
        state = self._running()
        everywhere = np.ones(self.num_envs, dtype=bool)
        arrays = {
            "log_prob": state.log_prob.astype(np.float64),
            "confidence": state.confidence.copy(),
            "outcome_probabilities": state.outcomes.copy(),
            "trajectory": np.fromiter(self.trajectories, dtype=object, count=self.num_envs),
        }
        return {**arrays, **{f"_{key}": everywhere.copy() for key in arrays}}


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    """The mode that is meant, or ``UserError``."""
    try:
        chosen = AutoresetMode(mode)
    except ValueError:
        raise UserError(f"autoreset_mode {mode!r} is not one of SameStep, Disabled") from None
    if chosen is AutoresetMode.NEXT_STEP:
        raise UserError("autoreset_mode is SameStep or Disabled; NextStep would waste a forward pass a lane")
    return chosen
