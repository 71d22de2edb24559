"""The reference at the bottom: actions drawn evenly."""

from __future__ import annotations

from typing import Any

import numpy as np

from wmtoolkit.agents.protocol import Observation
from wmtoolkit.world import grid


class RandomAgent:
    """Draws each of the seven actions with equal probability."""

    def __init__(self, *, seed: int = 0) -> None:
        self.diagnostics: dict[str, Any] = {}
        self._rng = np.random.default_rng(seed)

    def reset(self, seed: int | None = None) -> None:
        if seed is not None:
            self._rng = np.random.default_rng(seed)

    def act(self, observation: Observation) -> int:
        return int(self._rng.integers(len(grid.ACTIONS)))
