"""Observations as integers, for learners that take no strings and take cubes of numbers for pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.tokenizer import MAX_WORDS
from wmtoolkit.world.trajectory import mission_words

PADDING = 0
"""Id after the last word; word i of ``grid.WORDS`` has id i + 1."""

_IDS = {word: index for index, word in enumerate(grid.WORDS, start=PADDING + 1)}


def mission_ids(mission: str, max_words: int = MAX_WORDS) -> np.ndarray:
    """A mission as (max_words,) uint8 word ids, padded with 0.

    Raises:
        UserError: for a word outside the vocabulary, and for a mission that is too long.
    """
    words = mission_words(mission)
    unknown = [word for word in words if word not in _IDS]
    if unknown:
        raise UserError(f"mission {mission!r} has words outside the vocabulary: {', '.join(unknown)}")
    if len(words) > max_words:
        raise UserError(f"mission {mission!r} has {len(words)} words, more than max_words={max_words}")
    ids = np.full(max_words, PADDING, dtype=np.uint8)
    ids[: len(words)] = [_IDS[word] for word in words]
    return ids


def tokenized_space(space: spaces.Space, max_words: int = MAX_WORDS) -> spaces.Dict:
    """The space of tokenized observations of a BabyAI-shaped ``space``.

    ``image`` becomes a flat vector of ids, (147,) uint8 bounded by the largest id: Stable-Baselines3 would take a
    7x7x3 cube for a picture, move its channels and divide it by 255, or warn. Reshape it to get the view back.

    Raises:
        UserError: if the space is not a dict of image, direction and mission.
    """
    if not isinstance(space, spaces.Dict) or set(space) != {"image", "direction", "mission"}:
        raise UserError("TokenizedMission needs observations that are dicts of image, direction and mission")
    if space["image"].shape != (grid.VIEW, grid.VIEW, 3):
        raise UserError(f"TokenizedMission needs 7x7x3 views, not {space['image'].shape}")
    return token_space(max_words)


def token_space(max_words: int = MAX_WORDS) -> spaces.Dict:
    """The space of all tokenized observations, whatever the level."""
    return spaces.Dict(
        {
            "direction": spaces.Discrete(len(grid.DIRECTIONS)),
            "image": spaces.Box(0, len(grid.OBJECTS) - 1, (grid.CELLS * 3,), np.uint8),
            "mission": spaces.Box(0, len(grid.WORDS), (max_words,), np.uint8),
        }
    )


class TokenizedMission(gymnasium.ObservationWrapper, RecordConstructorArgs):
    """Turns mission and view into integer vectors, the same for real and imagined environments.

    Args:
        env: an environment whose observations are dicts of image, direction and mission.
        max_words: length of the mission vector; 51 fits every mission the model takes.
    """

    def __init__(self, env: gymnasium.Env, max_words: int = MAX_WORDS) -> None:
        RecordConstructorArgs.__init__(self, max_words=max_words)
        gymnasium.ObservationWrapper.__init__(self, env)
        self.max_words = max_words
        self.observation_space = tokenized_space(env.observation_space, max_words)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {
            **observation,
            "image": np.array(observation["image"]).reshape(-1),
            "mission": mission_ids(observation["mission"], self.max_words),
        }

    def action_masks(self) -> np.ndarray:
        """(7,) bool for MaskablePPO; see ``action_masks``."""
        return action_masks()


def action_masks() -> np.ndarray:
    """(7,) bool, False for ``done``, which does nothing in BabyAI.

    The other actions stay allowed even where they change nothing: a mission that is already fulfilled is noticed only
    after an action that leaves things as they are.
    """
    allowed = np.ones(len(grid.ACTIONS), dtype=bool)
    allowed[grid.DONE] = False
    return allowed
