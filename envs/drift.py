"""Imagination beside reality: how far k imagined steps drift from the real ones."""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from wmtoolkit.envs.checkpoints import load_world_model
from wmtoolkit.envs.checks import whole
from wmtoolkit.envs.recording import Recorder
from wmtoolkit.envs.rendering import draw_view, side_by_side
from wmtoolkit.envs.window import Window
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.trajectory import Outcome, Trajectory

_MEASURES = ("cell_accuracy", "frame_exact", "direction_equal", "outcome_equal")


class DriftCheck(gymnasium.Wrapper, RecordConstructorArgs):
    """Runs the world model beside a real environment, on the same actions, and reports where they part.

    Imagination branches from the real history, goes on alone for ``horizon`` steps, and branches anew.
    ``info["drift"]`` holds ``step`` (imagined steps since the branch), ``cell_accuracy`` (share of equal cells),
    ``frame_exact``, ``direction_equal``, ``outcome_equal`` (bools) and ``log_prob`` (nats, of the imagined step);
    ``info["imagined"]`` is the imagined view (7, 7, 3) uint8. ``render`` shows both views side by side; in ``human``
    mode their window takes the place of the level's own.

    Args:
        env: a real environment whose observations are dicts of image, direction and mission.
        checkpoint: folder of a checkpoint or a loaded model; None: the packaged one.
        horizon: imagined steps between two looks at reality.
        device, precision: of a checkpoint that is loaded, see ``load_world_model``.

    Raises:
        UserError: for a missing checkpoint or a horizon below 1.
        gymnasium.error.ResetNeeded: for a step before ``reset`` or after the end.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None = None,
        horizon: int = 8,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        self.horizon = whole(horizon, "horizon")
        loading = {"checkpoint": checkpoint, "device": device, "precision": precision}
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **loading, horizon=horizon)  # no copy of a model
        gymnasium.Wrapper.__init__(self, env)
        self.world_model = load_world_model(checkpoint, device, precision)
        self._render_mode = env.render_mode
        if self._render_mode == "human":
            env.unwrapped.render_mode = None  # one window is enough, see ``render``
        self._window: Window | None = None
        self._ended = False
        self._recorder: Recorder | None = None
        self._state: Any = None
        self.imagined_steps = 0
        self._counts = np.zeros(horizon, dtype=np.int64)
        self._sums = np.zeros((horizon, len(_MEASURES)))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._recorder = Recorder(Trajectory.start(observation, seed=seed))
        self._ended = False
        self._real = np.array(observation["image"])
        self.look()
        self._show()
        return observation, info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        recorder = self._running()
        if self._ended:
            raise ResetNeeded("the episode has ended: call reset() before step()")
        if self.imagined_steps == self.horizon or self.imagined_ending:
            self.look()
        observation, reward, terminated, truncated, info = self.env.step(action)
        recorder.add(int(action), observation, float(reward), terminated, truncated)
        self._state = self._state.step(np.array([int(action)]))
        self.imagined_steps += 1
        imagined = np.array(self._state.images[0], dtype=np.uint8)
        cells = (imagined == observation["image"]).all(axis=-1)
        outcome = Outcome.CONTINUE
        if terminated:
            outcome = Outcome.SUCCESS if float(reward) > 0 else Outcome.FAILURE
        drift = {
            "step": self.imagined_steps,
            "cell_accuracy": float(cells.mean()),
            "frame_exact": bool(cells.all()),
            "direction_equal": int(self._state.directions[0]) == int(observation["direction"]),
            "outcome_equal": int(self._state.sampled_outcomes[0]) == outcome,
            "log_prob": float(self._state.log_prob[0]),
        }
        self._counts[self.imagined_steps - 1] += 1
        self._sums[self.imagined_steps - 1] += [drift[name] for name in _MEASURES]
        self._ended = terminated or truncated
        self._real = np.array(observation["image"])
        self._show()
        return observation, reward, terminated, truncated, {**info, "drift": drift, "imagined": imagined}

    @property
    def imagined(self) -> tuple[np.ndarray, np.ndarray]:
        """The imagined view (7, 7, 3) uint8, and the probability of each of its cells (7, 7)."""
        self._running()
        return np.array(self._state.images[0], dtype=np.uint8), np.asarray(self._state.confidence[0])

    @property
    def imagined_ending(self) -> bool:
        """Whether imagination has come to an end; what would follow means nothing, so the next step looks again."""
        return self._state is not None and self._state.sampled_outcomes[0] in (Outcome.SUCCESS, Outcome.FAILURE)

    def look(self) -> None:
        """Let imagination branch from reality now, before the horizon is reached."""
        self._state = self.world_model.rollout_state([self._running().trajectory])
        self.imagined_steps = 0

    def report(self) -> list[dict[str, float]]:
        """Means over all steps so far, one row for each number of imagined steps since the branch that occurred."""
        rows = []
        for index in np.flatnonzero(self._counts):
            means = dict(zip(_MEASURES, (self._sums[index] / self._counts[index]).tolist(), strict=True))
            rows.append({"step": int(index) + 1, "n": int(self._counts[index]), **means})
        return rows

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """That of the environment it was made with."""
        return self._render_mode

    def render(self) -> np.ndarray | None:
        """Both views side by side, (H, W, 3) uint8, uncertain cells faded; in ``human`` mode they are shown instead."""
        self._running()
        if self._render_mode is None:
            gymnasium.logger.warn("render() needs an environment made with render_mode='rgb_array'")
            return None
        if self._render_mode == "human":
            self._show()
            return None
        return self._page()

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None
        super().close()

    def _show(self) -> None:
        if self._render_mode != "human":
            return
        if self._window is None:
            self._window = Window("real and imagined", self.metadata.get("render_fps", 4))
        self._window.show(self._page(), self._running().history.mission)

    def _page(self) -> np.ndarray:
        real = draw_view(self._real)
        imagined = draw_view(np.asarray(self._state.images[0]), np.asarray(self._state.confidence[0]))
        return side_by_side([real, imagined], ["real", f"imagined, {self.imagined_steps} steps"])

    def _running(self) -> Recorder:
        if self._recorder is None:
            raise ResetNeeded("no episode yet: call reset() first")
        return self._recorder
