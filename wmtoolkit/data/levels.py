"""Real levels: made by id, reset without noise on stdout."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
from typing import Any

import gymnasium
import minigrid  # noqa: F401 - registers the levels
from minigrid.minigrid_env import MiniGridEnv

from wmtoolkit.data.views import speed_up
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid

DEFAULT_LEVEL = "BabyAI-GoToLocal-v0"


def make_level(level: str, *, fast: bool = True, **kwargs: Any) -> gymnasium.Env:
    """Make a MiniGrid/BabyAI level without wrappers.

    Args:
        level: a registered id, or ``module:Id`` for a level of your own.
        fast: compute observations by ``views.speed_up``, equal to MiniGrid's own but three times faster.
        kwargs: passed to the level, e.g. ``max_steps=100``.

    Raises:
        UserError: for an unknown id or option, and for a level whose observations are not the 7x7 symbolic dict or
            whose actions are not MiniGrid's seven.
    """
    module, _, level_id = level.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UserError(f"level {level!r}: cannot import module {module!r} ({error})") from None
    if level_id not in gymnasium.registry:
        known = [name for name in gymnasium.registry if name.startswith(("BabyAI-", "MiniGrid-"))]
        close = difflib.get_close_matches(level_id, known, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else "; for example BabyAI-GoToLocal-v0"
        raise UserError(f"unknown level {level!r}{hint}")
    try:
        env: Any = gymnasium.make(level_id, disable_env_checker=True, **kwargs).unwrapped
    except (gymnasium.error.Error, TypeError, AssertionError) as error:  # MiniGrid asserts what it is given
        raise UserError(f"level {level!r} cannot be made ({error})") from None
    space = env.observation_space
    names = set(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else set()
    if not {"image", "direction", "mission"} <= names or space["image"].shape != (grid.VIEW, grid.VIEW, 3):
        raise UserError(f"level {level!r} does not give 7x7x3 symbolic views with direction and mission")
    if env.action_space != gymnasium.spaces.Discrete(len(grid.ACTIONS)):
        raise UserError(
            f"level {level!r} has the actions {env.action_space}, not MiniGrid's seven ({', '.join(grid.ACTIONS)}); "
            "take another level"
        )
    if fast and isinstance(env, MiniGridEnv):
        speed_up(env)
    return env


def reset_level(env: gymnasium.Env, seed: int | None = None) -> dict[str, Any]:
    """Reset a level and return its first observation.

    MiniGrid prints "Sampling rejected" to stdout meanwhile, and some levels return a first view that misses the
    carried object: the print is swallowed and the view read again.

    Raises:
        UserError: the level itself fails; names the level and the seed.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            env.reset(seed=seed)
        except Exception as error:
            raise level_fault(env, seed, error) from error
    return env.unwrapped.gen_obs()  # type: ignore[attr-defined]


def level_fault(env: gymnasium.Env, seed: int | None, error: Exception) -> UserError:
    """What to raise for an error in a level's own code, be it a user's or one that misses a package."""
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    return UserError(f"level {name} fails at level seed {seed}: {type(error).__name__}: {error}")
