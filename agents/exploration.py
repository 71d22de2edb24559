"""Where to look next: the way through imagined situations that shows most of what is wanted, soonest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.world import grid

STALE = 8
"""Cells last seen longer ago than this, in steps, are worth another look when there is nothing new to see."""
PATIENCE = 2
"""Disappointments after which a cell is no longer looked for."""


def shown_cells(graph: SearchGraph, seen: SeenMap, wanted: np.ndarray) -> list[int]:
    """For each node a bit mask of the wanted world cells that its imagined view shows; wanted (SIZE, SIZE) bool."""
    images = np.stack([node.image for node in graph.nodes])
    poses = np.array([node.key[:3] for node in graph.nodes])
    index = seen.index(poses[:, :2], poses[:, 2])
    shown = (images[..., 0] != grid.UNSEEN) & wanted.reshape(-1)[index]
    bits: dict[int, int] = {}
    masks = [0] * len(graph.nodes)
    for row, cell in zip(np.nonzero(shown)[0].tolist(), index[shown].tolist(), strict=True):
        masks[row] |= 1 << bits.setdefault(cell, len(bits))
    return masks


def most_revealing_path(
    graph: SearchGraph, masks: Sequence[int], *, discount: float = 0.93, horizon: int = 16, width: int = 64
) -> list[tuple[int, int]]:
    """The way from the root with the greatest sum of cells shown for the first time, each discounted by its step.

    A beam search over what was imagined already; it asks the model nothing.

    Args:
        graph: what was imagined.
        masks: a bit mask a node, see ``shown_cells``.
        discount: weight of a cell shown one step later.
        horizon: longest way considered, in steps.
        width: ways kept at each length.

    Returns:
        (action, node) pairs up to the last step that shows something; empty if nothing can be shown.
    """
    best_gain, best = 0.0, ()
    beam: list[tuple[float, int, int, tuple]] = [(0.0, 0, masks[0], ())]
    for depth in range(1, horizon + 1):
        weight = discount**depth
        found: dict[tuple[int, int], tuple[float, int, int, tuple]] = {}
        for gain, node, known, path in beam:
            for action, child in graph.nodes[node].children.items():
                union = known | masks[child]
                total = gain + weight * (union ^ known).bit_count()
                if (child, union) not in found or found[child, union][0] < total:
                    found[child, union] = (total, child, union, (*path, (action, child)))
        beam = sorted(found.values(), key=lambda way: -way[0])[:width]
        if beam and beam[0][0] > best_gain:
            best_gain, best = beam[0][0], beam[0][3]
    return list(best)


def exploration_path(graph: SearchGraph, seen: SeenMap, *, discount: float = 0.93) -> list[tuple[int, int]]:
    """The way that shows most never-seen cells soonest, or else most cells not seen for long; empty if none does.

    Cells that were expected to show and did not are given up: a model may imagine a world behind the walls.
    """
    stale = _hoped(seen) & (seen.last_seen < seen.time - STALE)
    for wanted in (_hoped(seen) & (seen.last_seen < 0), stale):
        path = most_revealing_path(graph, shown_cells(graph, seen, wanted), discount=discount)
        if path:
            return path
    return []


def shows_new_cells(graph: SearchGraph) -> bool:
    """Whether any imagined view shows a cell never seen."""
    return any(shown_cells(graph, graph.seen, _hoped(graph.seen) & (graph.seen.last_seen < 0)))


def _hoped(seen: SeenMap) -> np.ndarray:
    return seen.broken_promises < PATIENCE
