"""Imagined situations as a graph: equal ones merged, whatever ways lead to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from wmtoolkit.agents.budget import ASK, IMAGINE, Meter
from wmtoolkit.agents.protocol import RolloutState
from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome

MOVES = (grid.LEFT, grid.RIGHT, grid.FORWARD)
INTERACTIONS = (grid.PICKUP, grid.DROP, grid.TOGGLE)
SURE = 0.95
"""A cell never seen that is imagined with less confidence than this could as well look otherwise."""
DOUBT = 0.1
"""Share of the policy that is spread evenly, so that no action is ruled out by a policy that errs."""
_EVEN = np.full(len(grid.ACTIONS), 1 / len(grid.ACTIONS))
_KEY, _BOX, _LOCKED = grid.OBJECTS.index("key"), grid.OBJECTS.index("box"), grid.STATES.index("locked")
_THINGS = (*grid.PORTABLE, grid.DOOR)

Cell = tuple[int, int, int]
Key = tuple[int, int, int, Cell, frozenset[tuple[int, int, Cell]]]
"""x, y, heading, what is carried, and which cells were changed, or drawn, as what: equal keys are one situation."""
Pair = tuple[int, int]
"""A node and an action taken there."""


@dataclass(slots=True, eq=False)
class Node:
    """Lane ``row`` of ``state``, first reached from node ``parent`` by ``action``; the root has parent -1.

    ``depth`` counts the steps of that first way. ``children`` maps actions to nodes, merged ones included.
    """

    key: Key
    state: RolloutState
    row: int
    parent: int
    action: int
    depth: int
    children: dict[int, int] = field(default_factory=dict)
    policy: np.ndarray | None = None

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
    def log_prob(self) -> float:
        """Log-probability in nats of what is shown, given all before it."""
        return float(self.state.log_prob[self.row])

    @property
    def prior(self) -> np.ndarray:
        """(7,) the policy if it was asked for, else an even one."""
        return _EVEN if self.policy is None else self.policy

    @property
    def success(self) -> float:
        return float(self.state.outcomes[self.row, Outcome.SUCCESS])

    @property
    def failure(self) -> float:
        return float(self.state.outcomes[self.row, Outcome.FAILURE])


class SearchGraph:
    """What one decision imagines. It grows by pairs of a node and an action, many in one forward pass.

    Prior knowledge of MiniGrid that it uses: turns and steps ahead lead where dead reckoning says, so
    a move into a situation already imagined costs nothing; and ``useful_actions``.

    It begins with the root as node 0.

    Args:
        root: a state of one lane.
        seen: where the agent stands.
        actions: the actions to try.
        meter: told of every node; asked before a pass for the policy.
        refuted: whether a predicted success is known to be false: the episode goes on there.
    """

    def __init__(
        self,
        root: RolloutState,
        seen: SeenMap,
        meter: Meter,
        actions: Sequence[int] = MOVES,
        refuted: Callable[[SearchGraph, Node], bool] = lambda graph, node: False,
    ) -> None:
        self.seen, self.meter, self.actions = seen, meter, tuple(actions)
        self._refuted = refuted
        carried = as_cell(root.images[0][grid.AGENT_CELL])
        self.nodes = [Node((*seen.position, seen.direction, carried, frozenset()), root, 0, -1, -1, 0)]
        # No action led to the first situation of an episode, so it may be a goal that nobody noticed.
        self.by_key = {self.nodes[0].key: 0} if seen.time else {}

    def __len__(self) -> int:
        return len(self.nodes)

    def ends(self, node: int) -> bool:
        """Whether the episode is over in a node, more likely than not."""
        return self._over(self.nodes[node])

    def _over(self, node: Node) -> bool:
        if node.success + node.failure < 0.5:
            return False
        return node.failure >= 0.5 or not self._refuted(self, node)

    def useful(self, node: int) -> list[int]:
        """The actions that can change anything in a node; none where the episode is over."""
        at = self.nodes[node]
        return (
            [] if node and self._over(at) else useful_actions(self._front(at), at.image[grid.AGENT_CELL], self.actions)
        )

    def known(self, node: int, action: int) -> int | None:
        """The node that the action leads to, if it was imagined: by this way or, for moves, by another."""
        at = self.nodes[node]
        if action not in at.children and action in MOVES:
            merged = self.by_key.get(self.moved(at, action))
            if merged is not None:
                at.children[action] = merged
        return at.children.get(action)

    def imagine(self, pairs: Iterable[Pair]) -> list[int]:
        """The nodes that pairs lead to; what is not known yet is imagined in one forward pass, each thing once."""
        pairs = list(pairs)
        wanted: dict[Any, Pair] = {}
        for node, action in pairs:
            if self.known(node, action) is None:
                same = self.moved(self.nodes[node], action) if action in MOVES else (node, action)
                wanted.setdefault(same, (node, action))
        if wanted:
            state = self._stepped(list(wanted.values()))
            for row, (node, action) in enumerate(wanted.values()):
                self.nodes[node].children[action] = self._add(node, action, state, row)
        found = [self.known(node, action) for node, action in pairs]
        return [child for child in found if child is not None]

    def draw(self, pairs: Iterable[Pair], generator: Any) -> list[int]:
        """The nodes that pairs lead to when what was never seen is drawn instead of taken as most likely.

        Things drawn where nothing was seen are part of a situation, as changes are; ``children`` stay as they are.
        """
        pairs = list(pairs)
        if not pairs:
            return []
        state = self._stepped(pairs, temperature=1.0, generator=generator)
        return [self._add(*pair, state, row, drawn=True) for row, pair in enumerate(pairs)]

    def rooted(self, index: int, root: RolloutState, meter: Meter) -> SearchGraph:
        """What is known behind a node that came true, with reality as its root.

        What was handled on the way there is no change any more but as the world is now; situations in which it was
        undone are left out.

        Args:
            index: a node; all that was seen since the root was as imagined.
            root: what is really there, a state of one lane.
            meter: of the new graph.
        """
        graph = SearchGraph(root, self.seen, meter, self.actions, self._refuted)
        graph.nodes[0].policy = self.nodes[index].policy
        places = {change[:2] for change in self.nodes[index].key[4]}
        new, queue = {index: 0}, deque([index])
        while queue:
            old = queue.popleft()
            parent = graph.nodes[new[old]]
            for action, child in self.nodes[old].children.items():
                if child not in new:
                    x, y, direction, hand, changes = self.nodes[child].key
                    if not places <= {change[:2] for change in changes}:
                        continue
                    new[child] = len(graph)
                    node = replace(
                        self.nodes[child],
                        key=(x, y, direction, hand, frozenset(item for item in changes if not self._is_so(item))),
                        parent=new[old],
                        action=action,
                        depth=parent.depth + 1,
                        children={},
                    )
                    graph.nodes.append(node)
                    graph.by_key.setdefault(node.key, new[child])
                    queue.append(child)
                parent.children[action] = new[child]
        return graph

    def came_true(self, index: int, root: RolloutState) -> bool:
        """Whether the hand and all that is changed in a node are really so by now."""
        *_, hand, changes = self.nodes[index].key
        held = as_cell(root.images[0][grid.AGENT_CELL])
        return hand == held and all(map(self._is_so, changes))

    def _is_so(self, change: tuple[int, int, Cell]) -> bool:
        """Whether a cell was really seen last as it was changed to."""
        x, y, cell = change
        return as_cell(self.seen.cells[x, y]) == cell

    def policy(self, nodes: Sequence[int]) -> np.ndarray:
        """(n, 7) the model's policy in nodes, ``DOUBT`` of it spread evenly; asked in one pass where it is not known.

        Even where there is no room for a pass to ask and another to make use of it.
        """
        new = [node for node in dict.fromkeys(nodes) if self.nodes[node].policy is None]
        if new and self.meter.room_for(ASK + IMAGINE):
            asked = _branched([self.nodes[node] for node in new])
            policy = asked.policy()
            for row, node in enumerate(new):
                # what the pass has encoded of the situation serves again when it is stepped from
                self.nodes[node].state, self.nodes[node].row = asked, row
                self.nodes[node].policy = (1 - DOUBT) * policy[row] + DOUBT * _EVEN
        return np.array([self.nodes[node].prior for node in nodes]).reshape(-1, len(grid.ACTIONS))

    def path(self, node: int) -> list[int]:
        """Nodes from the root's child to ``node``, by the first way it was reached."""
        result = []
        while node:
            result.append(node)
            node = self.nodes[node].parent
        return result[::-1]

    def along(self, actions: Iterable[int]) -> list[tuple[int, int]]:
        """(action, node) pairs of the way that actions lead from the root; empty if it is not known to its end."""
        way, node = [], 0
        for action in actions:
            child = self.known(node, action)
            if child is None:
                return []
            way.append((action, child))
            node = child
        return way

    def shortest(self, goals: Mapping[int, float] | Iterable[int]) -> list[tuple[int, int]]:
        """(action, node) pairs of the shortest known way to any of the goals; empty if none is reached.

        Args:
            goals: nodes, or for each of them by how many steps its way counts as longer than it is.
        """
        extra = goals if isinstance(goals, Mapping) else dict.fromkeys(goals, 0.0)
        came: dict[int, tuple[int, int, int]] = {0: (-1, -1, 0)}
        queue = deque([0])
        best, least = -1, np.inf
        while queue and came[queue[0]][2] < least:
            node = queue.popleft()
            depth = came[node][2]
            if depth + extra.get(node, np.inf) < least:
                best, least = node, depth + extra[node]
            for action in self.useful(node):
                child = self.known(node, action)
                if child is not None and child not in came:
                    came[child] = (node, action, depth + 1)
                    queue.append(child)
        way: list[tuple[int, int]] = []
        while best > 0:
            parent, action, _ = came[best]
            way.append((action, best))
            best = parent
        return way[::-1]

    def uncertain(self, node: int) -> bool:
        """Whether a node shows, where nothing was ever seen, cells that could as well look otherwise."""
        at = self.nodes[node]
        return bool((self._never_seen(at.key, at.image) & (at.confidence < SURE)).any())

    def moved(self, parent: Node, action: int) -> Key:
        """Where a turn or a step ahead leads."""
        x, y, direction, carried, changes = parent.key
        if action == grid.FORWARD:
            x, y = ahead(parent.key)
        else:
            direction = (direction + (1 if action == grid.RIGHT else -1)) % 4
        return x, y, direction, carried, changes

    def _stepped(self, pairs: Sequence[Pair], **options: Any) -> RolloutState:
        parents = [self.nodes[node] for node, _ in pairs]
        self.meter.nodes += len(pairs)
        return _branched(parents).step(np.array([action for _, action in pairs]), **options)

    def _add(self, parent_index: int, action: int, state: RolloutState, row: int, drawn: bool = False) -> int:
        """The node of a lane: a new one, or the one that is the same situation."""
        parent = self.nodes[parent_index]
        key = self.moved(parent, action) if action in MOVES else self._changed(parent, state.images[row])
        if drawn:
            key = self._with_things(key, state.images[row])
        node = Node(key, state, row, parent_index, action, parent.depth + 1)
        known = self.by_key.get(key)
        if known is not None and not self._over(node):
            return known
        self.nodes.append(node)
        self.by_key.setdefault(key, len(self.nodes) - 1)
        return len(self.nodes) - 1

    def _front(self, node: Node) -> np.ndarray | Cell:
        """The cell in front: as changed in imagination, or as last really seen, or else as imagined."""
        place = ahead(node.key)
        changed = [cell for *where, cell in node.key[4] if tuple(where) == place]
        if changed:
            return changed[0]
        seen = self.seen.cells[place]
        return node.image[grid.FRONT_CELL] if seen[0] == grid.UNSEEN else seen

    def _changed(self, parent: Node, image: np.ndarray) -> Key:
        """Key after an interaction: the hand and the front cell are what it can change."""
        x, y, direction, _, changes = parent.key
        before, after = as_cell(parent.image[grid.FRONT_CELL]), as_cell(image[grid.FRONT_CELL])
        if before != after:
            front = ahead(parent.key)
            changes = frozenset(change for change in changes if change[:2] != front)
            if after != as_cell(self.seen.cells[front]):
                changes |= {(*front, after)}
        return x, y, direction, as_cell(image[grid.AGENT_CELL]), changes

    def _never_seen(self, key: Key, image: np.ndarray) -> np.ndarray:
        """(7, 7) bool: cells shown where nothing was ever really seen."""
        places = self.seen.index(np.array([key[:2]]), np.array([key[2]]))[0]
        return (image[..., 0] != grid.UNSEEN) & (self.seen.last_seen.reshape(-1)[places] < 0)

    def _with_things(self, key: Key, image: np.ndarray) -> Key:
        """The key with what is shown where nothing was ever seen and nothing was drawn before."""
        new = self._never_seen(key, image) & np.isin(image[..., 0], _THINGS)
        places = self.seen.index(np.array([key[:2]]), np.array([key[2]]))[0][new]
        drawn = {change[:2] for change in key[4]}
        things = {
            (place // SIZE, place % SIZE, as_cell(cell))
            for place, cell in zip(places.tolist(), image[new], strict=True)
            if (place // SIZE, place % SIZE) not in drawn
        }
        return *key[:4], key[4] | things


def useful_actions(front: np.ndarray | Cell, hand: np.ndarray | Cell, among: Sequence[int]) -> list[int]:
    """The actions that can change anything by MiniGrid's rules, given the cell in front and what is carried.

    Forward needs a front cell that can be entered, or is hidden; pickup an object in front and an empty hand; drop
    a full hand and an empty cell; toggle a door (with its key, if locked) or a box.
    """
    return list(_useful_actions(as_cell(front), as_cell(hand), tuple(among)))


@lru_cache(maxsize=4096)
def _useful_actions(front: Cell, hand: Cell, among: tuple[int, ...]) -> tuple[int, ...]:
    hidden = front[0] == grid.UNSEEN
    full = hand[0] in grid.PORTABLE
    unlocks = full and hand[0] == _KEY and hand[1] == front[1]
    useful = {
        grid.LEFT: True,
        grid.RIGHT: True,
        grid.FORWARD: hidden or bool(grid.enterable(np.array(front))),
        grid.PICKUP: hidden or (not full and front[0] in grid.PORTABLE),
        grid.DROP: full and (hidden or front[0] == grid.EMPTY),
        grid.TOGGLE: hidden or front[0] == _BOX or (front[0] == grid.DOOR and (front[2] != _LOCKED or unlocks)),
    }
    return tuple(action for action in among if useful.get(action, False))


def _branched(nodes: Sequence[Node]) -> RolloutState:
    """One state with a lane for each node; nodes may repeat, and each is then encoded only once."""
    unique = list({id(node): node for node in nodes}.values())
    states = list({id(node.state): node.state for node in unique}.values())
    groups = [[node for node in unique if node.state is state] for state in states]
    parts = [state.select(np.array([n.row for n in group])) for state, group in zip(states, groups, strict=True)]
    joint = parts[0] if len(parts) == 1 else parts[0].cat(parts)
    lanes = {id(node): lane for lane, node in enumerate(node for group in groups for node in group)}
    return joint.select(np.array([lanes[id(node)] for node in nodes]))


def ahead(key: tuple[int, int, int] | Key) -> tuple[int, int]:
    """The place in front of a pose, which a key begins with."""
    step = grid.forward_vector(key[2])
    return (key[0] + int(step[0])) % SIZE, (key[1] + int(step[1])) % SIZE


def as_cell(triple: np.ndarray | Cell) -> Cell:
    """Object, colour and state of a cell."""
    return int(triple[0]), int(triple[1]), int(triple[2])
