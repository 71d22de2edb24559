"""Stable-Baselines3 draws from the global random streams; here they are seeded for it, and given back afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def level_seed(seed: int, step: int) -> int:
    """Seed of the levels from a step on: at least 2**31, so that no evaluation draws the same ones."""
    return int(np.random.SeedSequence([seed, step + 1]).generate_state(1)[0]) | 1 << 31


def seed_everything(seed: int) -> None:
    """Seed the global streams of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Seed the global streams, and put them back as the caller had them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        seed_everything(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
