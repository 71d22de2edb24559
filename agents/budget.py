"""What a planner may spend on one decision."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Protocol

from wmtoolkit.errors import UserError

IMAGINE = 2
"""Most forward passes that it takes to imagine a step of situations: one encodes them, if none did, one decodes."""
ASK = 1
"""Forward passes that it takes to ask for the policy; what is encoded on the way serves the step that follows."""


@dataclass(frozen=True)
class Budget:
    """Limits of one decision; the first one reached ends the search, and the best plan so far is taken.

    Attributes:
        max_forward_passes: calls of the network, of whatever size and purpose; a perfect simulator counts one for each
            batch that it steps, advises on, or fills in a round.
        max_milliseconds: wall-clock time; a pass is not started if it would likely overrun.
        max_nodes: imagined situations.
    """

    max_forward_passes: int = 64
    max_milliseconds: float = 2000.0
    max_nodes: int = 300

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 1 if field.name == "max_milliseconds" else 2  # the present situation and one more
            if not value >= least:
                raise UserError(f"{field.name} must be at least {least} to plan anything, not {value}")


def check_counts(**counts: int) -> None:
    """Raise ``UserError`` for an option that must be at least 1 and is not."""
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")


def check_amounts(**amounts: float) -> None:
    """Raise ``UserError`` for an option that must be a number, at least 0, and is not."""
    for name, value in amounts.items():
        if not 0 <= value < float("inf"):
            raise UserError(f"{name} must be a number, at least 0, not {value}")


class Counter(Protocol):
    """What counts its own forward passes; a world model does."""

    @property
    def forward_passes(self) -> int: ...


class Meter:
    """Counts what one decision has spent of a budget; forward passes are those that the world model has made since."""

    def __init__(self, budget: Budget, world_model: Counter) -> None:
        self.budget = budget
        self.nodes = 0
        self._counter, self._passes_before = world_model, world_model.forward_passes
        self._started = time.perf_counter()
        self._checked, self._slowest = (0.0, 0), 0.0

    @property
    def forward_passes(self) -> int:
        """Forward passes since the decision began."""
        return self._counter.forward_passes - self._passes_before

    @property
    def milliseconds(self) -> float:
        """Time since the decision began."""
        return 1000 * (time.perf_counter() - self._started)

    def room_for(self, forward_passes: int) -> bool:
        """Whether so many more forward passes fit, if they take as long as the slowest between two calls of this."""
        now, made = self.milliseconds, self.forward_passes
        before, known = self._checked
        if made > known:
            self._checked, self._slowest = (now, made), max(self._slowest, (now - before) / (made - known))
        return (
            made + forward_passes <= self.budget.max_forward_passes
            and self.nodes < self.budget.max_nodes
            and now + forward_passes * self._slowest <= self.budget.max_milliseconds
        )

    def nodes_left(self, most: int) -> int:
        """How many more situations may be imagined: at least 1, at most ``most``."""
        return max(1, min(most, self.budget.max_nodes - self.nodes))

    def summary(self) -> dict[str, float]:
        """The counts, for ``diagnostics``."""
        return {"forward_passes": self.forward_passes, "nodes": self.nodes, "milliseconds": self.milliseconds}
