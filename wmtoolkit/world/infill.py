"""Plans by infilling: fix the present, set SUCCESS at a later block, and fill in what lies between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from wmtoolkit.errors import UserError
from wmtoolkit.world import geometry
from wmtoolkit.world.batching import placed_frames, reckoned_poses
from wmtoolkit.world.completion import Lane, begun, fill_window, seen_before
from wmtoolkit.world.decoding import choose, first_share
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.rollout import Generators
from wmtoolkit.world.tokenizer import ACTION, BLOCK, FIRST_CELL, Visibility, WorldTokenizer
from wmtoolkit.world.tokens import joined, mission_tokens, told
from wmtoolkit.world.trajectory import Trajectory
from wmtoolkit.world.windows import remembered

_TOKENIZER = WorldTokenizer()


@dataclass(frozen=True)
class InfilledPlan:
    """A way from the present to SUCCESS, as the model fills it in.

    Attributes:
        actions: (h,) int64, 0-6.
        images: (h, 7, 7, 3) uint8, what is expected after each action; None where only actions were asked for.
        action_log_prob: sum of the actions' log-probabilities when they were filled, in nats.
        log_prob: the same of everything that was filled.
    """

    actions: np.ndarray
    images: np.ndarray | None
    action_log_prob: float
    log_prob: float


@torch.inference_mode()
def infill_plan(
    network: WorldNetwork,
    histories: Sequence[Trajectory],
    horizons: Sequence[int],
    *,
    steps: int = 4,
    views: bool = True,
    temperature: float = 0.0,
    generator: Generators = None,
) -> list[list[InfilledPlan]]:
    """See ``AnyOrderWorldModel.infill_plan``.

    Raises:
        UserError: for no horizons, or one the network was not trained on.
    """
    furthest = network.world.span - 1
    if not horizons or min(horizons) < 1 or max(horizons) > furthest:
        raise UserError(f"horizons must be in 1..{furthest} for this model (world.span - 1), not {list(horizons)}")
    if steps < 1:
        raise UserError(f"infilling needs at least 1 step of decoding, not {steps}")
    lanes = [_goal_lane(history, horizon) for history in histories for horizon in horizons]
    for number, lane in enumerate(lanes):
        lane.number = number
    present = np.repeat([len(history) for history in histories], len(horizons))
    if views:
        size = max(horizons) + 1
        fill_window(network, lanes, present, size, steps=steps, temperature=temperature, generator=generator)
        plans = [_plan(lane, start) for lane, start in zip(lanes, present, strict=True)]
    else:
        plans = _action_plans(network, lanes, present, steps=steps, temperature=temperature, generator=generator)
    return [plans[first : first + len(horizons)] for first in range(0, len(plans), len(horizons))]


def _action_plans(
    network: WorldNetwork,
    lanes: list[Lane],
    present: np.ndarray,
    *,
    steps: int,
    temperature: float,
    generator: Generators,
) -> list[InfilledPlan]:
    """Plans without views: of each step to come the network reads action, outcome and heading, and no cell.

    That is a seventeenth of the tokens of these steps, and as many plans come true (EXPERIMENTS.md).
    """
    horizons = np.array([len(lane.ids) - 2 - start for lane, start in zip(lanes, present, strict=True)])
    size = int(horizons.max()) + 1
    valid = np.arange(size) <= horizons[:, None]
    ids = np.full((len(lanes), size, BLOCK), _TOKENIZER.pad)
    for row, (lane, start) in enumerate(zip(lanes, present, strict=True)):
        ids[row, valid[row]] = lane.ids[1 + start :]
    mission = np.stack([lane.ids[0] for lane in lanes])
    position = np.stack([lane.position[start] for lane, start in zip(lanes, present, strict=True)])
    heading = np.stack([lane.heading[start] for lane, start in zip(lanes, present, strict=True)])
    time = np.where(valid, present[:, None] + np.arange(size) + 1, 0)
    context = mission_tokens(network.world.spelled(mission))
    if network.world.memory:
        seen = seen_before(lanes, present)
        memory = remembered(seen, ids[:, 0], position, heading, time[:, 0], network.world.memory)
        context = joined(context, memory)
    slots = np.arange(size * BLOCK)
    read = np.flatnonzero((slots < BLOCK) | (slots % BLOCK < FIRST_CELL))
    asked = context.length + np.flatnonzero(read % BLOCK == ACTION)
    kind = range(_TOKENIZER.actions.start, _TOKENIZER.bos)
    log_probs, begin = np.zeros(valid.shape), begun(network, lanes)
    for round_ in range(steps):
        left = valid & _TOKENIZER.is_masked(ids[..., ACTION])
        if not left.any():
            break
        pose = reckoned_poses(ids, position, heading) if network.world.egomotion else None
        frames = placed_frames(ids, time, pose, valid).columns(read)
        tokens = told(joined(context, frames), network.world, begin, time[:, 0])
        allowed = torch.as_tensor(tokens.valid, device=network.device)[:, None, None, :]
        hidden = network(tokens.tensors(network.device), allowed.expand(-1, 1, tokens.length, -1))
        scored = [(kind.start, network.logits(hidden[:, asked], kind).log_softmax(-1))]
        found, found_log_probs, surest = choose(network, scored, temperature, generator)
        commit = first_share(left, surest, steps - round_)
        ids[..., ACTION] = np.where(commit, found, ids[..., ACTION])
        log_probs = np.where(commit, found_log_probs, log_probs)
    actions = ids[..., ACTION] - _TOKENIZER.actions.start
    totals = log_probs.sum(axis=1).tolist()
    return [
        InfilledPlan(actions=actions[row, 1 : 1 + horizon], images=None, action_log_prob=total, log_prob=total)
        for row, (horizon, total) in enumerate(zip(horizons.tolist(), totals, strict=True))
    ]


def _goal_lane(history: Trajectory, horizon: int) -> Lane:
    """The history, and ``horizon`` hidden steps of which only SUCCESS at the end is visible; asked as the bot's."""
    past, total = len(history), len(history) + horizon

    def longer(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((horizon, *array.shape[1:]), array.dtype)])

    names = ("images", "directions", "actions", "rewards", "terminations", "truncations")
    arrays: dict[str, Any] = {name: longer(getattr(history, name)) for name in names}
    wish = replace(history, behaviour="bot", **arrays)
    wish.rewards[-1], wish.terminations[-1] = 1, True
    visible = Visibility.full(total)
    for mask in (visible.images, visible.directions, visible.outcomes):
        mask[past + 1 :] = False
    visible.actions[past:], visible.outcomes[-1] = False, True
    lane = Lane(wish, visible, 0)
    actions = np.append(-1, history.actions)
    lane.position[: past + 1] = geometry.positions(history.images, history.directions, actions, np.array([0]))
    lane.heading[: past + 1] = history.directions
    return lane


def _plan(lane: Lane, present: int) -> InfilledPlan:
    found = lane.completion().trajectory
    log_probs = lane.log_probs[2 + present :]
    return InfilledPlan(
        actions=found.actions[present:],
        images=found.images[present + 1 :],
        action_log_prob=float(log_probs[:, ACTION].sum()),
        log_prob=float(log_probs.sum()),
    )
