"""Goal-conditioned plans: told that it succeeds h steps from now, does the model take the expert's step?"""

from __future__ import annotations

import numpy as np

from wmtoolkit.data.store import EpisodeStore
from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome

HORIZONS = (1, 2, 4, 8)
_CHUNK = 16


def goal_tally(model: AnyOrderWorldModel, store: EpisodeStore, count: int, rng: np.random.Generator) -> Tally | None:
    """Share of plans whose first action is the bot's.

    Of the bot's successes some are cut h steps before their end, and the plan to succeed in exactly h steps is filled
    in, in one round. Other ways may be as short as the bot's, so even a perfect model stays below 1. None where the
    bot never succeeds.

    Args:
        store: held-out episodes.
        count: plans, shared by the ``HORIZONS`` that the model's windows hold.
    """
    last = np.asarray(store.outcomes)[store.offsets[1:] - 1]
    by_bot = np.asarray(store.behaviours) == BEHAVIOURS.index("bot")
    horizons = [horizon for horizon in HORIZONS if horizon < model.network.world.span]
    right: list[bool] = []
    owner: list[int] = []
    for horizon in horizons:
        found = np.flatnonzero(by_bot & (last == Outcome.SUCCESS) & (store.lengths >= horizon))
        chosen = rng.permutation(found)[: max(1, count // len(horizons))].tolist()
        for low in range(0, len(chosen), _CHUNK):
            episodes = [store.trajectory(episode) for episode in chosen[low : low + _CHUNK]]
            histories = [episode.prefix(len(episode) - horizon) for episode in episodes]
            plans = model.infill_plan(histories, [horizon], steps=1)
            for episode, (plan,) in zip(episodes, plans, strict=True):
                right.append(int(plan.actions[0]) == int(episode.actions[-horizon]))
        owner += chosen
    return Tally.of("share", np.array(right), np.array(owner)) if right else None
