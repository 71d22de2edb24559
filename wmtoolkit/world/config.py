"""Options of the front-end that puts trajectories before a LLaDA2 network."""

from __future__ import annotations

import numbers
from dataclasses import dataclass

import numpy as np

from wmtoolkit.errors import UserError
from wmtoolkit.world.tokenizer import BLOCK

BEYOND_LLADA2 = (
    "slot_features",
    "action_features",
    "mission_features",
    "axes",
    "egomotion",
    "start_heading",
    "expectation",
)
"""Options that put something before the network which a plain LLaDA2 does not have."""


@dataclass(frozen=True)
class WorldConfig:
    """What the front-end adds to LLaDA2. With every option off it is LLaDA2's own embedding, positions and head.

    Attributes:
        compositional: a cell's embedding and output row are sums of an object, a colour and a state row.
        residual: with compositional, the output row of each full cell has a free part beside the sum. Without it colour
            and state are predicted as if they did not depend on the object: half a ball, half a wall make a red wall.
        slot_features: a learned embedding for each slot of a block.
        action_features: the action of a step is added to every token of its block.
        mission_features: the mission's words are added up, each times a learned row of its place, and that is added to
            every token behind the mission, which so need not attend to it to know what is asked for.
        axes: rotary positions on (time, x, y) instead of the token's index among blocks of equal length.
        egomotion: x and y are dead-reckoned world coordinates instead of the cell's place in the view, which also
            gives a memory of cells last seen earlier. Prior knowledge about MiniGrid.
        start_heading: with egomotion, x and y are turned so that the agent heads along x at its episode's start: what a
            mission calls "on your left", which is meant from there, so lies in one direction.
        expectation: each hidden cell of a step is told what was last seen at its place, or that walls and closed doors
            hide it, by dead reckoning and MiniGrid's rule of sight (needs memory). Prior knowledge about MiniGrid.
        memory: number of remembered cells put between the mission and the newest frames (needs egomotion).
        recent: number of newest frames kept whole; training supervises as many steps in each block-causal window.
        clock: the first frame that the network reads counts as at most the ``clock``-th of its episode, what was seen
            before it and comes after it as so much earlier, but not before the first; 0: as they are. Late steps of
            recorded episodes are those of who failed so far, which is no reason to fail now. Prior knowledge: worlds do
            not change with time.
        span: frames in a window under full attention, so at most ``span - 1`` steps lie between a frame and its goal.
    """

    compositional: bool = True
    residual: bool = True
    slot_features: bool = True
    action_features: bool = True
    mission_features: bool = False
    axes: bool = True
    egomotion: bool = True
    start_heading: bool = False
    expectation: bool = False
    memory: int = 60
    recent: int = 3
    clock: int = 0
    span: int = 12

    def __post_init__(self) -> None:
        if self.memory < 0 or self.recent < 1 or self.span < 2:
            raise ValueError(
                f"world: memory {self.memory} must be at least 0, recent {self.recent} at least 1 and span {self.span} "
                "at least 2"
            )
        if self.clock < 0:
            raise ValueError(f"world: clock {self.clock} must be at least 0 (0: the true time)")
        if self.egomotion and not self.axes:
            raise ValueError("world: egomotion needs axes: true (the coordinates are rotary positions)")
        if self.start_heading and not self.egomotion:
            raise ValueError("world: start_heading needs egomotion: true (it turns the world's coordinates)")
        if self.memory and not self.egomotion:
            raise ValueError("world: memory needs egomotion: true (a remembered cell is told by its coordinates)")
        if self.expectation and not self.memory:
            raise ValueError("world: expectation needs memory above 0; set expectation: false as well")

    def checked_memory(self, memory: int | None) -> int:
        """How much of the past imagination may be shown.

        Args:
            memory: number of remembered cells (of frames before the newest, for a model without a memory of cells), at
                most what the model was trained with; None: all of that; 0: the newest frame alone.

        Raises:
            UserError: for another value.
        """
        most, what = (self.memory, "remembered cells") if self.memory else (self.recent - 1, "frames before the newest")
        if memory is None:
            return most
        if isinstance(memory, bool) or not isinstance(memory, numbers.Integral) or not 0 <= memory <= most:
            raise UserError(f"memory must be a whole number of {what} in 0..{most}, or None for all, not {memory!r}")
        return int(memory)

    def late(self, time: np.ndarray) -> np.ndarray:
        """By how many steps (B,) sequences whose first frames have these times (B,) are later than ``clock``."""
        return np.maximum(time - self.clock, 0) * (self.clock > 0)

    @property
    def block_length(self) -> int:
        """Positions from one block to the next, where positions are LLaDA2's own."""
        return BLOCK

    def spelled(self, missions: np.ndarray) -> np.ndarray:
        """Mission blocks (B, 52) in the tokens the network reads."""
        return missions
