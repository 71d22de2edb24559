"""Where to look next: the way through imagined situations that shows most of what is wanted, soonest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wmtoolkit.agents.search_graph import SearchGraph
from wmtoolkit.agents.seen_map import SeenMap
from wmtoolkit.world import grid

STALE = 8
"""Cells last seen longer ago than this, in steps, are worth another look when there is nothing new to see."""
UNIT = 0.05
"""Information is counted in so many nats."""
NAT = 0.01
"""Worth of a nat, where success is worth 1: about 0.2 for a whole view of cells never seen."""
PATIENCE = 2
"""Disappointments after which a cell is no longer looked for."""


class Views:
    """For each node of a graph a bit mask of the wanted world cells that its imagined view shows.

    Args:
        graph: what was imagined; it may grow between calls of ``masks``.
        wanted: (SIZE, SIZE) bool.
        by_information: a cell has not one bit but one for each ``UNIT`` of information that it promises: the entropy
            of whether it will look as imagined where it is shown first, by the model's own confidence.
    """

    def __init__(self, graph: SearchGraph, wanted: np.ndarray, by_information: bool = False) -> None:
        self._graph, self._wanted, self._by_information = graph, wanted.reshape(-1), by_information
        self._bits: dict[int, int] = {}
        self._taken = 0
        self._masks: list[int] = []

    @classmethod
    def of_new_cells(cls, graph: SearchGraph, by_information: bool = False) -> Views:
        """Which cells never seen are shown, but for those that were hoped for in vain."""
        return cls(graph, _hoped(graph.seen) & (graph.seen.last_seen < 0), by_information)

    def masks(self) -> list[int]:
        """One mask a node."""
        done = len(self._masks)
        nodes = self._graph.nodes[done:]
        if not nodes:
            return self._masks
        images = np.stack([node.image for node in nodes])
        poses = np.array([node.key[:3] for node in nodes])
        index = self._graph.seen.index(poses[:, :2], poses[:, 2])
        shown = (images[..., 0] != grid.UNSEEN) & self._wanted[index]
        self._masks += [0] * len(nodes)
        cells = index[shown].tolist()
        worth = np.ones(len(cells), np.int64)
        if self._by_information:
            worth = np.rint(_uncertainty(np.stack([node.confidence for node in nodes])[shown]) / UNIT).astype(int)
        for row, cell, count in zip(np.nonzero(shown)[0].tolist(), cells, worth.tolist(), strict=True):
            if cell not in self._bits:
                self._bits[cell] = ((1 << count) - 1) << self._taken
                self._taken += count
            self._masks[done + row] |= self._bits[cell]
        return self._masks


def information_worth(mask: int) -> float:
    """Worth of the information that a mask of ``Views`` by information stands for, where success is worth 1."""
    return NAT * UNIT * mask.bit_count()


def most_revealing_path(
    graph: SearchGraph,
    masks: Sequence[int],
    *,
    root: int = 0,
    discount: float = 0.93,
    horizon: int = 16,
    width: int = 64,
) -> list[tuple[int, int]]:
    """The way from a node with the greatest sum of cells shown for the first time, each discounted by its step.

    A beam search over what was imagined already; it asks the model nothing.

    Args:
        graph: what was imagined.
        masks: a bit mask a node, see ``Views``.
        root: where the way begins.
        discount: weight of a cell shown one step later.
        horizon: longest way considered, in steps.
        width: ways kept at each length.

    Returns:
        (action, node) pairs up to the last step that shows something; empty if nothing can be shown.
    """
    best_gain, best = 0.0, ()
    beam: list[tuple[float, int, int, tuple]] = [(0.0, root, masks[root], ())]
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


def exploration_path(graph: SearchGraph, *, root: int = 0, discount: float = 0.93) -> list[tuple[int, int]]:
    """The way from a node that shows most of what was never seen, in nats of information, soonest; empty if none does.

    Cells that were expected to show and did not are given up: a model may imagine a world behind the walls.
    """
    informative = Views.of_new_cells(graph, by_information=True).masks()
    path = most_revealing_path(graph, informative, root=root, discount=discount)
    if path or root:
        return path
    masks = Views.of_new_cells(graph).masks()
    path = most_revealing_path(graph, masks, discount=discount)  # the model is sure of all that it would show
    if path:
        return path
    return graph.shortest(node for node, mask in enumerate(masks) if mask & ~masks[0])  # farther than it looks


def revisiting_path(graph: SearchGraph, *, discount: float = 0.93) -> list[tuple[int, int]]:
    """The way that shows most cells not seen for long; empty if none does."""
    stale = Views(graph, _hoped(graph.seen) & (graph.seen.last_seen < graph.seen.time - STALE))
    return most_revealing_path(graph, stale.masks(), discount=discount)


def _uncertainty(confidence: np.ndarray) -> np.ndarray:
    """Entropy in nats of whether cells look as imagined, given the probability that they do."""
    sure = np.clip(confidence.astype(np.float64), 1e-9, 1 - 1e-9)
    return -sure * np.log(sure) - (1 - sure) * np.log(1 - sure)


def _hoped(seen: SeenMap) -> np.ndarray:
    return seen.broken_promises < PATIENCE
