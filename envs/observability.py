"""Partial observability: what an agent sees, made worse in measured ways, for real and imagined environments alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs, seeding
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from wmtoolkit.envs.checks import autoreset, known, probability, views
from wmtoolkit.envs.lanes import lane_infos, lane_seeds
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid

QUADRANTS: dict[str, tuple[slice, slice]] = {
    "far-left": (slice(0, 3), slice(0, 3)),
    "far-right": (slice(4, 7), slice(0, 3)),
    "near-left": (slice(0, 3), slice(3, 7)),
    "near-right": (slice(4, 7), slice(3, 7)),
}
"""Columns and rows of the view that an occlusion covers; the agent's own column stays free."""

_SHAPE = (grid.VIEW, grid.VIEW, 3)
_KEYS = ("visible", "partial_observability")
_THINGS = np.array([grid.OBJECTS.index(name) for name in ("key", "ball", "box")])
_COLORED = np.array([grid.OBJECTS.index(name) for name in ("door", "key", "ball", "box")])


@dataclass(frozen=True)
class Corruption:
    """How observations are made worse; probabilities are for each step.

    Attributes:
        cell_dropout: probability that a cell is hidden; it reads as MiniGrid's unseen.
        attribute_dropout: probability that one attribute (object, colour, state) of a cell is hidden; it reads 0,
            which for an object means unseen, but is also the id of red and of an open door: whoever is to tell a
            hidden colour or state from these must read ``info["visible"]``.
        color_noise: probability that a door, key, ball or box shows another colour.
        object_noise: probability that a key, ball or box shows as another of these.
        frame_dropout: probability that a whole frame after the first is lost.
        lost_frame: ``"stale"`` repeats the last image shown, ``"blank"`` shows nothing.
        view_size: odd number of columns and rows around the agent that are seen; 7 is the whole view.
        occlusion: a name in ``QUADRANTS``, ``"random"`` (one an episode), or None.
    """

    cell_dropout: float = 0.0
    attribute_dropout: float = 0.0
    color_noise: float = 0.0
    object_noise: float = 0.0
    frame_dropout: float = 0.0
    lost_frame: str = "stale"
    view_size: int = grid.VIEW
    occlusion: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "float":
                probability(getattr(self, field.name), f"partial observability: {field.name}")
        if self.lost_frame not in ("stale", "blank"):
            raise UserError(f"partial observability: lost_frame is 'stale' or 'blank', not {self.lost_frame!r}")
        if not isinstance(self.view_size, int) or self.view_size not in range(1, grid.VIEW + 1, 2):
            raise UserError(f"partial observability: view_size is 1, 3, 5 or 7, not {self.view_size!r}")
        if self.occlusion not in (None, "random", *QUADRANTS):
            names = ", ".join(QUADRANTS)
            raise UserError(f"partial observability: occlusion is None, 'random', {names}, not {self.occlusion!r}")


class ObservationFilter:
    """Applies a ``Corruption`` to the views of one lane, episode after episode."""

    def __init__(self, corruption: Corruption, rng: np.random.Generator) -> None:
        self.corruption = corruption
        self.rng = rng
        self.shown = np.zeros((grid.VIEW, grid.VIEW, 3), dtype=np.uint8)
        """The last image shown."""
        self._covered = np.zeros((grid.VIEW, grid.VIEW), dtype=bool)
        self._told = {**asdict(corruption), "frame_lost": False, "occluded": None}

    def told(self) -> dict[str, Any]:
        """What was done to the last view: every attribute of the corruption, ``frame_lost`` (bool) and ``occluded``
        (a name in ``QUADRANTS`` or None)."""
        return dict(self._told)

    def first(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first view of an episode; see ``next``."""
        covered = np.ones((grid.VIEW, grid.VIEW), dtype=bool)
        margin = (grid.VIEW - self.corruption.view_size) // 2
        covered[margin : grid.VIEW - margin, grid.VIEW - self.corruption.view_size :] = False
        occlusion = self.corruption.occlusion
        if occlusion == "random":
            occlusion = str(self.rng.choice(list(QUADRANTS)))
        self._told["occluded"] = occlusion
        if occlusion is not None:
            covered[QUADRANTS[occlusion]] = True
        self._covered = covered
        return self._filtered(image, lost=False)

    def next(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next view of the episode.

        Args:
            image: (7, 7, 3) uint8, the true view.

        Returns:
            What is shown, (7, 7, 3) uint8, and what of it may be relied on to be of this step, (7, 7, 3) bool.
            Noise cannot be told from truth and counts as visible.
        """
        lost = bool(self.rng.random() < self.corruption.frame_dropout)
        return self._filtered(image, lost)

    def _filtered(self, image: np.ndarray, lost: bool) -> tuple[np.ndarray, np.ndarray]:
        noise, rng = self.corruption, self.rng
        shown = np.array(image, dtype=np.uint8)
        # Every draw is made whatever happened, so that one seed gives the same cells at other strengths.
        chances = rng.random((3 + 2, grid.VIEW, grid.VIEW))
        shifts = rng.integers([[[1]], [[1]]], [[[len(_THINGS)]], [[len(grid.COLORS)]]], (2, grid.VIEW, grid.VIEW))
        hide_cell = rng.random((grid.VIEW, grid.VIEW)) < noise.cell_dropout
        wrong = np.isin(shown[..., 0], _THINGS) & (chances[3] < noise.object_noise)
        kinds = np.searchsorted(_THINGS, shown[..., 0]) + shifts[0]
        shown[..., 0] = np.where(wrong, _THINGS[kinds % len(_THINGS)], shown[..., 0])
        wrong = np.isin(shown[..., 0], _COLORED) & (chances[4] < noise.color_noise)
        shown[..., 1] = np.where(wrong, (shown[..., 1] + shifts[1]) % len(grid.COLORS), shown[..., 1])
        visible = np.moveaxis(chances[:3], 0, -1) >= noise.attribute_dropout
        visible &= ~(hide_cell | self._covered)[..., None]
        self._told["frame_lost"] = lost
        if lost:
            visible[:] = False
        shown = self.shown.copy() if lost and noise.lost_frame == "stale" else np.where(visible, shown, 0)
        self.shown = shown.astype(np.uint8)
        return self.shown.copy(), visible


class PartialObservability(gymnasium.Wrapper, RecordConstructorArgs):
    """Hides or falsifies parts of what a BabyAI-shaped environment shows; wrappers can be stacked.

    The noise has a stream of its own, spawned from the environment's ``np_random`` at a seeded reset, so the episode
    below stays what it is without the wrapper. ``info["visible"]`` (7, 7, 3) bool tells what is shown of this step
    (a stack of wrappers: by all of them); ``info["partial_observability"]``, a tuple of dicts, what each wrapper of the
    stack did, the innermost first (see ``ObservationFilter.told``).

    Args:
        env: an environment whose observations are dicts with ``image``.
        corruption: attributes of ``Corruption``, e.g. ``cell_dropout=0.3, occlusion="random"``.

    Raises:
        UserError: for a value out of range or an unknown name.
        gymnasium.error.ResetNeeded: for a step before ``reset``.
    """

    def __init__(self, env: gymnasium.Env, **corruption: Any) -> None:
        RecordConstructorArgs.__init__(self, **corruption)
        gymnasium.Wrapper.__init__(self, env)
        views(env.observation_space, _SHAPE, "partial observability")
        self.filter = ObservationFilter(_corruption(corruption), np.random.default_rng(0))
        self._seeded = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None or not self._seeded:
            self.filter.rng = self.env.np_random.spawn(1)[0]
            self._seeded = True
        return _applied(observation, info, self.filter, self.filter.first)

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        if not self._seeded:
            raise ResetNeeded("no episode yet: call reset() first")
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation, info = _applied(observation, info, self.filter, self.filter.next)
        return observation, reward, terminated, truncated, info


class VectorPartialObservability(VectorWrapper):
    """``PartialObservability`` of a vector environment; lane i gets what it would get alone with its seed.

    Args:
        env: a vector environment that resets finished lanes in the same step, or not at all.
        corruption: attributes of ``Corruption``.

    Raises:
        UserError: as ``PartialObservability``, and for an environment that resets finished lanes in the next step.
    """

    def __init__(self, env: VectorEnv, **corruption: Any) -> None:
        super().__init__(env)
        autoreset(env, "partial observability", AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
        views(env.single_observation_space, _SHAPE, "partial observability")
        settings = _corruption(corruption)
        self.filters = [ObservationFilter(settings, np.random.default_rng()) for _ in range(self.num_envs)]
        self._begun = False
        self._depth = 0
        inner: Any = env
        while isinstance(inner, VectorWrapper):
            self._depth += isinstance(inner, VectorPartialObservability)
            inner = inner.env

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        mask = (options or {}).get("reset_mask")
        lanes = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        observation, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        for lane in lanes:
            if (own := lane_seeds(seed, self.num_envs)[lane]) is not None:
                self.filters[lane].rng = seeding.np_random(own)[0].spawn(self._depth + 1)[self._depth]
        self._begun = True
        return self._filtered(observation, infos, fresh=set(lanes.tolist()), lanes=lanes)

    def step(self, actions: Any) -> tuple[dict[str, Any], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if not self._begun:
            raise ResetNeeded("no episodes yet: call reset() first")
        observation, rewards, terminations, truncations, infos = self.env.step(actions)
        fresh = set()
        for lane in np.flatnonzero(infos.get("_final_obs", np.zeros(self.num_envs, bool))):
            final, info = infos["final_obs"][lane], lane_infos(infos["final_info"], self.num_envs)[lane]
            final, info = _applied(final, info, self.filters[lane], self.filters[lane].next)
            infos["final_obs"][lane] = final
            infos["final_info"] = self._add_info(infos["final_info"], {key: info[key] for key in _KEYS}, int(lane))
            fresh.add(int(lane))
        lanes = np.arange(self.num_envs)
        observation, infos = self._filtered(observation, infos, fresh, lanes)
        return observation, rewards, terminations, truncations, infos

    def _filtered(
        self, observation: Mapping[str, Any], infos: dict[str, Any], fresh: set[int], lanes: np.ndarray
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        images = np.array(observation["image"])
        visible = np.array(infos.get("visible", np.ones(images.shape, bool)))
        told = np.full(self.num_envs, None, dtype=object)
        below = infos.get("partial_observability", [None] * self.num_envs)
        present = np.isin(np.arange(self.num_envs), lanes)
        for lane, own in enumerate(self.filters):
            if present[lane]:
                images[lane], seen = (own.first if lane in fresh else own.next)(images[lane])
                visible[lane] &= seen
                told[lane] = (*(below[lane] or ()), own.told())
            else:
                images[lane] = own.shown
        added = {"visible": visible, "partial_observability": told}
        masks = {f"_{key}": present.copy() for key in added}
        return {**observation, "image": images}, {**infos, **added, **masks}


def _corruption(settings: Mapping[str, Any]) -> Corruption:
    known(settings, [field.name for field in fields(Corruption)], "partial observability")
    return Corruption(**settings)


def _applied(
    observation: Mapping[str, Any],
    info: Mapping[str, Any],
    own: ObservationFilter,
    show: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    image, visible = show(observation["image"])
    if "visible" in info:
        visible = visible & info["visible"]
    told = (*info.get("partial_observability", ()), own.told())
    return {**observation, "image": image}, {**info, "visible": visible, "partial_observability": told}
