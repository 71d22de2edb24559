"""Belief completion: the world model fills in what is hidden before the agent sees it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from wmtoolkit.envs.checkpoints import load_world_model
from wmtoolkit.envs.checks import autoreset, known, probability, whole
from wmtoolkit.envs.lanes import lane_infos, lane_seeds
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import FIRST_CELL, Visibility
from wmtoolkit.world.trajectory import Trajectory

FILLS = ("mode", "sample", "gated")
_STREAM = 0xBE11EF
"""Keeps what belief draws apart from what the environment draws under the same seed."""


class Belief:
    """What the world model makes of the partly hidden observations of one episode.

    Args:
        world_model: completes the observations.
        fill: ``"mode"`` (the most likely cells), ``"sample"`` (drawn cells), or ``"gated"`` (the most likely where its
            probability reaches ``threshold``, else as shown).
        threshold: of ``"gated"``.
        window: newest frames that are completed together; None: as many as the model was trained on.
        decoding_steps: rounds of confidence-ordered filling.
    """

    def __init__(
        self,
        world_model: AnyOrderWorldModel,
        fill: str = "mode",
        threshold: float = 0.8,
        window: int | None = None,
        decoding_steps: int = 1,
    ) -> None:
        if fill not in FILLS:
            raise UserError(f"belief: fill {fill!r} is not one of {', '.join(FILLS)}")
        probability(threshold, "belief: threshold")
        if window is not None:
            whole(window, "belief: window")
        whole(decoding_steps, "belief: decoding_steps")
        self.world_model = world_model
        self.fill = fill
        self.threshold = threshold
        self.window = window or world_model.network.world.recent + 1
        self.decoding_steps = decoding_steps
        self.generator = torch.Generator()
        self.generator.seed()
        self._frames: list[tuple[Mapping[str, Any], np.ndarray, int]] = []

    @classmethod
    def of(cls, world_model: AnyOrderWorldModel, settings: Mapping[str, Any]) -> Belief:
        """A belief with ``settings`` by name; ``UserError`` for a name there is not."""
        known(settings, ("fill", "threshold", "window", "decoding_steps"), "belief")
        return cls(world_model, **settings)

    def start(self, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Take the first observation of an episode; ``info`` may hold ``visible`` (7, 7, 3) bool."""
        self._frames = [(observation, _visible(observation, info), -1)]

    def check_started(self) -> None:
        """Raise ``ResetNeeded`` before the first episode."""
        if not self._frames:
            raise ResetNeeded("no episode yet: call reset() first")

    def add(self, action: int, observation: Mapping[str, Any], info: Mapping[str, Any]) -> None:
        """Take what followed an action."""
        self._frames.append((observation, _visible(observation, info), action))
        del self._frames[: -self.window]

    def evidence(self) -> tuple[Trajectory, Visibility]:
        """The frames of the window as shown, and what of them is visible."""
        observations, visible, actions = zip(*self._frames, strict=True)
        count = len(actions) - 1
        history = replace(
            Trajectory.start(observations[0]),
            images=np.stack([observation["image"] for observation in observations]),
            directions=np.array([int(observation["direction"]) for observation in observations]),
            actions=np.array(actions[1:], dtype=np.int64),
            rewards=np.zeros(count, np.float32),
            terminations=np.zeros(count, bool),
            truncations=np.zeros(count, bool),
        )
        return history, replace(Visibility.full(count), images=np.stack(visible))


def believed(beliefs: Sequence[Belief]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The newest views of n beliefs of one world model and settings, completed in one batch.

    Returns:
        For each, the view (7, 7, 3) uint8 and the probability (7, 7) float32 of each cell shown: 1 for what was
        visible, 0 for what stays hidden.
    """
    first = beliefs[0]
    histories, visible = zip(*(belief.evidence() for belief in beliefs), strict=True)
    completions = first.world_model.belief(
        histories,
        visible,
        steps=first.decoding_steps,
        temperature=1.0 if first.fill == "sample" else 0.0,
        generator=[belief.generator for belief in beliefs],
    )
    views = []
    for history, seen, completion in zip(histories, visible, completions, strict=True):
        confidence = completion.confidence[-1, FIRST_CELL:].reshape(grid.VIEW, grid.VIEW).astype(np.float32)
        view = np.where(seen.images[-1], history.images[-1], completion.trajectory.images[-1])
        if first.fill == "gated":
            kept = (confidence >= first.threshold) | seen.images[-1].all(axis=-1)
            view = np.where(kept[..., None], view, history.images[-1])
            confidence = np.where(kept, confidence, 0).astype(np.float32)
        views.append((view.astype(np.uint8), confidence))
    return views


class BeliefCompletion(gymnasium.Wrapper, RecordConstructorArgs):
    """Shows the agent what the world model believes instead of what is hidden.

    What is hidden is told by ``info["visible"]`` (see ``PartialObservability``); without it, every cell shown as unseen
    counts as hidden. ``info["belief_confidence"]`` (7, 7) float32 is the probability of each cell shown: 1 for what was
    visible, 0 for what stays hidden.

    Args:
        env: an environment whose observations are dicts of image, direction and mission.
        checkpoint: folder of a checkpoint or a loaded model; None: the packaged one.
        device, precision: of a checkpoint that is loaded, see ``load_world_model``.
        settings: ``fill``, ``threshold``, ``window``, ``decoding_steps`` of ``Belief``.

    Raises:
        UserError: for a missing checkpoint, an unknown setting or a value out of range.
        gymnasium.error.ResetNeeded: for a step before ``reset``.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None = None,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
        **settings: Any,
    ) -> None:
        loading = {"checkpoint": checkpoint, "device": device, "precision": precision}
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **loading, **settings)  # a model is not copied
        gymnasium.Wrapper.__init__(self, env)
        self.belief = Belief.of(load_world_model(checkpoint, device, precision), settings)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self.belief.generator.manual_seed(_generator_seed(seed))
        self.belief.start(observation, info)
        return self._completed(observation, info)

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        self.belief.check_started()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.belief.add(int(action), observation, info)
        observation, info = self._completed(observation, info)
        return observation, reward, terminated, truncated, info

    def _completed(
        self, observation: Mapping[str, Any], info: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        image, confidence = believed([self.belief])[0]
        return {**observation, "image": image}, {**info, "belief_confidence": confidence}


class VectorBeliefCompletion(VectorWrapper):
    """``BeliefCompletion`` of a vector environment: all lanes in one batch, each as it would be alone.

    Args:
        env: a vector environment that resets finished lanes in the same step, or not at all.
        checkpoint, device, precision, settings: as for ``BeliefCompletion``.

    Raises:
        UserError: as ``BeliefCompletion``, and for an environment that resets finished lanes in the next step.
    """

    def __init__(
        self,
        env: VectorEnv,
        checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None = None,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
        **settings: Any,
    ) -> None:
        super().__init__(env)
        autoreset(env, "belief completion", AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
        world_model = load_world_model(checkpoint, device, precision)
        self.beliefs = [Belief.of(world_model, settings) for _ in range(self.num_envs)]
        self._shown = [(np.zeros(0, np.uint8), np.zeros(0, np.float32))] * self.num_envs

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        lanes = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        observation, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        for lane in lanes:
            if (own := lane_seeds(seed, self.num_envs)[lane]) is not None:
                self.beliefs[lane].generator.manual_seed(_generator_seed(own))
        self._start(observation, infos, lanes)
        self._complete(lanes)
        return self._believed(observation, infos, lanes)

    def step(self, actions: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        self.beliefs[0].check_started()
        observation, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = np.flatnonzero(infos.get("_final_obs", np.zeros(self.num_envs, bool)))
        final_infos = lane_infos(infos.get("final_info", {}), self.num_envs)
        here, lane_info = _split(observation, self.num_envs), lane_infos(infos, self.num_envs)
        for lane, belief in enumerate(self.beliefs):
            last = lane in ended
            shown = infos["final_obs"][lane] if last else here[lane]
            belief.add(int(actions[lane]), shown, final_infos[lane] if last else lane_info[lane])
        everywhere = np.arange(self.num_envs)
        self._complete(everywhere)
        for lane in ended.tolist():
            image, confidence = self._shown[lane]
            infos["final_obs"][lane] = {**infos["final_obs"][lane], "image": image}
            infos["final_info"] = self._add_info(infos["final_info"], {"belief_confidence": confidence}, lane)
        self._start(observation, infos, ended)
        self._complete(ended)
        observation, infos = self._believed(observation, infos, everywhere)
        return observation, rewards, terminations, truncations, infos

    def _start(self, observation: Mapping[str, Any], infos: Mapping[str, Any], lanes: np.ndarray) -> None:
        here, info = _split(observation, self.num_envs), lane_infos(infos, self.num_envs)
        for lane in lanes:
            self.beliefs[lane].start(here[lane], info[lane])

    def _complete(self, lanes: np.ndarray) -> None:
        if len(lanes):
            for lane, shown in zip(lanes, believed([self.beliefs[lane] for lane in lanes]), strict=True):
                self._shown[lane] = shown

    def _believed(
        self, observation: Mapping[str, Any], infos: Mapping[str, Any], lanes: np.ndarray
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        images, confidence = (np.stack(parts) for parts in zip(*self._shown, strict=True))
        present = np.isin(np.arange(self.num_envs), lanes)
        return (
            {**observation, "image": images},
            {**infos, "belief_confidence": confidence, "_belief_confidence": present},
        )


def _visible(observation: Mapping[str, Any], info: Mapping[str, Any]) -> np.ndarray:
    if "visible" in info:
        return np.array(info["visible"], dtype=bool)
    seen = np.asarray(observation["image"])[..., 0] != grid.UNSEEN
    return np.repeat(seen[..., None], 3, axis=-1)


def _generator_seed(seed: int) -> int:
    return int(np.random.default_rng([seed, _STREAM]).integers(2**63))


def _split(observation: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    return [{key: values[lane] for key, values in observation.items()} for lane in range(num_envs)]
