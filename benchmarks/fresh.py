"""Episodes that suites collect: fresh ones for measuring, of level seeds far from all others, and those to train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from wmtoolkit.data import collect
from wmtoolkit.data.datasets import cache_root
from wmtoolkit.data.splits import SplitRule
from wmtoolkit.errors import UserError
from wmtoolkit.training.config import Config
from wmtoolkit.world.model import AnyOrderWorldModel

HALVES = SplitRule((0.5, 0.0, 0.5))
"""Half of the episodes are measured on; the others take the place of training data where a prior is fitted."""
LONGEST = 128
EPISODES = 400


def fresh_data(
    level: str, folder: Path, *, episodes: int = EPISODES, seed: int = 1_000_000, held_out: Sequence[str] = ()
) -> Path:
    """A dataset of ``episodes`` episodes of a level, collected into ``folder`` unless it is there.

    Args:
        held_out: colour-object pairs; missions that name one are the test split, of the others half are the validation
            split, to be measured on too.
    """
    name = hashlib.sha256(json.dumps(list(held_out)).encode()).hexdigest()[:8] if held_out else ""
    return collect(
        level,
        episodes,
        seed=seed,
        split=SplitRule((0.5, 0.5, 0.0), tuple(held_out)) if held_out else HALVES,
        max_steps=LONGEST,
        out=folder / f"fresh-{episodes}-{seed}{'-' * bool(name)}{name}" / level.rpartition(":")[2],
        resume=True,
        command=None,
    )


def own_data(config: Config, folder: Path, held_out: Sequence[str] = ()) -> list[str]:
    """A config's own data, collected once for all runs that share it.

    Args:
        held_out: colour-object pairs whose missions are kept for the test; see ``SplitRule``.
    """
    options = asdict(config.data)
    levels = options.pop("levels")
    options |= {"held_out": list(held_out)} if held_out else {}
    name = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    return [
        str(
            collect(
                level,
                config.data.episodes,
                policy=config.data.policy,
                seed=config.data.seed,
                split=SplitRule(held_out=tuple(held_out)) if held_out else None,
                max_steps=config.data.max_steps or None,
                out=folder / f"training-{name}" / level.rpartition(":")[2],
                resume=True,
            )
        )
        for level in levels
    ]


def check_fresh(seed: int, count: int, levels: Collection[str], configs: Iterable[Config]) -> None:
    """Refuse ``count`` level seeds from ``seed`` on where a config collects its own data from some of them.

    Raises:
        UserError: names the config's seeds, and a level that both have.
    """
    for config in configs:
        own, shared = config.data, sorted(set(levels) & set(config.data.levels))
        if shared and seed < own.seed + own.episodes and own.seed < seed + count:
            raise UserError(
                f"seed {seed}: level seeds {own.seed} to {own.seed + own.episodes - 1} of {shared[0]} are what "
                f"{config.name!r} is trained on; measure on others, for example with --seed 1000000"
            )


def fresh_levels(checkpoint: Path | None, levels: Sequence[str] = ()) -> list[str]:
    """Datasets of fresh episodes of some levels, by default those that a checkpoint was trained on, in the cache.

    Raises:
        UserError: no level is given and the checkpoint names none, or it cannot be read.
    """
    chosen = list(levels) or AnyOrderWorldModel.from_pretrained(checkpoint).levels
    if not chosen:
        raise UserError(f"the checkpoint {checkpoint} does not say which levels it knows; give --level or --data")
    return [str(fresh_data(level, cache_root() / "fresh")) for level in chosen]
