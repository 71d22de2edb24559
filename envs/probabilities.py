"""What each cell of a view may hold: probabilities ``[column, row, object, colour, state]``, and their picture."""

from __future__ import annotations

import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.world_object import WorldObj
from PIL import Image, ImageDraw, ImageFont

from wmtoolkit.world import grid
from wmtoolkit.world.tokenizer import ATTRIBUTES

SURE = 0.995
"""A cell with a possibility of at least this probability is drawn as that alone."""
_UNLIKELY = 0.01
"""A possibility of less probability is not drawn beside a likelier one."""


def certain(images: np.ndarray) -> np.ndarray:
    """Probabilities (..., 7, 7, 11, 6, 4) float32 of views (..., 7, 7, 3) that are known: 1 for what they show."""
    one_hot = np.zeros((*images.shape[:-1], *ATTRIBUTES), np.float32)
    np.put_along_axis(
        one_hot.reshape(*images.shape[:-1], -1),
        np.ravel_multi_index(tuple(np.moveaxis(images, -1, 0)), ATTRIBUTES)[..., None],
        1,
        axis=-1,
    )
    return one_hot


def draw_probabilities(probabilities: np.ndarray, tile_size: int = 48) -> np.ndarray:
    """Draw what a view may hold: in each cell the likeliest with its percentage below, and beside it the next two, if
    they are likely enough; a cell that is sure shows one tile.

    Args:
        probabilities: (7, 7, 11, 6, 4), as of ``ImaginationEnv.cell_probabilities``.
        tile_size: pixels a cell, a multiple of 3.

    Returns:
        (7 * tile_size, 7 * tile_size, 3) uint8, far cells on top, the agent in the middle of the lowest row.

    Raises:
        ValueError: for another shape or tile size.
    """
    shape = (grid.VIEW, grid.VIEW, *ATTRIBUTES)
    if np.shape(probabilities) != shape or tile_size % 3 or tile_size <= 0:
        raise ValueError(
            f"needs probabilities {shape}, not {np.shape(probabilities)}, and a tile size that is a multiple of 3"
        )
    flat = np.reshape(probabilities, (grid.VIEW, grid.VIEW, -1))
    picture = np.full((grid.VIEW * tile_size, grid.VIEW * tile_size, 3), 255, np.uint8)
    third = tile_size // 3
    for column, row in np.ndindex(grid.VIEW, grid.VIEW):
        best = np.argsort(-flat[column, row], kind="stable")[:3]
        chances = flat[column, row][best]
        cell = picture[row * tile_size :, column * tile_size :][:tile_size, :tile_size]
        cell[:] = 255
        agent = (column, row) == grid.AGENT_CELL
        if chances[0] >= SURE:
            cell[:] = _tile(best[0], tile_size, agent)
            continue
        cell[: 2 * third, : 2 * third] = _tile(best[0], 2 * third, agent)
        for place in (1, 2):
            if chances[place] >= _UNLIKELY:
                cell[(place - 1) * third : place * third, 2 * third :] = _tile(best[place], third)
        cell[2 * third :] = _percentage(chances[0], tile_size, third)
        cell[[0, -1]], cell[:, [0, -1]] = 150, 150
    return picture


def _tile(cell: np.integer, size: int, agent: bool = False) -> np.ndarray:
    """MiniGrid's tile of a cell, number ``cell`` of all (object, colour, state)."""
    kind, color, state = (int(number) for number in np.unravel_index(int(cell), ATTRIBUTES))
    shown = WorldObj.decode(kind, color, state)
    return Grid.render_tile(shown, 3 if agent else None, highlight=kind != grid.UNSEEN, tile_size=size)


def _percentage(chance: float, width: int, height: int) -> np.ndarray:
    strip = Image.new("RGB", (width, height), "white")
    text = f"{100 * float(chance):.0f} %"
    ImageDraw.Draw(strip).text((width / 2, height / 2), text, "black", ImageFont.load_default(height * 0.75), "mm")
    return np.asarray(strip)
