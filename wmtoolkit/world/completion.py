"""Any-order completion: fill any masked subset of a trajectory under full attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wmtoolkit.errors import UserError
from wmtoolkit.world import geometry, grid
from wmtoolkit.world.batching import expected_frames, placed_frames, reckoned_poses
from wmtoolkit.world.decoding import block_log_probs, choose, first_share
from wmtoolkit.world.expectation import note_blocks
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.rollout import Generators
from wmtoolkit.world.tokenizer import (
    ACTION,
    BEHAVIOUR,
    BLOCK,
    FIRST_WORD,
    OUTCOME,
    Visibility,
    WorldTokenizer,
)
from wmtoolkit.world.tokens import joined, mission_tokens, told
from wmtoolkit.world.trajectory import Outcome, Trajectory
from wmtoolkit.world.windows import remembered

_TOKENIZER = WorldTokenizer()


@dataclass(frozen=True)
class Completion:
    """A trajectory without holes.

    Attributes:
        trajectory: of T actions; rewards are 1 where the outcome is SUCCESS.
        log_prob: sum over what was filled, each token's log-probability when it was filled, in nats.
        confidence: (T+2, 52) float32 probability of each token when it was filled, 1 where it was visible; row 0 is
            the mission, row t+1 the step ``[action, outcome, direction, 49 cells]``.
        action_probabilities: (T, 7) float32; outcome_probabilities: (T+1, 4) float32, from the first round;
            one-hot where visible.
    """

    trajectory: Trajectory
    log_prob: float
    confidence: np.ndarray
    action_probabilities: np.ndarray
    outcome_probabilities: np.ndarray


@torch.inference_mode()
def complete(
    network: WorldNetwork,
    trajectories: Sequence[Trajectory],
    visible: Sequence[Visibility],
    *,
    steps: int = 1,
    temperature: float = 0.0,
    generator: Generators = None,
) -> list[Completion]:
    """See ``AnyOrderWorldModel.complete``.

    A trajectory longer than the windows the network was trained on is filled window by window from its start; a
    window shares its first frame with the one before and remembers what was seen earlier.

    Raises:
        UserError: if masks and trajectories disagree in length.
    """
    if len(visible) != len(trajectories):
        raise UserError(f"{len(trajectories)} trajectories need as many masks, not {len(visible)}")
    pairs = zip(trajectories, visible, strict=True)
    lanes = [Lane(trajectory, seen, number) for number, (trajectory, seen) in enumerate(pairs)]
    size = min(network.world.span, max(2, *(len(lane.ids) - 1 for lane in lanes)))
    for start in range(0, max(len(lane.ids) - 1 for lane in lanes), size - 1):
        active = [lane for lane in lanes if start == 0 or len(lane.ids) - 1 > start + 1]
        if active:
            starts = np.full(len(active), start)
            fill_window(network, active, starts, size, steps=steps, temperature=temperature, generator=generator)
    return [lane.completion() for lane in lanes]


class Lane:
    """One trajectory of n frames on its way to be filled.

    Attributes:
        number: of the trajectory, to find its generator by.
        ids: (n+1, 52) blocks, the mission's first; log_probs: the same shape, of what was filled.
        position, heading: (n, 2), (n,) poses, known up to the first frame of the window that is filled next.
    """

    def __init__(self, trajectory: Trajectory, visible: Visibility, number: int) -> None:
        if len(visible.images) != len(trajectory.images) or len(visible.actions) != len(trajectory):
            raise UserError(f"trajectory {number} has {len(trajectory)} actions, its mask has {len(visible.actions)}")
        self.number = number
        self.source = trajectory
        self.ids = _TOKENIZER.encode(trajectory, visible)
        # The first action and outcome are BOS and START by definition: there is nothing to hide.
        self.ids[1, OUTCOME] = _TOKENIZER.outcomes.start + Outcome.START
        self.log_probs = np.zeros(self.ids.shape, np.float32)
        self.position = np.zeros((len(self.ids) - 1, 2), np.int64)
        self.heading = np.zeros(len(self.ids) - 1, np.int64)
        self.heading[0] = trajectory.directions[0] if visible.directions[0] else 0
        self.outcomes = np.eye(len(Outcome), dtype=np.float32)[trajectory.outcomes]
        self.actions = np.eye(len(grid.ACTIONS), dtype=np.float32)[trajectory.actions]

    def completion(self) -> Completion:
        decoded, _ = _TOKENIZER.decode(self.ids)
        trajectory = Trajectory(**{**decoded.__dict__, "level": self.source.level, "seed": self.source.seed})
        return Completion(trajectory, float(self.log_probs.sum()), np.exp(self.log_probs), self.actions, self.outcomes)


def fill_window(
    network: WorldNetwork,
    lanes: list[Lane],
    starts: np.ndarray,
    size: int,
    *,
    steps: int,
    temperature: float = 0.0,
    generator: Generators = None,
) -> None:
    """Fill ``size`` frames of every lane from its ``starts`` on, and the mission: one forward pass a round.

    Args:
        starts: (B,) index of the first frame; the frames before it are remembered.
        size: frames, of which a lane may have fewer.
        steps, temperature, generator: see ``complete``.
    """
    ids = np.full((len(lanes), size, BLOCK), _TOKENIZER.pad)
    valid = np.zeros((len(lanes), size), bool)
    for row, (lane, start) in enumerate(zip(lanes, starts, strict=True)):
        part = lane.ids[1 + start : 1 + start + size]
        ids[row, : len(part)], valid[row, : len(part)] = part, True
    mission = np.stack([lane.ids[0] for lane in lanes])
    if _TOKENIZER.is_masked(mission).any() and network.world.spelled(mission) is not mission:
        raise UserError("words of a mission can only be hidden if the text model's tokenizer leaves every word whole")
    position = np.stack([lane.position[start] for lane, start in zip(lanes, starts, strict=True)])
    heading = np.stack([lane.heading[start] for lane, start in zip(lanes, starts, strict=True)])
    begin = begun(network, lanes)
    time = starts[:, None] + np.arange(size) + 1
    seen = seen_before(lanes, starts) if network.world.memory else None
    memory = None if seen is None else remembered(seen, ids[:, 0], position, heading, time[:, 0], network.world.memory)
    log_probs = np.zeros((len(lanes), 1 + size, BLOCK), np.float32)
    generators = generator
    if generator is not None and not isinstance(generator, torch.Generator):
        generators = [generator[lane.number] for lane in lanes]

    for round_ in range(steps):
        masked = _TOKENIZER.is_masked(np.concatenate([mission[:, None], ids], axis=1))
        masked[:, 1:] &= valid[..., None]
        if not masked.any():
            break
        words = mission_tokens(network.world.spelled(mission))
        context = words if memory is None else joined(words, memory)
        pose = reckoned_poses(ids, position, heading) if network.world.egomotion else None
        expected = None
        if network.world.expectation and pose is not None and seen is not None:
            expected = expected_frames(seen, ids, time, pose, valid)
        frames = placed_frames(ids, np.where(valid, time, 0), pose, valid, expected)
        tokens = told(joined(context, frames), network.world, begin, time[:, 0])
        allowed = torch.as_tensor(tokens.valid, device=network.device)[:, None, None, :]
        hidden = network(tokens.tensors(network.device), allowed.expand(-1, 1, tokens.length, -1))
        frames = hidden[:, context.length :].reshape(len(lanes) * size, BLOCK, -1)
        scored = block_log_probs(network, frames, ids.reshape(-1, BLOCK))
        if round_ == 0:
            _note_marginals(lanes, starts, masked[:, 1:], scored)
        new = np.concatenate([mission[:, None], ids], axis=1)
        new_log_probs = np.zeros(new.shape, np.float32)
        drawn, drawn_log_probs, surest = choose(network, _by_lane(scored, len(lanes)), temperature, generators)
        new[:, 1:] = drawn.reshape(ids.shape)
        new_log_probs[:, 1:] = drawn_log_probs.reshape(ids.shape)
        _fill_mission(network, hidden, new, new_log_probs, words.length)
        sure = new_log_probs.copy()
        sure[:, 1:] = surest.reshape(ids.shape)
        left = masked.reshape(len(lanes), -1)
        commit = first_share(left, sure.reshape(len(lanes), -1), steps - round_).reshape(masked.shape)
        mission = np.where(commit[:, 0], new[:, 0], mission)
        ids = np.where(commit[:, 1:], new[:, 1:], ids)
        log_probs[commit] = new_log_probs[commit]

    pose = reckoned_poses(ids, position, heading)
    for row, (lane, start) in enumerate(zip(lanes, starts, strict=True)):
        count = int(valid[row].sum())
        lane.ids[0], lane.ids[1 + start : 1 + start + count] = mission[row], ids[row, :count]
        lane.log_probs[0] += log_probs[row, 0]
        lane.log_probs[1 + start : 1 + start + count] += log_probs[row, 1 : 1 + count]
        lane.position[start : start + count], lane.heading[start : start + count] = (
            pose[0][row, :count],
            pose[1][row, :count],
        )


def begun(network: WorldNetwork, lanes: list[Lane]) -> np.ndarray:
    """(B,) headings that the network's coordinates begin with, see ``Tokens.turned``."""
    return np.array([lane.heading[0] for lane in lanes]) * network.world.start_heading


def _by_lane(scored: list[tuple[int, torch.Tensor]], lanes: int) -> list[tuple[int, torch.Tensor]]:
    """Lay a lane's frames behind each other, kind by kind, so that each lane draws from its own generator."""
    return [(first, part.reshape(lanes, -1, *part.shape[1:])) for first, part in scored]


def seen_before(lanes: list[Lane], starts: np.ndarray) -> geometry.LastSeen:
    """What was seen before the frames ``starts`` (B,) of the lanes."""
    seen = geometry.LastSeen.empty(len(lanes))
    for row, (lane, start) in enumerate(zip(lanes, starts, strict=True)):
        past = np.arange(start)
        note_blocks(seen, past * 0 + row, lane.ids[1 + past], lane.position[past], lane.heading[past], past + 1)
    return seen


def _note_marginals(
    lanes: list[Lane], starts: np.ndarray, masked: np.ndarray, scored: list[tuple[int, torch.Tensor]]
) -> None:
    actions = scored[ACTION][1][:, 0].exp().numpy(force=True).reshape(*masked.shape[:2], -1)
    outcomes = scored[OUTCOME][1][:, 0].exp().numpy(force=True).reshape(*masked.shape[:2], -1)
    for row, (lane, start) in enumerate(zip(lanes, starts, strict=True)):
        for frame in range(masked.shape[1]):
            if masked[row, frame, ACTION]:
                lane.actions[start + frame - 1] = actions[row, frame]
            if masked[row, frame, OUTCOME]:
                lane.outcomes[start + frame] = outcomes[row, frame]


def _fill_mission(
    network: WorldNetwork, hidden: torch.Tensor, new: np.ndarray, log_probs: np.ndarray, length: int
) -> None:
    """Most likely words and behaviour for the mission block; ``new`` and ``log_probs`` are written in place."""
    for slots, kind in (
        (slice(BEHAVIOUR, FIRST_WORD), _TOKENIZER.behaviours),
        (slice(FIRST_WORD, length), _TOKENIZER.words),
    ):
        best = network.logits(hidden[:, slots], kind).log_softmax(-1).max(-1)
        new[:, 0, slots] = best.indices.numpy(force=True) + kind.start
        log_probs[:, 0, slots] = best.values.numpy(force=True)
