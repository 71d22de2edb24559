"""One-step prediction on held-out episodes: how good is the next imagined step, where something can be known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.prior import CellPrior
from wmtoolkit.evaluation.transitions import NAMES, Transitions, all_steps
from wmtoolkit.world import geometry, grid, masks, windows
from wmtoolkit.world.batching import block_causal_batch
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.decoding import block_log_probs, true_log_probs
from wmtoolkit.world.expectation import CELL_IDS
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.tokenizer import ACTION, BEHAVIOUR, BLOCK, DIRECTION, FIRST_CELL, OUTCOME, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome

_TOKENIZER = WorldTokenizer()
CHUNK = 64
"""Windows in one forward pass."""
_EMPTY = int(_TOKENIZER.cell_ids(np.array([grid.EMPTY, 0, 0])))
BOT = BEHAVIOURS.index("bot")
LONG_AGO = (5, 30)
"""Steps since a cell was last seen that count as remembered."""


@dataclass
class StepPredictions:
    """What a predictor says of N steps.

    Attributes:
        cells: (N, 49) ids; headings, outcomes: (N,).
        confidence: (N, 49) probability of each cell said, or None.
        log_probs: (N, 52) of what happened, in nats: outcome, heading and cells given the action, the action given
            the past as the bot's; or None.
        visible: (N, 49) log-probability that each cell is seen at all, or None.
        actions: (N, 7) probabilities of the bot's next action, or None.
        outcome_confidence: (N,) probability of each outcome said, or None.
    """

    cells: np.ndarray
    headings: np.ndarray
    outcomes: np.ndarray
    confidence: np.ndarray | None = None
    log_probs: np.ndarray | None = None
    visible: np.ndarray | None = None
    actions: np.ndarray | None = None
    outcome_confidence: np.ndarray | None = None


def asked_as_bot(window: windows.Window) -> windows.Window:
    """A rollout never knows who acted: it asks as if the bot did. The window is changed in place."""
    window.mission.ids[:, BEHAVIOUR] = _TOKENIZER.behaviours.start + BOT
    return window


def next_blocks(
    model: AnyOrderWorldModel, window: windows.Window
) -> tuple[list[tuple[int, torch.Tensor]], torch.Tensor, np.ndarray]:
    """Forward predictions of the last frame of windows: ``block_log_probs``, policy log-probabilities (B, 7), and the
    true block (B, 52)."""
    network, device = model.network, model.network.device
    count = window.ids.shape[1]
    drawn = masks.only("forward", (len(window.ids), count - 1))
    batch = block_causal_batch(window, drawn, np.zeros((len(window.ids), count), bool), network.world)
    attention = batch.attention(device)
    hidden = network(batch.tokens.tensors(device), attention, keep=batch.tokens.length - batch.first)
    last = (count - 2) * BLOCK
    scored = block_log_probs(network, hidden[:, last : last + BLOCK], batch.given[:, -1])
    actions = range(_TOKENIZER.actions.start, _TOKENIZER.bos)
    return scored, network.logits(hidden[:, -1], actions).log_softmax(-1), batch.target[:, -1]


@torch.inference_mode()
def model_predictions(model: AnyOrderWorldModel, frames: windows.Frames, target: np.ndarray) -> StepPredictions:
    """The world model's most likely step to frames ``target`` (N,), filled in one pass, as a rollout does it."""
    network, count = model.network, len(target)
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    said = StepPredictions(
        np.zeros((count, BLOCK - FIRST_CELL), np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.zeros((count, BLOCK - FIRST_CELL), np.float32),
        np.zeros((count, BLOCK), np.float32),
        np.zeros((count, BLOCK - FIRST_CELL), np.float32),
        np.zeros((count, 7), np.float32),
        np.zeros(count, np.float32),
    )
    assert said.confidence is not None
    assert said.log_probs is not None
    assert said.visible is not None
    assert said.actions is not None
    assert said.outcome_confidence is not None
    completions = network.completions.numpy(force=True)
    seen = torch.as_tensor(_TOKENIZER.cell_attributes(completions)[:, 0] != grid.UNSEEN, device=network.device)
    for low in range(0, count, CHUNK):
        part = slice(low, low + CHUNK)
        window = asked_as_bot(windows.cut(frames, episode[part], step[part], 2, network.world))
        scored, policy, true = next_blocks(model, window)
        best = scored[-1][1].max(-1)
        said.cells[part] = completions[best.indices.numpy(force=True)]
        said.confidence[part] = best.values.exp().numpy(force=True)
        best = scored[OUTCOME][1][:, 0].max(-1)
        said.outcomes[part] = best.indices.numpy(force=True)
        said.outcome_confidence[part] = best.values.exp().numpy(force=True)
        said.headings[part] = scored[DIRECTION][1][:, 0].argmax(-1).numpy(force=True)
        said.actions[part] = policy.exp().numpy(force=True)
        said.visible[part] = scored[-1][1][..., seen].logsumexp(-1).numpy(force=True)
        said.log_probs[part, OUTCOME:] = true_log_probs(network, scored, true)
        action = torch.as_tensor(true[:, ACTION : ACTION + 1], device=policy.device) - _TOKENIZER.actions.start
        said.log_probs[part, ACTION] = policy.gather(-1, action)[:, 0].numpy(force=True)
    return said


@torch.inference_mode()
def inverse_by_bayes(model: AnyOrderWorldModel, frames: windows.Frames, target: np.ndarray) -> np.ndarray:
    """P(action) (N, 7) that led to frames ``target`` (N,): ``infer_action`` by Bayes' rule in batches."""
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    found = []
    for low in range(0, len(target), CHUNK):
        part = slice(low, low + CHUNK)
        window = asked_as_bot(windows.cut(frames, episode[part], step[part], 2, model.network.world))
        scores = []
        for action in range(_TOKENIZER.actions.start, _TOKENIZER.bos):
            window.ids[:, -1, ACTION] = action
            scored, _, true = next_blocks(model, window)
            scores.append(true_log_probs(model.network, scored, true).sum(-1))
        found.append(torch.tensor(np.stack(scores, axis=-1)).softmax(-1).numpy())
    return np.concatenate(found)


def copy_last_frame(steps: Transitions) -> StepPredictions:
    """Baseline: nothing ever changes."""
    return StepPredictions(steps.before, _heading_before(steps), np.full_like(steps.outcomes, Outcome.CONTINUE))


def dead_reckoned_map(steps: Transitions) -> StepPredictions:
    """Baseline: no learning, only the prior knowledge of the ``egomotion`` option: what was last seen is still there,
    and what was never seen is empty."""
    turned = geometry.turned(_heading_before(steps), steps.actions)
    return StepPredictions(steps.remembered, turned, np.full_like(steps.outcomes, Outcome.CONTINUE))


def map_in_sight(steps: Transitions) -> StepPredictions:
    """Baseline: no learning, only the prior knowledge of the ``expectation`` option: the dead-reckoned map, cut by
    MiniGrid's rule of sight, and what is carried at the agent's own place."""
    cells, world = np.zeros_like(steps.cells), WorldConfig(expectation=True)
    for low in range(0, len(steps), CHUNK):
        part = slice(low, low + CHUNK)
        window = windows.cut(steps.frames, steps.episode[part], steps.step[part], 2, world)
        batch = block_causal_batch(
            window, masks.only("forward", (len(window.ids), 1)), np.zeros((len(window.ids), 2), bool), world
        )
        codes = batch.tokens.expected[:, batch.first + FIRST_CELL : batch.first + BLOCK]
        said = (codes - 1) % CELL_IDS + _TOKENIZER.cells.start
        cells[part] = np.where(said == _TOKENIZER.masked_cell, _EMPTY, said)
    return replace(dead_reckoned_map(steps), cells=cells)


def _heading_before(steps: Transitions) -> np.ndarray:
    return np.asarray(steps.frames.directions[steps.frames.offsets[steps.episode] + steps.step], dtype=np.int64)


BASELINES: dict[str, Callable[[Transitions], StepPredictions]] = {
    "copy-last-frame": copy_last_frame,
    "dead-reckoned map": dead_reckoned_map,
    "map in sight": map_in_sight,
}


def prediction_tallies(
    steps: Transitions, said: StepPredictions, evenly: int, prior: CellPrior | None = None
) -> dict[str, Tally]:
    """The prediction metrics by name, over the first ``evenly`` steps, which were drawn evenly.

    ``known_cell_accuracy`` scores the cells whose place was seen before, ``remembered_cell_accuracy`` those of them
    last seen 5 to 30 steps ago, ``revealed_cell_accuracy`` those seen for the first time, ``changed_cell_accuracy``
    those that look otherwise than when last seen; ``known_frame_exact`` is the share of frames whose known cells are
    all right. ``revealed_nll`` is in nats a cell given that it is seen, ``revealed_nll_prior`` the same of the
    empirical prior and ``revealed_nll_gain`` the difference (above 0: the model is better). ``forward_nll`` is in nats
    a step: outcome, heading and cells, filled at once. A name is missing where nothing of its kind occurs.
    """
    first = slice(0, evenly)
    episode = steps.episode[first]
    right = said.cells[first] == steps.cells[first]
    known, age = steps.known[first], steps.age[first]
    cell_episode = np.broadcast_to(episode[:, None], right.shape)
    found: dict[str, Tally] = {}

    def add(name: str, kind: str, values: np.ndarray, chosen: np.ndarray | None = None) -> None:
        where = episode if values.ndim == 1 else cell_episode
        if chosen is not None:
            values, where = values[chosen], where[chosen]
        if values.size:
            found[name] = Tally.of(kind, values.ravel(), where.ravel())

    long_ago = known & (age >= LONG_AGO[0]) & (age <= LONG_AGO[1])
    add("known_cell_accuracy", "share", right, known)
    add("known_frame_exact", "share", (right | ~known).all(axis=1))
    add("remembered_cell_accuracy", "share", right, long_ago)
    add("changed_cell_accuracy", "share", right, steps.changed[first])
    add("revealed_cell_accuracy", "share", right, steps.revealed[first])
    add("cell_accuracy", "share", right)
    add("frame_exact", "share", right.all(axis=1))
    add("direction_accuracy", "share", said.headings[first] == steps.headings[first])
    if said.log_probs is not None:
        add("forward_nll", "mean", -said.log_probs[first, 1:].astype(np.float64).sum(-1))
        nll = -said.log_probs[first, FIRST_CELL:].astype(np.float64)
        if prior is not None and said.visible is not None:
            # the prior speaks of what cells look like that are seen; whether they are is not its question
            nll = nll + said.visible[first]
            expected = prior.nll(steps.cells[first])
            add("revealed_nll", "mean", nll, steps.revealed[first])
            add("revealed_nll_prior", "mean", expected, steps.revealed[first])
            add("revealed_nll_gain", "mean", expected - nll, steps.revealed[first])
    return found


def action_tally(
    model: AnyOrderWorldModel, frames: windows.Frames, count: int, rng: np.random.Generator
) -> Tally | None:
    """Share of ``count`` of the bot's choices that the model's policy makes too; None where no episode is the bot's."""
    target = all_steps(frames)
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    target = rng.permutation(target[frames.behaviours[episode] == BOT])[:count]
    if not len(target):
        return None
    said = model_predictions(model, frames, target).actions
    assert said is not None
    right = said.argmax(-1) == np.asarray(frames.actions)[target]
    return Tally.of("share", right, np.searchsorted(frames.offsets, target, side="right") - 1)


def event_tallies(steps: Transitions, said: StepPredictions) -> dict[str, Tally]:
    """For each event that occurs, the share of its steps in which every known cell is right."""
    exact = ((said.cells == steps.cells) | ~steps.known).all(axis=1)
    return {
        name: Tally.of("share", exact[chosen], steps.episode[chosen])
        for index, name in enumerate(NAMES)
        if (chosen := steps.events == index).any()
    }


def outcome_tallies(
    said: np.ndarray, true: np.ndarray, episode: np.ndarray, weight: np.ndarray | None = None
) -> dict[str, Tally]:
    """Precision, recall and F1 of SUCCESS; said, true: (N,) outcomes. Empty where there is no success at all.

    Args:
        weight: (N,) how many steps each stands for, where successes were drawn more often than the rest.
    """
    claimed, real = said == Outcome.SUCCESS, true == Outcome.SUCCESS
    if not real.any():
        return {}
    hit = claimed & real
    weight = np.ones(len(said)) if weight is None else weight

    def among(kind: str, chosen: np.ndarray) -> Tally:
        return Tally.of(kind, hit[chosen], episode[chosen], weight[chosen])

    found = {"outcome_recall": among("share", real), "outcome_f1": among("f1", claimed | real)}
    return (found | {"outcome_precision": among("share", claimed)}) if claimed.any() else found
