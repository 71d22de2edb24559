"""What the words of missions mean, as far as objects go, and missions that an episode does not fulfil."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from minigrid.core.constants import OBJECT_TO_IDX

from wmtoolkit.world import grid
from wmtoolkit.world.tokenizer import FIRST_WORD, WorldTokenizer

_TOKENIZER = WorldTokenizer()


def named_objects(mission: str) -> np.ndarray:
    """(objects, colours) bool: which coloured objects the words of a mission may mean."""
    words = set(mission.replace(",", " ").split())
    colors = np.array([name in words for name in grid.COLORS])
    if not colors.any():
        colors[:] = True
    objects = np.array([name in words for name in grid.OBJECTS])
    if not objects.any():
        objects[[OBJECT_TO_IDX[name] for name in ("key", "ball", "box", "door")]] = "object" in words
    return objects[:, None] & colors[None, :]


@dataclass(frozen=True)
class OtherMissions:
    """For each of E episodes, missions of its level that name none of the objects which its own mission names.

    What fulfils one mission then does not fulfil the other: each asks for one thing to be handled last, and that thing
    is none of the other's.

    Attributes:
        blocks: (K, W) the different words of missions, level by level; kind: (E,) index of each episode's own.
        apart: (K, K) bool, same level and no object in common.
    """

    blocks: np.ndarray
    kind: np.ndarray
    apart: np.ndarray

    @classmethod
    def among(cls, missions: np.ndarray, levels: np.ndarray) -> OtherMissions:
        """Of mission blocks (E, 1 + W), behaviour first, and level numbers (E,)."""
        rows = np.concatenate([np.asarray(levels, missions.dtype)[:, None], missions[:, FIRST_WORD:]], axis=1)
        kinds, kind = np.unique(rows, axis=0, return_inverse=True)
        named = np.stack([named_objects(_text(row[1:])).ravel() for row in kinds])
        shared = (named.astype(np.float32) @ named.T.astype(np.float32)) > 0
        says = np.asarray(named.any(-1))
        apart = ~shared & says[None, :] & says[:, None] & (kinds[:, :1] == kinds[:, 0])
        return cls(kinds[:, 1:], kind.ravel(), apart)

    def draw(self, episode: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Words (B, W) of one such mission for each episode (B,), uniformly; -1 where there is none."""
        words = np.full((len(episode), self.blocks.shape[1]), -1)
        for row, own in enumerate(self.kind[episode]):
            others = np.flatnonzero(self.apart[own])
            if len(others):
                words[row] = self.blocks[rng.choice(others)]
        return words


def _text(words: np.ndarray) -> str:
    return " ".join(_TOKENIZER.names[word] for word in words if word in _TOKENIZER.words)
