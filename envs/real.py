"""Real levels as environments that an imagined one can be swapped for."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from wmtoolkit.data.levels import DEFAULT_LEVEL, make_level, reset_level


class RealLevel(gymnasium.Wrapper, RecordConstructorArgs):
    """A level whose reset leaves stdout clean and whose first observation is up to date (see ``reset_level``)."""

    def __init__(self, env: gymnasium.Env) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._begun = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the level; it has no options."""
        observation = reset_level(self.env, seed)
        self._begun = True
        return observation, {}

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        if not self._begun:
            raise ResetNeeded("no episode yet: call reset() first")
        return self.env.step(action)


def make_real_env(level: str = DEFAULT_LEVEL, **kwargs: Any) -> gymnasium.Env:
    """Make a real level with the spaces, limits and conventions of ``ImaginationEnv``.

    Args:
        level: id of a MiniGrid/BabyAI level.
        kwargs: passed to the level, e.g. ``max_steps``, ``render_mode="rgb_array"``.

    Raises:
        UserError: for an unknown level or option.
    """
    return RealLevel(make_level(level, **kwargs))
