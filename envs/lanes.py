"""Small conventions of vector environments: seeds and infos, lane by lane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def lane_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """The seed of each lane, as Gymnasium's vector environments count them: lane i of ``seed`` s gets s + i.

    Raises:
        ValueError: if a list has another length than there are lanes.
    """
    if seed is None or isinstance(seed, (int, np.integer)):
        return [None if seed is None else int(seed) + lane for lane in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"{len(seed)} seeds were given for {num_envs} lanes")
    return [None if own is None else int(own) for own in seed]


def lane_infos(infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """A vector environment's dict of arrays with masks as one info dict a lane."""
    lanes: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}", np.ones(num_envs, dtype=bool))
        split: Any = lane_infos(values, num_envs) if isinstance(values, Mapping) else values
        for lane in np.flatnonzero(mask):
            lanes[lane][key] = split[lane].copy() if isinstance(split[lane], np.ndarray) else split[lane]
    return lanes
