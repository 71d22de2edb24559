"""A map of one decision as SVG: what was seen, what was imagined from there, and the plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from minigrid.core.constants import COLORS

from wmtoolkit.agents.search_graph import Node, SearchGraph
from wmtoolkit.agents.seen_map import SIZE
from wmtoolkit.world import grid

_SHAPES = {"ball": "circle", "box": "box", "key": "key", "door": "door", "goal": "floor", "lava": "floor"}


def search_map(graph: SearchGraph, plan: Sequence[Node], cell: int = 18) -> Markup:
    """Draw a search.

    Walls and objects are those really seen. Each dot is an imagined situation, put towards where it looks; the
    greener, the likelier it is a success. Thin lines lead from each to the one it was imagined from, the thick one is
    the plan.

    Args:
        graph: what was imagined.
        plan: nodes of the plan made of it, in order.
        cell: pixels a cell.
    """
    seen = graph.seen
    poses = np.array([node.key[:3] for node in graph.nodes])
    around = np.concatenate([np.argwhere(seen.last_seen >= 0), poses[:, :2]])
    low, size = around.min(axis=0) - 1, np.ptp(around, axis=0) + 3

    def place(node: Node, towards: float = 0.28) -> tuple[float, float]:
        x, y, heading = node.key[:3]
        ahead = grid.forward_vector(heading) * towards
        return x - low[0] + 0.5 + ahead[0], y - low[1] + 0.5 + ahead[1]

    parts = [_cell_shape(seen.cells[x % SIZE, y % SIZE], x - low[0], y - low[1]) for x, y in np.unique(around, axis=0)]
    dots = []
    for index, node in enumerate(graph.nodes):
        x, y = place(node)
        if index:
            from_x, from_y = place(graph.nodes[node.parent])
            parts.append(f'<path class="edge" d="M{from_x:.2f} {from_y:.2f}L{x:.2f} {y:.2f}"/>')
            kind = "bad" if node.failure >= 0.5 else "good" if node.success >= 0.05 else "dot"
            strength = max(0.25, node.success, node.failure)
            dots.append(f'<circle class="{kind}" cx="{x:.2f}" cy="{y:.2f}" r=".09" opacity="{strength:.2f}"/>')
    parts += dots
    way = [place(graph.nodes[0], 0.0), *(place(node) for node in plan)]
    line = "L".join(f"{x:.2f} {y:.2f}" for x, y in way)
    parts.append(f'<path class="plan" d="M{line}"/>')
    parts.append(_agent(graph.nodes[0].key, low))
    width, height = (int(side) for side in size)
    return Markup(
        f'<svg class="map" viewBox="0 0 {width} {height}" width="{width * cell}" height="{height * cell}" role="img" '
        f'aria-label="map of what was seen and imagined">{"".join(parts)}</svg>'
    )


def _cell_shape(cell: np.ndarray, x: int, y: int) -> str:
    name, color = grid.OBJECTS[cell[0]], grid.COLORS[cell[1]]
    if cell[0] == grid.UNSEEN:
        return ""
    if cell[0] == grid.WALL:
        return f'<rect class="wall" x="{x}" y="{y}" width="1" height="1"/>'
    floor = f'<rect class="floor" x="{x}" y="{y}" width="1" height="1"/>'
    if name not in _SHAPES:
        return floor
    fill = "rgb({},{},{})".format(*COLORS["green" if name == "goal" else "red" if name == "lava" else color])
    middle_x, middle_y = x + 0.5, y + 0.5
    shape = {
        "circle": f'<circle class="thing" cx="{middle_x}" cy="{middle_y}" r=".34" fill="{fill}"/>',
        "box": f'<rect class="thing" x="{x + 0.18}" y="{y + 0.18}" width=".64" height=".64" fill="{fill}"/>',
        "key": f'<path class="thing" d="M{middle_x} {y + 0.12}l.26 .38-.26 .38-.26-.38z" fill="{fill}"/>',
        "door": f'<rect class="thing" x="{x + 0.08}" y="{y + 0.08}" width=".84" height=".84" fill="{fill}" '
        f'fill-opacity="{0.15 if cell[2] == grid.OPEN else 0.6}"/>',
        "floor": f'<rect x="{x}" y="{y}" width="1" height="1" fill="{fill}" opacity=".6"/>',
    }[_SHAPES[name]]
    return floor + shape


def _agent(key: tuple, low: np.ndarray) -> str:
    x, y, heading = key[0] - low[0] + 0.5, key[1] - low[1] + 0.5, key[2]
    return f'<path class="agent" transform="translate({x} {y}) rotate({90 * heading})" d="M.38 0L-.3 .3V-.3z"/>'
