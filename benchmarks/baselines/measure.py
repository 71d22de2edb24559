"""The same measurements for every predictor, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wmtoolkit.benchmarks.baselines import autoregressive, convolutional
from wmtoolkit.data.store import EpisodeStore
from wmtoolkit.evaluation.bounds import forward_chain
from wmtoolkit.evaluation.completion import inverse_probabilities
from wmtoolkit.evaluation.goals import goal_tally
from wmtoolkit.evaluation.held_out import HeldOut
from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.outcomes import outcome_steps
from wmtoolkit.evaluation.prediction import (
    BASELINES,
    StepPredictions,
    event_tallies,
    inverse_by_bayes,
    model_predictions,
    outcome_tallies,
    prediction_tallies,
)
from wmtoolkit.evaluation.prior import CellPrior
from wmtoolkit.evaluation.transitions import all_steps, draw_steps, looks_changed, transitions
from wmtoolkit.world import grid, windows
from wmtoolkit.world.batching import block_causal_batch
from wmtoolkit.world.decoding import block_log_probs
from wmtoolkit.world.masks import Masks
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import BLOCK, DIRECTION, FIRST_CELL, OUTCOME, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS

_TOKENIZER = WorldTokenizer()
HIDDEN = 0.3
"""Share of the cells of a frame that the belief query hides."""
Steps = Callable[[windows.Frames, np.ndarray], StepPredictions]
Actions = Callable[[windows.Frames, np.ndarray], np.ndarray]
Fill = Callable[[windows.Frames, np.ndarray, np.ndarray], np.ndarray]
Goal = Callable[[EpisodeStore, int, np.random.Generator], Tally | None]


@dataclass(frozen=True)
class Predictor:
    """What a model can be asked; None for what it cannot answer.

    Attributes:
        steps: the steps that led to frames (N,).
        policy, inverse: (N, 7) probabilities of the action that led to frames, from the past alone or from both sides;
            bayes: the latter by Bayes' rule from the steps that each action would lead to.
        fill: ids (N, 52) of frames of which only the given tokens (N, 52) are shown, after their clean past.
        goal: ``goal_tally`` of some plans.
        chain: (N, 52) nats of outcome, heading and cells by the chain rule; None: those of ``steps``, of a predictor
            that holds its tokens to be independent.
        at_once: whether the log-probabilities of ``steps`` are of tokens that know nothing of each other; else each
            knows those before it.
    """

    steps: Steps | None = None
    policy: Actions | None = None
    inverse: Actions | None = None
    bayes: Actions | None = None
    fill: Fill | None = None
    goal: Goal | None = None
    chain: Callable[[windows.Frames, np.ndarray], np.ndarray] | None = None
    at_once: bool = True


def any_order(model: AnyOrderWorldModel) -> Predictor:
    """The world model."""

    def policy(frames: windows.Frames, target: np.ndarray) -> np.ndarray:
        found = model_predictions(model, frames, target).actions
        assert found is not None
        return found

    return Predictor(
        steps=lambda frames, target: model_predictions(model, frames, target),
        chain=lambda frames, target: forward_chain(model, frames, target),
        policy=policy,
        inverse=lambda frames, target: inverse_probabilities(model, frames, target),
        bayes=lambda frames, target: inverse_by_bayes(model, frames, target),
        fill=lambda frames, target, given: _filled_in(model, frames, target, given),
        goal=lambda store, count, rng: goal_tally(model, store, count, rng),
    )


def left_to_right(network: WorldNetwork) -> Predictor:
    """The autoregressive rival."""

    def inverse(frames: windows.Frames, target: np.ndarray) -> np.ndarray:
        return autoregressive.inverse(network, frames, target)

    return Predictor(
        steps=lambda frames, target: autoregressive.continued(network, frames, target),
        at_once=False,
        chain=lambda frames, target: autoregressive.chain(network, frames, target),
        policy=lambda frames, target: autoregressive.policy(network, frames, target),
        inverse=inverse,
        bayes=inverse,
        fill=lambda frames, target, given: autoregressive.filled(network, frames, target, given),
    )


def one_step(network: convolutional.StepNetwork) -> Predictor:
    """The convolutional one-step predictor."""
    return Predictor(steps=lambda frames, target: convolutional.predicted(network, frames, target))


def cloning(network: convolutional.CloningNetwork) -> Predictor:
    """Behaviour cloning."""
    return Predictor(policy=lambda frames, target: convolutional.cloned_actions(network, frames, target))


def untrained(name: str) -> Predictor:
    """Copy-last-frame or the dead-reckoned map."""
    return Predictor(steps=lambda frames, target: BASELINES[name](transitions(frames, target)))


def frequencies(frames: windows.Frames, samples: int, rng: np.random.Generator) -> Predictor:
    """The empirical prior: what is most common at each place of the view, of headings and of outcomes."""
    target = rng.permutation(all_steps(frames))[:samples]
    cells = _TOKENIZER.cell_ids(np.asarray(frames.images[target])).reshape(len(target), -1)
    prior = CellPrior.counted(np.tile(np.arange(grid.CELLS), len(target)), cells.ravel())
    chances = [
        np.bincount(np.asarray(column)[target], minlength=4) + 0.01 for column in (frames.outcomes, frames.directions)
    ]
    scores = [np.log(count / count.sum()) for count in chances]

    def steps(frames: windows.Frames, target: np.ndarray) -> StepPredictions:
        count = len(target)
        true = _TOKENIZER.cell_ids(np.asarray(frames.images[target])).reshape(count, -1)
        log_probs = np.zeros((count, BLOCK))
        for slot, (score, column) in enumerate(zip(scores, (frames.outcomes, frames.directions), strict=True), start=1):
            log_probs[:, slot] = score[np.asarray(column)[target]]
        log_probs[:, FIRST_CELL:] = -prior.nll(true)
        best = prior.log_probs.argmax(-1)
        return StepPredictions(
            cells=np.tile(best + _TOKENIZER.cells.start, (count, 1)),
            headings=np.full(count, scores[1].argmax()),
            outcomes=np.full(count, scores[0].argmax()),
            confidence=np.tile(np.exp(prior.log_probs.max(-1)), (count, 1)),
            log_probs=log_probs,
        )

    return Predictor(steps=steps)


@torch.inference_mode()
def _filled_in(
    model: AnyOrderWorldModel, frames: windows.Frames, target: np.ndarray, given: np.ndarray, chunk: int = 64
) -> np.ndarray:
    """The world model's ``Predictor.fill``: cells only, all at once, after the clean past."""
    network, device = model.network, model.network.device
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    parts = []
    for low in range(0, len(target), chunk):
        part = slice(low, low + chunk)
        window = windows.cut(frames, episode[part], step[part], 2, network.world)
        shown = given[part][:, None]
        cells = np.broadcast_to(shown[..., FIRST_CELL:, None], (*shown.shape[:2], grid.CELLS, 3))
        drawn = Masks(shown[..., :FIRST_CELL], cells, np.zeros(shown.shape[:2], np.int64))
        batch = block_causal_batch(window, drawn, np.zeros((len(shown), 2), bool), network.world)
        hidden = network(batch.tokens.tensors(device), batch.attention(device))
        scored = block_log_probs(network, hidden[:, batch.first : batch.first + BLOCK], batch.given[:, 0])
        ids = batch.target[:, 0].copy()
        best = network.completions.to(device)[scored[-1][1].argmax(-1)].numpy(force=True)
        ids[:, FIRST_CELL:] = np.where(given[part][:, FIRST_CELL:], ids[:, FIRST_CELL:], best)
        parts.append(ids)
    return np.concatenate(parts)


def measure(predictor: Predictor, parts: Sequence[HeldOut], samples: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Metrics over all levels: those of ``prediction_tallies``, of the outcome, of each event, and of the queries.

    ``belief_accuracy`` hides 30 % of the cells of one frame after its clean past. ``forward_nll`` and ``chain_nll`` are
    nats a step of the same targets, outcome, heading and cells given past and action: the first of all at once, the
    second token after token, on the same steps, and on these for all predictors. ``chain_nll_heading`` is the part of
    the heading, ``chain_nll_rest`` that of outcome and cells.
    """
    found: dict[str, list[Tally]] = {}
    for part in parts:
        for name, tally in _measured(predictor, part, samples, np.random.default_rng(seed)).items():
            found.setdefault(name, []).append(tally)
    return {name: Tally.joined(tallies).entry() for name, tallies in found.items()}


def _measured(predictor: Predictor, part: HeldOut, samples: int, rng: np.random.Generator) -> dict[str, Tally]:
    frames, found = part.frames, dict[str, Tally]()
    target, evenly = draw_steps(frames, samples, max(1, samples // 5), rng)
    ends = outcome_steps(frames, max(1, samples // 5), max(1, samples // 2), rng)
    prior = None if part.training is None else CellPrior.fit(part.training, 4 * samples, rng)
    everywhere = rng.permutation(all_steps(frames))
    few = everywhere[: max(1, samples // 4)]
    hidden = rng.random((len(few), grid.CELLS)) < HIDDEN
    if predictor.steps is not None:
        steps = transitions(frames, target)
        said = predictor.steps(frames, target)
        found |= prediction_tallies(steps, said, evenly, prior)
        if said.log_probs is not None:
            del found["forward_nll"]  # of other steps than the chain's
            found |= _likelihoods(predictor, frames, few)
        found |= {f"exact/{name.replace(' ', '_')}": tally for name, tally in event_tallies(steps, said).items()}
        ending = predictor.steps(frames, frames.offsets[ends.episode] + ends.step + 1)
        found |= outcome_tallies(ending.outcomes, ends.outcome, ends.episode, ends.weight)
    if predictor.policy is not None:
        by_bot = frames.behaviours[_owners(frames, everywhere)] == BEHAVIOURS.index("bot")
        asked = everywhere[by_bot][: max(1, samples // 2)]
        if len(asked):
            right = predictor.policy(frames, asked).argmax(-1) == np.asarray(frames.actions)[asked]
            found["action_accuracy"] = Tally.of("share", right, _owners(frames, asked))
    inferred = {"inverse_accuracy_changed": predictor.inverse, "inverse_bayes_changed": predictor.bayes}
    named = {name: infer for name, infer in inferred.items() if infer is not None}
    if named:
        changed = few[looks_changed(frames, few)]
        owners, actions = _owners(frames, changed), np.asarray(frames.actions)[changed]
        # from left to right both are one: seven passes, made once
        hits = {infer: infer(frames, changed).argmax(-1) == actions for infer in set(named.values())}
        found |= {name: Tally.of("share", hits[infer], owners) for name, infer in named.items()}
    if predictor.fill is not None:
        given = np.concatenate([np.ones((len(few), FIRST_CELL), bool), ~hidden], axis=1)
        cells = _TOKENIZER.cell_ids(np.asarray(frames.images[few])).reshape(len(few), -1)
        right = (predictor.fill(frames, few, given)[:, FIRST_CELL:] == cells)[hidden]
        found["belief_accuracy"] = Tally.of("share", right, np.repeat(_owners(frames, few), hidden.sum(-1)))
    if predictor.goal is not None:
        tally = predictor.goal(part.store, max(1, samples // 4), rng)
        found |= {} if tally is None else {"goal_accuracy": tally}
    return found


def _likelihoods(predictor: Predictor, frames: windows.Frames, target: np.ndarray) -> dict[str, Tally]:
    """``chain_nll`` and its parts, and of a predictor that fills all at once ``forward_nll``, on the same steps."""
    nats, chain = {}, None
    if predictor.at_once:
        assert predictor.steps is not None
        log_probs = predictor.steps(frames, target).log_probs
        assert log_probs is not None
        chain = -log_probs.astype(np.float64)
        nats["forward_nll"] = chain[:, OUTCOME:].sum(-1)
    if predictor.chain is not None:
        chain = predictor.chain(frames, target)
    assert chain is not None
    nats["chain_nll"], nats["chain_nll_heading"] = chain[:, OUTCOME:].sum(-1), chain[:, DIRECTION]
    nats["chain_nll_rest"] = nats["chain_nll"] - nats["chain_nll_heading"]
    return {name: Tally.of("mean", values, _owners(frames, target)) for name, values in nats.items()}


def _owners(frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """Episode of each frame."""
    return np.searchsorted(frames.offsets, target, side="right") - 1
