"""What a predicted success was about, so that a false one is not tried again in another guise."""

from __future__ import annotations

import numpy as np

from wmtoolkit.agents.search_graph import Cell, Key, Node, SearchGraph, ahead, as_cell
from wmtoolkit.agents.seen_map import SIZE
from wmtoolkit.world import grid

Place = tuple[int, int]
_NEXT_TO = ((1, 0), (0, 1), (-1, 0), (0, -1))


class FalseGoals:
    """Situations that were taken for a success and did not end the episode.

    Prior knowledge of BabyAI: a pickup succeeds by which thing it is, a drop by the thing and what lies next to it, and
    all else by what is faced. So one disappointment speaks for many situations: the same thing, wherever it was carried
    meanwhile; the same thing beside nothing that it was not beside before; the same cell, whatever is in the hand.
    """

    def __init__(self) -> None:
        self._faced: set[tuple[Place, Cell]] = set()
        self._picked: set[tuple[Place, Cell]] = set()
        self._dropped: dict[Cell, frozenset[tuple[Place, Cell]]] = {}
        """What each thing was dropped beside in vain."""
        self._carried: set[Place] = set()
        """Where things lie that were carried before: to pick them up again is no success."""

    def add(self, graph: SearchGraph, node: Node) -> None:
        """The node promised success, was reached, and the episode went on."""
        place, look = ahead(node.key), as_cell(node.image[grid.FRONT_CELL])
        if node.action == grid.PICKUP:
            self._picked.add((place, node.key[3]))
        elif node.action == grid.DROP:
            self._dropped[look] = self._dropped.get(look, frozenset()) | _beside(graph, node.key)
        else:
            self._faced.add((place, look))

    def cover(self, graph: SearchGraph, node: Node) -> bool:
        """Whether the node's success was refuted already."""
        place, look = ahead(node.key), as_cell(node.image[grid.FRONT_CELL])
        if node.action == grid.PICKUP:
            before = graph.nodes[node.parent].key[4]
            moved = place in self._carried or any(change[:2] == place for change in before)
            return moved or (place, node.key[3]) in self._picked
        if node.action == grid.DROP:
            return look in self._dropped and _beside(graph, node.key) <= self._dropped[look]
        return (place, look) in self._faced

    def note(self, action: int, pose: tuple[int, int, int], image: np.ndarray) -> None:
        """What really happened: ``action`` led to this pose and view (7, 7, 3)."""
        place = ahead(pose)
        if action == grid.DROP and image[grid.FRONT_CELL][0] in grid.PORTABLE:
            self._carried.add(place)
        elif action == grid.PICKUP and image[grid.AGENT_CELL][0] in grid.PORTABLE:
            self._carried.discard(place)


def _beside(graph: SearchGraph, key: Key) -> frozenset[tuple[Place, Cell]]:
    """Things next to the cell in front, as changed in imagination or as last seen."""
    (x, y), changed = ahead(key), {change[:2]: change[2] for change in key[4]}
    places = [((x + dx) % SIZE, (y + dy) % SIZE) for dx, dy in _NEXT_TO]
    cells = [(place, changed.get(place, as_cell(graph.seen.cells[place]))) for place in places]
    return frozenset((place, cell) for place, cell in cells if cell[0] in grid.PORTABLE)
