"""BabyAI's mission grammar, and the verbs of a level's missions."""

from __future__ import annotations

import re
from functools import lru_cache

from minigrid.core.constants import COLOR_NAMES
from minigrid.envs.babyai.core.verifier import OBJ_TYPES, OBJ_TYPES_NOT_DOOR

from wmtoolkit.data.levels import make_level, reset_level

VERBS = ("go to", "pick up", "open", "put")
_TRIES = 32


def _described(kinds: list[str]) -> str:
    """What ``verifier.ObjDesc.surface`` can say of things of these kinds."""
    place = "(?: in front of you| behind you| on your left| on your right)?"
    return rf"(?:the|a) (?:(?:{'|'.join(COLOR_NAMES)}) )?(?:{'|'.join(kinds)}){place}"


_ANY, _LOOSE = _described([*OBJ_TYPES, "object"]), _described([*OBJ_TYPES_NOT_DOOR, "object"])
_ACTION = rf"(?:go to {_ANY}|pick up {_LOOSE}|open {_described(['door'])}|put {_LOOSE} next to {_ANY})"
_CLAUSE = rf"{_ACTION}(?: and {_ACTION})?"
_MISSION = re.compile(rf"{_CLAUSE}(?:(?:, then | after you ){_CLAUSE})?")


def is_mission(mission: str) -> bool:
    """Whether BabyAI's grammar has this sentence."""
    return _MISSION.fullmatch(mission) is not None


def unposed_verbs(level: str, mission: str) -> list[str]:
    """Verbs of ``mission`` that none of the level's missions uses, going by some of them."""
    return [verb for verb in VERBS if verb in mission and not _poses(level, verb)]


@lru_cache(maxsize=256)
def _poses(level: str, verb: str) -> bool:
    env = make_level(level)
    return any(verb in reset_level(env, seed)["mission"] for seed in range(_TRIES))
