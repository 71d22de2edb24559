"""Views in a terminal: two characters a cell, in colour where the terminal has it."""

from __future__ import annotations

import click
import numpy as np

from wmtoolkit.world import grid

_SIGNS = {
    "unseen": "  ",
    "empty": "· ",
    "wall": "██",
    "floor": "▒▒",
    "key": "k ",
    "ball": "● ",
    "box": "■ ",
    "goal": "◎ ",
    "lava": "≈≈",
    "agent": "▲ ",
}
_DOORS = ("▯ ", "▮ ", "▮#")
"""Open, closed, locked."""
_INKS = {"red": "red", "green": "green", "blue": "blue", "purple": "magenta", "yellow": "yellow", "grey": "white"}
_SURE = 0.9
"""A cell of less probability is drawn dim."""


def view_lines(
    image: np.ndarray, confidence: np.ndarray | None = None, expected: np.ndarray | None = None
) -> list[str]:
    """Seven lines of a view, the agent at the bottom; what it carries shows in its place.

    Args:
        image: (7, 7, 3) uint8.
        confidence: (7, 7) probability of each cell; unsure ones are dim.
        expected: (7, 7, 3) another view; cells that differ from it are reversed, and marked "!" without colour.
    """
    wrong = np.zeros(image.shape[:2], bool) if expected is None else (image != expected).any(-1)
    return [
        "".join(
            _cell(
                image[column, row],
                dim=confidence is not None and bool(confidence[column, row] < _SURE),
                wrong=bool(wrong[column, row]),
                agent=(column, row) == grid.AGENT_CELL,
            )
            for column in range(grid.VIEW)
        )
        for row in range(grid.VIEW)
    ]


def _cell(cell: np.ndarray, *, dim: bool, wrong: bool, agent: bool) -> str:
    name, color = grid.OBJECTS[cell[0]], grid.COLORS[cell[1]]
    sign = _DOORS[min(cell[2], 2)] if cell[0] == grid.DOOR else _SIGNS[name]
    if agent:
        sign = "▲" + (sign[0] if cell[0] not in (grid.EMPTY, grid.UNSEEN) else " ")
    if wrong:
        sign = sign[0] + "!"
    plain = cell[0] in (grid.EMPTY, grid.UNSEEN)
    return click.style(sign, fg=None if plain else _INKS[color], dim=dim, reverse=wrong)


def beside(*views: list[str], gap: str = "    ") -> str:
    """Views of as many lines, from left to right."""
    return "\n".join(gap.join(lines) for lines in zip(*views, strict=True))
