"""Imagined rollouts: a batch of states that step, branch and re-order, with the context's keys and values cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from wmtoolkit.llada2 import BlockCache
from wmtoolkit.world import geometry, grid
from wmtoolkit.world.decoding import Filled, block_log_probs, fill, true_log_probs
from wmtoolkit.world.expectation import expected_view
from wmtoolkit.world.lanes import Lanes
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import (
    ACTION,
    ATTRIBUTES,
    BEHAVIOUR,
    BLOCK,
    DIRECTION,
    FIRST_CELL,
    OUTCOME,
    WorldTokenizer,
)
from wmtoolkit.world.tokens import (
    Tokens,
    action_tokens,
    frame_tokens,
    joined,
    memory_tokens,
    mission_tokens,
    reckon,
    told,
)
from wmtoolkit.world.trajectory import Outcome, Trajectory
from wmtoolkit.world.windows import attention, context_copy

_TOKENIZER = WorldTokenizer()
FEW = 4
"""Up to so many lanes, a step that is asked once takes one pass over context and block. More lanes take two: what they
save in calls they would lose to larger temporary arrays."""
Generators = torch.Generator | Sequence[torch.Generator] | None
_SHOWN = ("images", "directions", "outcomes", "sampled_outcomes", "confidence", "log_prob", "total_log_prob")
"""What a state shows of each lane."""


class RolloutState:
    """B imagined (or real) states. Immutable from outside: ``step`` and ``select`` return new states.

    Attributes:
        images: (B, 7, 7, 3) uint8, the last observation of each lane.
        directions: (B,) int64.
        outcomes: (B, 4) float32, P(outcome) of the last step, indexed by ``Outcome``.
        sampled_outcomes: (B,) int64, the outcome decided on (the most likely one, or drawn).
        confidence: (B, 7, 7) float32, probability of each shown cell; 1 for real observations.
        log_prob: (B,) float32, log-probability of the last imagined frame given its past, in nats.
        total_log_prob: (B,) float32, the same summed over all imagined frames of the lane.
    """

    def __init__(
        self,
        network: WorldNetwork,
        lanes: Lanes,
        memory: int,
        filled: Filled | None = None,
        total_log_prob: np.ndarray | None = None,
    ) -> None:
        self._network, self._lanes, self._memory = network, lanes, memory
        self._cache: BlockCache | None = None
        self._cached: np.ndarray | None = None
        count, last = len(lanes), lanes.ids[:, -1]
        self.images = _TOKENIZER.cell_attributes(last[:, FIRST_CELL:]).reshape(count, grid.VIEW, grid.VIEW, 3)
        self.images = self.images.astype(np.uint8)
        self.directions = last[:, DIRECTION] - _TOKENIZER.directions.start
        self.sampled_outcomes = last[:, OUTCOME] - _TOKENIZER.outcomes.start
        if filled is None:
            self.outcomes = np.eye(len(Outcome), dtype=np.float32)[self.sampled_outcomes]
            self.confidence = np.ones((count, grid.VIEW, grid.VIEW), np.float32)
            self.log_prob = np.zeros(count, np.float32)
        else:
            self.outcomes = filled.outcomes
            self.confidence = np.exp(filled.log_probs[:, FIRST_CELL:]).reshape(count, grid.VIEW, grid.VIEW)
            self.log_prob = filled.log_probs.sum(axis=1)
        self.total_log_prob = np.zeros(count, np.float32) if total_log_prob is None else total_log_prob

    def __len__(self) -> int:
        """Number of lanes B."""
        return len(self._lanes)

    @classmethod
    def start(
        cls, network: WorldNetwork, histories: Sequence[Trajectory], *, memory: int | None = None
    ) -> RolloutState:
        """One lane a history; each has at least one observation. ``memory``: see ``WorldConfig.checked_memory``."""
        world = network.world
        lanes = Lanes.of(histories, world.recent, remember=world.memory > 0)
        return cls(network, lanes, world.checked_memory(memory))

    @classmethod
    @torch.inference_mode()
    def dream(
        cls,
        network: WorldNetwork,
        missions: Sequence[str],
        *,
        temperature: float = 1.0,
        steps: int = 16,
        generator: Generators = None,
        memory: int | None = None,
    ) -> RolloutState:
        """One lane a mission, whose first observation is drawn from the model in ``steps`` rounds.

        ``memory``, of what follows: see ``WorldConfig.checked_memory``.
        """
        world, count = network.world, len(missions)
        lanes = Lanes.empty(missions, world.recent, remember=world.memory > 0)
        state = cls(network, lanes, world.checked_memory(memory))
        block = np.full((count, BLOCK), _TOKENIZER.mask)
        block[:, ACTION] = _TOKENIZER.bos
        block[:, OUTCOME] = _TOKENIZER.outcomes.start + Outcome.START
        block[:, FIRST_CELL:] = _TOKENIZER.masked_cell
        state._encode_context()
        time, nowhere = np.ones(count, np.int64), np.zeros((count, 2), np.int64)
        unknown = np.zeros(count, bool)

        def hidden(ids: np.ndarray) -> torch.Tensor:
            return state._decode(state._frames(ids[:, None], time[:, None], nowhere, time * 0, unknown))

        filled = fill(network, block, hidden, temperature=temperature, steps=steps, generator=generator)
        heading = filled.ids[:, DIRECTION] - _TOKENIZER.directions.start
        return state._followed(filled, time, nowhere, heading, start=heading)

    @torch.inference_mode()
    def step(
        self,
        actions: np.ndarray | Sequence[int],
        *,
        temperature: float = 0.0,
        steps: int = 1,
        generator: Generators = None,
    ) -> RolloutState:
        """Imagine one step in every lane: one batched forward pass.

        Args:
            actions: (B,) 0-6.
            temperature: 0 takes the most likely token everywhere; above, tokens are drawn.
            steps: 1 fills all tokens at once; n fills them in n rounds, the most confident first.
            generator: for drawing; one, or a list of B so that lanes do not depend on their neighbours.
        """
        block, hidden, where = self._question(actions)
        if steps > 1 or len(self) > FEW:
            self._encode_context()
        filled = fill(self._network, block, hidden, temperature=temperature, steps=steps, generator=generator)
        return self._followed(filled, *where)

    @torch.inference_mode()
    def cell_probabilities(self, actions: np.ndarray | Sequence[int]) -> np.ndarray:
        """What each cell of the next view may hold after ``actions`` (B,), before any of them is decided on.

        Returns:
            (B, 7, 7, 11, 6, 4) float32, ``[lane, column, row, object, colour, state]`` by MiniGrid's ids; each cell's
            sum to 1. ``p[0, 3, 5, grid.DOOR].sum()`` is the probability of a door in front of lane 0's agent.
        """
        block, hidden, _ = self._question(actions)
        if len(self) > FEW:
            self._encode_context()
        _, cells = block_log_probs(self._network, hidden(block), block)[-1]
        return cells.exp().view(len(self), grid.VIEW, grid.VIEW, *ATTRIBUTES).numpy(force=True)

    @torch.inference_mode()
    def log_likelihood(self, actions: np.ndarray | Sequence[int], blocks: np.ndarray) -> np.ndarray:
        """How likely ``actions`` (B,) lead to what ``blocks`` (B, 52), the tokenizer's, hold: (B,) log-probability of
        outcome, heading and cells in nats, each token as if it knew nothing of the others."""
        block, hidden, _ = self._question(actions)
        self._encode_context()
        return true_log_probs(self._network, block_log_probs(self._network, hidden(block), block), blocks).sum(-1)

    def _question(
        self, actions: np.ndarray | Sequence[int]
    ) -> tuple[np.ndarray, Callable[[np.ndarray], torch.Tensor], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What comes after ``actions``: its block (B, 52), masked but for the action; what gives the hidden states of
        such blocks; and its time, position and heading."""
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (len(self),) or actions.min() < 0 or actions.max() >= len(grid.ACTIONS):
            raise ValueError(f"actions must be {len(self)} integers in 0..{len(grid.ACTIONS) - 1}, not {actions}")
        block = np.full((len(self), BLOCK), _TOKENIZER.mask)
        block[:, ACTION] = _TOKENIZER.actions.start + actions
        block[:, FIRST_CELL:] = _TOKENIZER.masked_cell
        before = self._lanes.ids[:, -1]
        position, heading, time = self._now()
        position, heading, known = reckon(block, before, position, heading)
        time = time + 1
        shown = self._shown() if self._network.world.expectation else None

        def hidden(ids: np.ndarray) -> torch.Tensor:
            expected = None
            if shown is not None:
                expected = expected_view(shown, before, ids, position, heading, known)[:, None]
            return self._decode(self._frames(ids[:, None], time[:, None], position, heading, known, expected=expected))

        return block, hidden, (time, position, heading)

    @torch.inference_mode()
    def policy(self) -> np.ndarray:
        """(B, 7) float32 probabilities of the next action, asked as the bot's: a pass of one token a lane, in which the
        context is encoded too if it was not yet."""
        egomotion = self._network.world.egomotion
        tokens = action_tokens(
            self._lanes.time[:, -1:] + 1,
            self._lanes.position[:, -1:] if egomotion else None,
            self._lanes.heading[:, -1:] if egomotion else None,
            np.ones((len(self), 1), bool),
        )
        hidden = self._decode(tokens, writing=True)[:, 0]
        actions = range(_TOKENIZER.actions.start, _TOKENIZER.bos)
        return self._network.logits(hidden, actions).softmax(-1).numpy(force=True)

    def select(self, rows: np.ndarray | Sequence[int]) -> RolloutState:
        """A state whose lane i is a copy of lane ``rows[i]``: branch, re-order or drop lanes."""
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) > len(self):
            self._encode_context()  # once for all copies
        chosen = object.__new__(RolloutState)
        chosen.__dict__.update(self.__dict__)
        chosen._lanes = self._lanes.select(rows)
        for name in _SHOWN:
            setattr(chosen, name, getattr(self, name)[rows])
        if self._cache is not None and self._cached is not None:
            chosen._cache = self._cache.select(torch.as_tensor(rows, device=self._network.device))
            chosen._cached = self._cached[rows]
        return chosen

    @staticmethod
    def cat(states: Sequence[RolloutState]) -> RolloutState:
        """The lanes of several states of one model in one state, in order. If any is encoded, all are, those that
        were not yet in one pass."""
        if len({state._memory for state in states}) > 1:
            raise ValueError("states that are shown differently much of the past cannot be lanes of one state")
        joint = object.__new__(RolloutState)
        joint.__dict__.update(states[0].__dict__)
        joint._lanes = Lanes.cat([state._lanes for state in states])
        for name in _SHOWN:
            setattr(joint, name, np.concatenate([getattr(state, name) for state in states]))
        joint._cache = joint._cached = None
        if any(state._cache is not None for state in states):
            RolloutState._encode_together([state for state in states if state._cache is None])
            caches = [state._encode_context() for state in states]
            longest = max(cached.shape[1] for _, cached in caches)
            joint._cache = BlockCache.cat([cache for cache, _ in caches])
            joint._cached = np.concatenate(
                [np.pad(cached, ((0, 0), (0, longest - cached.shape[1]))) for _, cached in caches]
            )
        return joint

    @staticmethod
    def _encode_together(states: Sequence[RolloutState]) -> None:
        """Encode states, none of which is encoded yet, in one pass."""
        if len(states) < 2:
            return  # one alone takes a single pass anyway
        joint = RolloutState.cat(states)
        joint._encode_context()
        first = 0
        for state in states:
            own = joint.select(np.arange(first, first + len(state)))
            state._cache, state._cached = own._cache, own._cached
            first += len(state)

    def replace(self, rows: np.ndarray | Sequence[int], other: RolloutState) -> RolloutState:
        """A state in which lane ``rows[i]`` is lane i of ``other``, and the rest stays."""
        order = np.arange(len(self))
        order[np.asarray(rows, dtype=np.int64)] = len(self) + np.arange(len(other))
        return RolloutState.cat([self, other]).select(order)

    def _followed(
        self,
        filled: Filled,
        time: np.ndarray,
        position: np.ndarray,
        heading: np.ndarray,
        start: np.ndarray | None = None,
    ) -> RolloutState:
        """The state after ``filled`` has become the newest frame of every lane."""
        lanes = self._lanes.followed(filled.ids, time, position, heading, start)
        return RolloutState(
            self._network, lanes, self._memory, filled, self.total_log_prob + filled.log_probs.sum(axis=1)
        )

    def _encode_context(self) -> tuple[BlockCache, np.ndarray]:
        """Run the network over mission, memory and kept frames once; returns their keys and values, which are kept,
        and which of them (B, S) are there."""
        if self._cache is not None and self._cached is not None:
            return self._cache, self._cached
        tokens, allowed = self._context()
        cache = BlockCache()
        device = self._network.device
        self._network(tokens.tensors(device), torch.as_tensor(allowed, device=device), cache, keep=0)
        cache.writing = False
        self._cache, self._cached = cache, tokens.valid
        return cache, tokens.valid

    def _context(self) -> tuple[Tokens, np.ndarray]:
        """Mission, memory and kept frames as S tokens, and which of them (B, 1, S, S) each attends to."""
        lanes, frames = self._lanes, slice(self._first, None)
        context = mission_tokens(self._network.world.spelled(lanes.mission))
        if lanes.seen is not None:
            context = joined(context, memory_tokens(*lanes.seen.recall(*self._now(), self._memory, multiple=8)))
        kept = lanes.ids[:, frames]
        tokens = self._frames(
            kept,
            lanes.time[:, frames],
            lanes.position[:, frames],
            lanes.heading[:, frames],
            np.ones(kept.shape[:2], bool),
            lanes.valid[:, frames],
        )
        order = np.repeat(np.arange(kept.shape[1]), BLOCK)
        allowed = attention((context, np.full(context.length, -1), context_copy(context)), (tokens, order, 0))
        return self._told(joined(context, tokens)), allowed

    @property
    def _first(self) -> int:
        """Place of the first frame that is read. What is not in the newest one is remembered, if cells are: the frames
        before it are not needed then."""
        return -1 if self._lanes.seen is not None else -1 - self._memory

    def _told(self, tokens: Tokens) -> Tokens:
        """Tokens in the coordinates and by the clock of the network."""
        world = self._network.world
        return told(tokens, world, self._lanes.start * world.start_heading, self._lanes.time[:, self._first])

    def _now(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position (B, 2), heading (B,) and time (B,) of the newest frames."""
        return self._lanes.position[:, -1], self._lanes.heading[:, -1], self._lanes.time[:, -1]

    def _shown(self) -> geometry.LastSeen:
        """What may be expected to be seen again: all sightings, as in training, unless memory is limited."""
        assert self._lanes.seen is not None
        if self._memory == self._network.world.memory:
            return self._lanes.seen
        return self._lanes.seen.limited(*self._now(), self._memory)

    def _frames(
        self,
        ids: np.ndarray,
        time: np.ndarray,
        position: np.ndarray,
        heading: np.ndarray,
        known: np.ndarray,
        valid: np.ndarray | None = None,
        expected: np.ndarray | None = None,
    ) -> Tokens:
        """Frames (B, n, 52) as tokens; poses may lack the frame axis when n = 1."""
        if heading.ndim == 1:
            position, heading, known = position[:, None], heading[:, None], known[:, None]
        if not self._network.world.egomotion:
            return frame_tokens(ids, time, valid=valid)
        return frame_tokens(ids, time, position, heading, known, valid, expected)

    def _decode(self, tokens: Tokens, writing: bool = False) -> torch.Tensor:
        """Hidden states (B, S, H) of one block, or of a lone action, behind the context: what is cached of it, or in
        one pass with it, which is kept only if ``writing``."""
        device, new = self._network.device, tokens.length
        tokens = self._told(tokens)
        if self._cache is None or self._cached is None:
            context, allowed = self._context()
            before = context.valid
        else:
            before = self._cached
        valid = np.concatenate([before, tokens.valid], axis=1)
        valid[:, BEHAVIOUR] &= new == 1  # see windows.context_copy
        if self._cache is not None:
            mask = torch.as_tensor(valid, device=device)[:, None, None, :].expand(-1, 1, new, -1)
            return self._network(replace(tokens, words=self._lanes.mission).tensors(device), mask, self._cache)
        allowed = np.pad(allowed, ((0, 0), (0, 0), (0, new), (0, new)))
        allowed[:, :, -new:] = valid[:, None, None]
        mask, joint = torch.as_tensor(allowed, device=device), joined(context, tokens).tensors(device)
        if not writing:
            return self._network(joint, mask, keep=new, prefix=context.length)
        cache = BlockCache()
        hidden = self._network(joint, mask, cache, keep=new)
        cache.keep(torch.arange(context.length, device=device))
        cache.writing = False
        self._cache, self._cached = cache, context.valid
        return hidden
