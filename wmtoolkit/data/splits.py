"""Which episode is for training, which for validation, which for the test: decided by the seed of its level.

The rule looks at the level seed alone, so a seed falls into the same split in every dataset, whatever the level, the
behaviour or the day, and joining datasets never brings a test level into the training set. The compositional rule
puts every mission that names a held-out colour-object pair into the test split instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minigrid.core.constants import COLOR_NAMES

from wmtoolkit.errors import UserError

SPLITS: tuple[str, ...] = ("train", "validation", "test")
DEFAULT_SHARES: tuple[float, float, float] = (0.90, 0.05, 0.05)
DEFAULT_HELD_OUT: tuple[str, ...] = ("red box", "green key", "blue ball", "purple door", "yellow box", "grey key")
"""One colour-object pair of each colour, spread over the objects: a quarter of the 24 pairs."""
_PAIR = re.compile(rf"\b({'|'.join(COLOR_NAMES)}) (ball|box|key|door)\b")


@dataclass(frozen=True)
class SplitRule:
    """How episodes are divided.

    Attributes:
        shares: of train, validation and test among level seeds; they add up to 1.
        held_out: colour-object pairs such as ``"red box"``; a mission that names one is in the test split, every
            other mission is in train or validation by its seed. Empty: by seed alone.
    """

    shares: tuple[float, float, float] = DEFAULT_SHARES
    held_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shares) != len(SPLITS) or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise UserError(f"split shares {list(self.shares)}: give three numbers from 0 to 1 that add up to 1")
        for pair in self.held_out:
            if not _PAIR.fullmatch(pair):
                raise UserError(f"held-out pair {pair!r}: write a colour and an object, for example 'red box'")

    def assign(self, seed: int | None, mission: str, start: bytes = b"") -> int:
        """Index into ``SPLITS`` of an episode.

        Args:
            seed: the level seed; None where it is unknown, then ``start`` decides.
            mission: the instruction.
            start: bytes of the first observation, so that equal starts stay together.
        """
        position = _spread(seed) if seed is not None else _hashed(mission.encode() + start)
        if self.held_out:
            if any(" ".join(pair) in self.held_out for pair in _PAIR.findall(mission)):
                return 2
            train, validation = self.shares[0], self.shares[1]
            return int(position * (train + validation) >= train)
        if position < self.shares[0]:
            return 0
        return 1 if position < self.shares[0] + self.shares[1] else 2

    def document(self) -> dict[str, Any]:
        """What a dataset's metadata writes down."""
        rule = "held-out colour-object pairs of the mission" if self.held_out else "level seed, multiplicative hash"
        return {"rule": rule, "shares": list(self.shares), "held_out": list(self.held_out)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> SplitRule:
        """Inverse of ``document``."""
        return cls(tuple(document["shares"]), tuple(document["held_out"]))


def _spread(seed: int) -> float:
    """A number in [0, 1) that depends on the seed alone; consecutive seeds spread evenly (Fibonacci hashing).

    So the shares are met closely in small datasets too: among 40 consecutive seeds each split of 5 % has its part.
    """
    return (seed * 11400714819323198485 % 2**64) / 2**64


def _hashed(key: bytes) -> float:
    """A number in [0, 1) that depends on the bytes alone."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") / 2**64


def split_index(split: str) -> int:
    """Position of a split's name in ``SPLITS``; ``UserError`` for another name."""
    if split not in SPLITS:
        raise UserError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    return SPLITS.index(split)


def unseen_seeds(first: int, count: int, rule: SplitRule | None = None) -> list[int]:
    """The first ``count`` level seeds from ``first`` on that the rule keeps out of training: the test split's."""
    rule = rule or SplitRule()
    if rule.held_out or rule.shares[2] <= 0:
        raise UserError("unseen seeds need a split by seed with a test share above 0")
    seeds: list[int] = []
    while len(seeds) < count:
        if rule.assign(first, "") == 2:
            seeds.append(first)
        first += 1
    return seeds


def check_unseen(seeds: Iterable[int], dataset: Mapping[str, Any], level: str | None = None) -> None:
    """Refuse level seeds that a model was trained on.

    Args:
        seeds: the level seeds about to be evaluated on.
        dataset: a run's ``dataset.json``, as ``EpisodeStore.document`` gives it: ``train_seeds`` holds, level by
            level, ranges ``[first, last]`` of seeds seen in training.
        level: look at this level only; None for all.

    Raises:
        UserError: names the first seeds that were trained on.
    """
    wanted = sorted({int(seed) for seed in seeds})
    for trained_level, ranges in dataset["train_seeds"].items():
        if level is not None and trained_level != level:
            continue
        seen = [seed for seed in wanted if in_ranges(seed, ranges)]
        if seen:
            some = ", ".join(str(seed) for seed in seen[:5]) + (", ..." if len(seen) > 5 else "")
            raise UserError(
                f"{len(seen)} of {len(wanted)} seeds were trained on in {trained_level} ({some}); "
                "evaluate on seeds outside the training split, for example with --seed 1000000"
            )


def seed_ranges(seeds: Sequence[int]) -> list[list[int]]:
    """Sorted seeds as inclusive ranges ``[first, last]``."""
    ranges: list[list[int]] = []
    for seed in sorted({int(seed) for seed in seeds}):
        if ranges and ranges[-1][1] == seed - 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ranges


def in_ranges(seed: int, ranges: Sequence[Sequence[int]]) -> bool:
    """Whether one of the inclusive ranges holds the seed."""
    return any(first <= seed <= last for first, last in ranges)
