"""Is the outcome seen coming, at every place in a window, and because of the mission."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.prediction import CHUNK, asked_as_bot, next_blocks, outcome_tallies
from wmtoolkit.evaluation.transitions import all_steps
from wmtoolkit.world import windows
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import FIRST_WORD, OUTCOME
from wmtoolkit.world.trajectory import Outcome


@dataclass(frozen=True)
class OutcomeSteps:
    """Steps on which outcomes are asked.

    Attributes:
        episode, step, outcome: (N,).
        weight: (N,) float64, how many steps of the episodes each stands for.
        near: (N,) bool, the step looks like a success of its level and is none (``Frames.near_misses``).
        swapped: (N, 52) mission block of another mission, or -1 where there is none.
    """

    episode: np.ndarray
    step: np.ndarray
    outcome: np.ndarray
    weight: np.ndarray
    near: np.ndarray
    swapped: np.ndarray


def outcome_steps(frames: windows.Frames, successes: int, others: int, rng: np.random.Generator) -> OutcomeSteps:
    """Draw steps that end in success and steps that do not, half of these near misses; each weighs as it occurs."""
    target = all_steps(frames)
    ends = np.asarray(frames.outcomes)[target] == Outcome.SUCCESS
    near = np.isin(target, frames.near_misses)
    rest = target[~ends & ~near]
    misses = min(int(near.sum()), max(others // 2, others - len(rest)))
    chosen, weight = [], []
    for kind, wanted in ((target[ends], successes), (target[near], misses), (rest, others - misses)):
        drawn = rng.permutation(kind)[:wanted]
        chosen.append(drawn)
        weight.append(np.full(len(drawn), len(kind) / max(len(drawn), 1)))
    drawn = np.concatenate(chosen)
    episode = np.searchsorted(frames.offsets, drawn, side="right") - 1
    outcome = np.asarray(frames.outcomes, dtype=np.int64)[drawn]
    swapped = _other_missions(frames, episode, rng)
    swapped[outcome != Outcome.SUCCESS] = -1
    step = drawn - frames.offsets[episode] - 1
    return OutcomeSteps(episode, step, outcome, np.concatenate(weight), np.isin(drawn, frames.near_misses), swapped)


def _other_missions(frames: windows.Frames, episode: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mission block of the same level that names none of the objects of the own mission; -1 where there is none."""
    result = frames.missions[episode]
    result[:, FIRST_WORD:] = frames.other_missions.draw(episode, rng)
    result[result[:, FIRST_WORD] < 0] = -1
    return result


@torch.inference_mode()
def success_probabilities(
    model: AnyOrderWorldModel,
    frames: windows.Frames,
    episode: np.ndarray,
    step: np.ndarray,
    position: int,
) -> np.ndarray:
    """P(outcome) (N, 4) of steps, asked as the ``position``-th supervised block of a window, from 1.

    So many true frames of the window come before it.
    """
    found = []
    for low in range(0, len(episode), CHUNK):
        part = slice(low, low + CHUNK)
        start = step[part] + 1 - position
        window = asked_as_bot(windows.cut(frames, episode[part], start, position + 1, model.network.world))
        scored, _, _ = next_blocks(model, window)
        found.append(scored[OUTCOME][1][:, 0].exp().numpy(force=True))
    return np.concatenate(found) if found else np.zeros((0, len(Outcome)), np.float32)


def grounded_outcomes(
    model: AnyOrderWorldModel, frames: windows.Frames, steps: OutcomeSteps
) -> dict[int, dict[str, Tally]]:
    """Outcome metrics at every position of a supervised block that the model was trained on, from 1.

    ``outcome_precision``, ``outcome_recall``, ``outcome_f1`` of SUCCESS (each step weighs as much as it occurs);
    ``success_probability`` and ``success_probability_swapped``: mean P(SUCCESS) where an episode succeeds, and the same
    under another mission; ``swap_falls``: share of these in which the other mission at least halves it;
    ``success_probability_near_miss``: mean P(SUCCESS) of steps that look like a success of their level and are none.
    """
    found: dict[int, dict[str, Tally]] = {}
    for position in range(1, model.network.world.recent + 1):
        there = steps.step + 1 >= position
        episode, step, true = steps.episode[there], steps.step[there], steps.outcome[there]
        said = success_probabilities(model, frames, episode, step, position)
        tallies = outcome_tallies(said.argmax(-1), true, episode, steps.weight[there])
        near = steps.near[there]
        if near.any():
            chances = said[near, Outcome.SUCCESS]
            tallies["success_probability_near_miss"] = Tally.of("mean", chances, episode[near])
        swap = np.flatnonzero(steps.swapped[there, 0] >= 0)
        if len(swap):
            before = said[swap, Outcome.SUCCESS]
            missions = frames.missions.copy()
            missions[episode[swap]] = steps.swapped[there][swap]  # an episode succeeds once at most
            other = replace(frames, missions=missions)
            after = success_probabilities(model, other, episode[swap], step[swap], position)[:, Outcome.SUCCESS]
            tallies["success_probability"] = Tally.of("mean", before, episode[swap])
            tallies["success_probability_swapped"] = Tally.of("mean", after, episode[swap])
            tallies["swap_falls"] = Tally.of("share", after < before / 2, episode[swap])
        found[position] = tallies
    return found
