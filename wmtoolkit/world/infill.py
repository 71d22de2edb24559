"""Plans by infilling: fix the present, set SUCCESS at a later block, and fill in what lies between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wmtoolkit.errors import UserError
from wmtoolkit.world import geometry
from wmtoolkit.world.completion import Lane, fill_window
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.rollout import Generators
from wmtoolkit.world.tokenizer import ACTION, Visibility
from wmtoolkit.world.trajectory import Trajectory


@dataclass(frozen=True)
class InfilledPlan:
    """A way from the present to SUCCESS, as the model fills it in.

    Attributes:
        actions: (h,) int64, 0-6.
        images: (h, 7, 7, 3) uint8, what is expected after each action.
        action_log_prob: sum of the actions' log-probabilities when they were filled, in nats.
        log_prob: the same of everything that was filled.
    """

    actions: np.ndarray
    images: np.ndarray
    action_log_prob: float
    log_prob: float


@torch.inference_mode()
def infill_plan(
    network: WorldNetwork,
    histories: Sequence[Trajectory],
    horizons: Sequence[int],
    *,
    steps: int = 4,
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
    fill_window(network, lanes, present, max(horizons) + 1, steps=steps, temperature=temperature, generator=generator)
    plans = [_plan(lane, start) for lane, start in zip(lanes, present, strict=True)]
    return [plans[first : first + len(horizons)] for first in range(0, len(plans), len(horizons))]


def _goal_lane(history: Trajectory, horizon: int) -> Lane:
    """The history, and ``horizon`` hidden steps of which only SUCCESS at the end is visible; asked as the bot's."""
    past, total = len(history), len(history) + horizon

    def longer(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array, np.zeros((horizon, *array.shape[1:]), array.dtype)])

    arrays = ("images", "directions", "actions", "rewards", "terminations", "truncations")
    wish = Trajectory(**{**history.__dict__, "behaviour": "bot", **{n: longer(getattr(history, n)) for n in arrays}})
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
