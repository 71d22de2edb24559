"""Options of environments, checked before anything is made with them."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv

from wmtoolkit.errors import UserError


def whole(value: Any, name: str, least: int = 1) -> int:
    """``value`` as an int.

    Raises:
        UserError: if it is not a whole number of at least ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise UserError(f"{name} must be at least {least} and a whole number, not {value!r}")
    return number


def probability(value: Any, name: str) -> None:
    """Raise ``UserError`` unless ``value`` is a number in 0..1."""
    if not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise UserError(f"{name} is a probability, not {value!r}")


def known(settings: Mapping[str, Any], names: Sequence[str], what: str) -> None:
    """Raise ``UserError`` for settings that are none of ``names``."""
    unknown = [name for name in settings if name not in names]
    if unknown:
        raise UserError(f"{what}: unknown {', '.join(unknown)}; there are {', '.join(names)}")


def autoreset(env: VectorEnv, what: str, *allowed: AutoresetMode) -> None:
    """Raise ``UserError`` unless finished lanes of ``env`` start anew in one of the ``allowed`` ways."""
    if env.metadata.get("autoreset_mode") not in allowed:
        modes = " or ".join(f"AutoresetMode.{mode.name}" for mode in allowed)
        raise UserError(f"{what} needs a vector environment that says autoreset_mode={modes} ({allowed[0].value})")


def views(space: gymnasium.Space, shape: tuple[int, ...], what: str) -> None:
    """Raise ``UserError`` unless ``space`` is a dict with an ``image`` of ``shape``."""
    image = space["image"] if isinstance(space, gymnasium.spaces.Dict) and "image" in space.spaces else None
    if image is None or image.shape != shape:
        raise UserError(f"{what} needs observations that are dicts with {'x'.join(map(str, shape))} views")
