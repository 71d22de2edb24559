"""Fresh episodes for measuring, of level seeds far from those that are collected for training."""

from __future__ import annotations

from pathlib import Path

from wmtoolkit.data import collect
from wmtoolkit.data.splits import SplitRule

HALVES = SplitRule((0.5, 0.0, 0.5))
"""Half of the episodes are measured on; the others take the place of training data where a prior is fitted."""
LONGEST = 128
EPISODES = 400


def fresh_data(level: str, folder: Path, *, episodes: int = EPISODES, seed: int = 1_000_000) -> Path:
    """A dataset of ``episodes`` episodes of a level, collected into ``folder`` unless it is there."""
    return collect(
        level,
        episodes,
        seed=seed,
        split=HALVES,
        max_steps=LONGEST,
        out=folder / f"fresh-{episodes}-{seed}" / level.rpartition(":")[2],
        resume=True,
        command=None,
    )
