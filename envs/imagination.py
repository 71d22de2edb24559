"""The world model as a Gymnasium environment: ``gym.make("AnyOrderWM-BabyAI")``."""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.error import InvalidAction, ResetNeeded

from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.envs.checkpoints import load_world_model, warn_of_unknown_level
from wmtoolkit.envs.checks import whole
from wmtoolkit.envs.probabilities import certain
from wmtoolkit.envs.recording import Recorder
from wmtoolkit.envs.rendering import draw_view
from wmtoolkit.envs.starts import Starts, begin, recordings, shown_memory
from wmtoolkit.envs.window import Window
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.rollout import RolloutState
from wmtoolkit.world.trajectory import Outcome, Trajectory

RENDER_MODES = ("human", "rgb_array")
RENDER_FPS = 4


class ImaginationEnv(gymnasium.Env[dict[str, Any], np.int64]):
    """A BabyAI/MiniGrid level that takes place in the world model.

    ## Description
    The first observation comes from the real level, a dataset, the model itself or a given trajectory; everything
    after it is predicted. An agent moves between this and the real level without a change.

    ## Mission Space
    That of the real level.

    ## Action Space
    ``Discrete(7)``: left, right, forward, pickup, drop, toggle, done.

    ## Observation Space
    That of the real level: a dict of ``image`` (7, 7, 3) uint8, ``direction`` 0-3 and ``mission``.

    ## Rewards
    MiniGrid's: ``1 - 0.9 * steps / max_steps`` when the model predicts SUCCESS, else 0.

    ## Termination
    The predicted outcome is SUCCESS or FAILURE. Truncated at ``max_steps``.

    ## Info
    ``log_prob`` (float, nats, of the frame just imagined; 0 for a real one), ``confidence`` (7, 7) float32
    (probability of each shown cell; 1 for real ones), ``outcome_probabilities`` (4,) float32 in the order of
    ``Outcome``, and ``trajectory``, the imagined ``Trajectory`` so far, its beginning included: as of this step
    whatever comes later, and put together only if it is read.

    Args:
        level: id of the real level.
        checkpoint: folder of a checkpoint or a loaded ``AnyOrderWorldModel``; None: the packaged one.
        start: ``"level"``, ``"look_around"``, ``"dataset"``, ``"branch"``, ``"dream"`` or a ``Trajectory`` to continue
            (see ``starts.Starts``).
            ``reset(options={"start": trajectory})`` continues from a trajectory for one episode.
        dataset: Minari id, folder or trajectories, for ``start="dataset"`` and ``"branch"``.
        temperature: 0 takes the most probable next frame, in which what was never seen is nearly always bare floor or
            wall; above, it is sampled: for agents that are to find something, 1.
        decoding_steps: 1 decodes all cells of a frame in parallel; n in n rounds, most confident first.
        memory: how much of the past the model is shown: that many remembered cells (a model without ``world.memory``:
            frames before the newest), at most as many as it was trained with; None: all of them; 0: it knows the newest
            frame alone, and makes up anew what it turns back to.
        max_steps: the limit; None: what the real level computes at its reset for the mission.
        render_mode: ``"rgb_array"`` (the view with MiniGrid's tiles, uncertain cells faded), ``"human"`` or None.
        device: where a checkpoint is loaded; None: the CPU.
        precision: of a checkpoint's passes, ``"auto"``, ``"float32"`` or ``"bf16"``, see ``load_world_model``.

    Raises:
        UserError: for an unknown level or start, a missing checkpoint or dataset, words the model does not know.
        UserWarning: if the model was not trained on the level.
        gymnasium.error.InvalidAction: for an action outside 0..6.
        gymnasium.error.ResetNeeded: for a step or a picture before ``reset``, or a step after the end.
    """

    metadata: dict[str, Any] = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        level: str = DEFAULT_LEVEL,
        checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None = None,
        start: str | Trajectory = "level",
        *,
        dataset: str | os.PathLike[str] | Sequence[Trajectory] | None = None,
        temperature: float = 0.0,
        decoding_steps: int = 1,
        memory: int | None = None,
        max_steps: int | None = None,
        render_mode: str | None = None,
        device: str | torch.device | None = None,
        precision: str = "auto",
    ) -> None:
        check_options(temperature, decoding_steps, render_mode)
        self.starts = Starts(level, start, recordings(dataset, level), max_steps)
        self.world_model = load_world_model(checkpoint, device, precision)
        warn_of_unknown_level(self.world_model, level)
        self.memory = shown_memory(start, self.world_model, memory)
        self.temperature = temperature
        self.decoding_steps = decoding_steps
        self.render_mode = render_mode
        self.observation_space = self.starts.level.observation_space
        self.action_space = self.starts.level.action_space
        self.max_steps = 0
        self._generator = torch.Generator()
        self._recorder: Recorder | None = None
        self._before: tuple[RolloutState, np.ndarray] | None = None
        self._ended = False
        self._window: Window | None = None

    @property
    def trajectory(self) -> Trajectory:
        """The imagined episode so far, its beginning included."""
        return self._running().trajectory

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        start = (options or {}).get("start")
        given = None if start is None else self.starts.continuation(start)  # refused before anything has changed
        super().reset(seed=seed)
        self._generator.manual_seed(int(self.np_random.integers(2**63)))
        opening = given or self.starts.draw(seed, self.np_random)
        self._state, (history,) = begin(self.world_model, [opening], [self._generator], self.memory)
        self._recorder, self._before = Recorder(history), None
        self.max_steps = opening.max_steps
        self._ended = False
        if self.render_mode == "human":
            self._show()
        return history.observation(), step_info(self._state, 0, self._recorder)

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        recorder = self._running()
        if self._ended:
            raise ResetNeeded("the episode has ended: call reset() before step()")
        act = checked_action(action)
        self._before = self._state, np.array([act])
        self._state = self._state.step(
            self._before[1], temperature=self.temperature, steps=self.decoding_steps, generator=self._generator
        )
        outcome = int(self._state.sampled_outcomes[0])
        reward = success_reward(len(recorder) + 1, self.max_steps) if outcome == Outcome.SUCCESS else 0.0
        terminated = outcome in (Outcome.SUCCESS, Outcome.FAILURE)
        truncated = len(recorder) + 1 >= self.max_steps
        observation = {
            "image": np.array(self._state.images[0], dtype=np.uint8),
            "direction": np.int64(self._state.directions[0]),
            "mission": recorder.history.mission,
        }
        recorder.add(act, observation, reward, terminated, truncated)
        self._ended = terminated or truncated
        if self.render_mode == "human":
            self._show()
        return observation, reward, terminated, truncated, step_info(self._state, 0, recorder)

    def cell_probabilities(self) -> np.ndarray:
        """What each cell of the present view might have held, as predicted before any cell was decided on: a pass of
        the network. A view that no step led to (real or dreamt) is as it is.

        Returns:
            (7, 7, 11, 6, 4) float32, ``[column, row, object, colour, state]`` by MiniGrid's ids; each cell's sum to 1.
        """
        self._running()
        if self._before is None:
            return certain(self._state.images)[0]
        state, action = self._before
        return state.cell_probabilities(action)[0]

    def render(self) -> np.ndarray | None:
        """The imagined view as (224, 224, 3) uint8, uncertain cells faded; in ``human`` mode it is shown instead."""
        self._running()
        if self.render_mode is None:
            gymnasium.logger.warn("render() needs gym.make(..., render_mode='rgb_array')")
            return None
        if self.render_mode == "human":
            self._show()
            return None
        return draw_view(self._state.images[0], self._state.confidence[0])

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _running(self) -> Recorder:
        if self._recorder is None:
            raise ResetNeeded("no episode yet: call reset() first")
        return self._recorder

    def _show(self) -> None:
        if self._window is None:
            self._window = Window(f"imagined {self.starts.name}", RENDER_FPS)
        picture = draw_view(self._state.images[0], self._state.confidence[0], tile_size=64)
        self._window.show(picture, self._running().history.mission)


def success_reward(steps: Any, max_steps: Any) -> Any:
    """MiniGrid's reward of a success after ``steps`` actions; numbers or arrays."""
    return 1 - 0.9 * (steps / max_steps)


def checked_action(action: Any) -> int:
    """The action as an int, or ``InvalidAction`` that lists the valid ones."""
    try:
        number = operator.index(action)
    except TypeError:
        number = -1
    if not 0 <= number < len(grid.ACTIONS):
        names = ", ".join(f"{index} {name}" for index, name in enumerate(grid.ACTIONS))
        raise InvalidAction(f"action {action!r} is not one of: {names}")
    return number


def check_options(temperature: float, decoding_steps: int, render_mode: str | None) -> None:
    """Raise ``UserError`` for a value that imagination cannot use."""
    if not isinstance(temperature, numbers.Real) or not temperature >= 0:
        raise UserError(f"temperature must be at least 0, not {temperature!r}")
    whole(decoding_steps, "decoding_steps")
    if render_mode not in (None, *RENDER_MODES):
        raise UserError(f"render_mode {render_mode!r} is not one of None, {', '.join(RENDER_MODES)}")


def step_info(state: RolloutState, row: int | np.integer, recorder: Recorder) -> dict[str, Any]:
    """The info of one lane, in fresh arrays."""
    return {
        "log_prob": float(state.log_prob[row]),
        "confidence": np.array(state.confidence[row], dtype=np.float32),
        "outcome_probabilities": np.array(state.outcomes[row], dtype=np.float32),
        "trajectory": recorder.so_far,
    }
