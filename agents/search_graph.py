"""Imagined situations as a graph: equal ones merged, each kept with the cheapest way to it that was found first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from wmtoolkit.agents.protocol import RolloutState
from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome

MOVES = (grid.LEFT, grid.RIGHT, grid.FORWARD)
INTERACTIONS = (grid.PICKUP, grid.DROP, grid.TOGGLE)
_PORTABLE = tuple(grid.OBJECTS.index(name) for name in ("key", "ball", "box"))
_KEY, _BOX, _LOCKED = grid.OBJECTS.index("key"), grid.OBJECTS.index("box"), grid.STATES.index("locked")

Cell = tuple[int, int, int]
Key = tuple[int, int, int, Cell, frozenset[tuple[int, int, Cell]]]
"""x, y, heading, what is carried, and which cells were changed into what: equal keys are one situation."""


@dataclass(slots=True, eq=False)
class Node:
    """Lane ``row`` of ``state``, reached from node ``parent`` by ``action``; the root has parent -1.

    ``cost`` is the number of steps from the root plus what holds it back in the order of the search.
    ``children`` maps actions to nodes, merged ones included.
    """

    key: Key
    state: RolloutState
    row: int
    parent: int
    action: int
    depth: int
    cost: float
    children: dict[int, int] = field(default_factory=dict)

    @property
    def image(self) -> np.ndarray:
        """(7, 7, 3) uint8."""
        return self.state.images[self.row]

    @property
    def direction(self) -> int:
        return int(self.state.directions[self.row])

    @property
    def confidence(self) -> np.ndarray:
        """(7, 7) float32."""
        return self.state.confidence[self.row]

    @property
    def success(self) -> float:
        return float(self.state.outcomes[self.row, Outcome.SUCCESS])

    @property
    def failure(self) -> float:
        return float(self.state.outcomes[self.row, Outcome.FAILURE])


class SearchGraph:
    """A search in imagination that grows by one batched forward pass at a time, cheapest candidates first.

    Prior knowledge of MiniGrid is used here and only here: turns and steps ahead lead where dead reckoning says, so
    a move into a situation already imagined costs nothing; and ``useful_actions``.

    It begins with the root as node 0, not yet opened.

    Args:
        root: a state of one lane.
        seen: where the agent stands.
        actions: the actions to try.
        interaction_cost: extra cost of what lies behind a pickup, drop or toggle, in steps.
    """

    def __init__(
        self, root: RolloutState, seen: SeenMap, *, actions: Sequence[int] = MOVES, interaction_cost: float = 0.0
    ) -> None:
        self.seen, self.actions, self.interaction_cost = seen, tuple(actions), interaction_cost
        carried = _cell(root.images[0][grid.AGENT_CELL])
        self.nodes = [Node((*seen.position, seen.direction, carried, frozenset()), root, 0, -1, -1, 0, 0.0)]
        self.by_key = {self.nodes[0].key: 0}
        self._frontier: list[tuple[float, int, int]] = []

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def next_cost(self) -> float:
        """Cost of the cheapest candidate; infinite if nothing is left to imagine."""
        return self._frontier[0][0] if self._frontier else np.inf

    def open(self, node: int, extra_cost: np.ndarray | None = None) -> None:
        """Make the node's useful actions candidates; moves into situations already imagined become edges at once.

        Args:
            node: one of ``nodes``.
            extra_cost: (7,) what each action costs beyond its one step; None: nothing.
        """
        parent = self.nodes[node]
        for action in useful_actions(self._front(parent), parent.image[grid.AGENT_CELL], self.actions):
            known = self.by_key.get(self._moved(parent, action)) if action in MOVES else None
            if known is not None:
                parent.children[action] = known
            else:
                extra = 0.0 if extra_cost is None else float(extra_cost[action])
                heapq.heappush(self._frontier, (parent.cost + 1 + extra, node, action))

    def expand(self, batch: int, slack: float = 0.0) -> list[int]:
        """Imagine the cheapest candidates in one forward pass.

        Args:
            batch: most candidates taken.
            slack: how much dearer than the cheapest the others may be.

        Returns:
            The new nodes, not yet opened; empty if all candidates turned out to be known.
        """
        chosen: list[tuple[float, int, int]] = []
        twins: list[tuple[float, int, int]] = []
        pending: set[Key] = set()
        limit = self.next_cost + slack
        while self._frontier and len(chosen) < batch and self.next_cost <= limit:
            candidate = heapq.heappop(self._frontier)
            _, node, action = candidate
            key = self._moved(self.nodes[node], action) if action in MOVES else None
            if key in self.by_key:
                self.nodes[node].children[action] = self.by_key[key]
            elif key in pending:
                twins.append(candidate)  # becomes an edge as soon as its twin is imagined
            else:
                chosen.append(candidate)
                pending |= {key} if key is not None else set()
        for candidate in twins:
            heapq.heappush(self._frontier, candidate)
        if not chosen:
            return []
        parents = [self.nodes[node] for _, node, _ in chosen]
        state = _branched(parents).step(np.array([action for _, _, action in chosen]))
        added = [self._add(candidate, state, row) for row, candidate in enumerate(chosen)]
        return [node for node in added if node is not None]

    def path(self, node: int) -> list[int]:
        """Nodes from the root's child to ``node``."""
        result = []
        while node:
            result.append(node)
            node = self.nodes[node].parent
        return result[::-1]

    def _add(self, candidate: tuple[float, int, int], state: RolloutState, row: int) -> int | None:
        """The new node, or None if the situation was known."""
        cost, parent_index, action = candidate
        parent = self.nodes[parent_index]
        moves = action in MOVES
        key = self._moved(parent, action) if moves else self._changed(parent, state.images[row])
        known = self.by_key.get(key)
        ends = state.outcomes[row, Outcome.SUCCESS] + state.outcomes[row, Outcome.FAILURE]
        if known is not None and ends < 0.5:
            parent.children[action] = known
            return None
        cost += 0 if moves else self.interaction_cost
        node = Node(key, state, row, parent_index, action, parent.depth + 1, cost)
        self.nodes.append(node)
        parent.children[action] = len(self.nodes) - 1
        self.by_key.setdefault(key, len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _front(self, node: Node) -> np.ndarray | Cell:
        """The cell in front: as changed in imagination, or as last really seen, or else as imagined."""
        x, y, direction, _, changes = node.key
        step = grid.forward_vector(direction)
        place = ((x + int(step[0])) % SIZE, (y + int(step[1])) % SIZE)
        changed = [cell for *where, cell in changes if tuple(where) == place]
        if changed:
            return changed[0]
        seen = self.seen.cells[place]
        return node.image[grid.FRONT_CELL] if seen[0] == grid.UNSEEN else seen

    def _moved(self, parent: Node, action: int) -> Key:
        x, y, direction, carried, changes = parent.key
        if action == grid.FORWARD:
            step = grid.forward_vector(direction)
            x, y = (x + int(step[0])) % SIZE, (y + int(step[1])) % SIZE
        else:
            direction = (direction + (1 if action == grid.RIGHT else -1)) % 4
        return x, y, direction, carried, changes

    def _changed(self, parent: Node, image: np.ndarray) -> Key:
        """Key after an interaction: the hand and the front cell are what it can change."""
        x, y, direction, _, changes = parent.key
        before, after = _cell(parent.image[grid.FRONT_CELL]), _cell(image[grid.FRONT_CELL])
        if before != after:
            step = grid.forward_vector(direction)
            front = ((x + int(step[0])) % SIZE, (y + int(step[1])) % SIZE)
            changes = frozenset(change for change in changes if change[:2] != front)
            if after != _cell(self.seen.cells[front]):
                changes |= {(*front, after)}
        return x, y, direction, _cell(image[grid.AGENT_CELL]), changes


def useful_actions(front: np.ndarray | Cell, hand: np.ndarray | Cell, among: Sequence[int]) -> list[int]:
    """The actions that can change anything by MiniGrid's rules, given the cell in front and what is carried.

    Forward needs a front cell that can be entered, or is hidden; pickup an object in front and an empty hand; drop
    a full hand and an empty cell; toggle a door (with its key, if locked) or a box.
    """
    hidden = front[0] == grid.UNSEEN
    full = hand[0] in _PORTABLE
    unlocks = full and hand[0] == _KEY and hand[1] == front[1]
    useful = {
        grid.LEFT: True,
        grid.RIGHT: True,
        grid.FORWARD: hidden or bool(grid.enterable(np.asarray(front))),
        grid.PICKUP: hidden or (not full and front[0] in _PORTABLE),
        grid.DROP: full and (hidden or front[0] == grid.EMPTY),
        grid.TOGGLE: hidden or front[0] == _BOX or (front[0] == grid.DOOR and (front[2] != _LOCKED or unlocks)),
    }
    return [action for action in among if useful.get(action, False)]


def _branched(nodes: Sequence[Node]) -> RolloutState:
    """One state with a lane for each node; nodes may repeat, and each is then encoded only once."""
    unique = list({id(node): node for node in nodes}.values())
    states = list({id(node.state): node.state for node in unique}.values())
    groups = [[node for node in unique if node.state is state] for state in states]
    parts = [state.select(np.array([n.row for n in group])) for state, group in zip(states, groups, strict=True)]
    joint = parts[0] if len(parts) == 1 else parts[0].cat(parts)
    lanes = {id(node): lane for lane, node in enumerate(node for group in groups for node in group)}
    return joint.select(np.array([lanes[id(node)] for node in nodes]))


def _cell(triple: np.ndarray) -> Cell:
    return int(triple[0]), int(triple[1]), int(triple[2])
