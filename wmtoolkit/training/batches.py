"""Training batches: a pure function of the seed and the step, so that resuming is exact and needs no state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from torch.utils.data import DataLoader, Dataset

from wmtoolkit.world import masks, windows
from wmtoolkit.world.batching import Batch, block_causal_batch, full_attention_batch
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import BEHAVIOUR, FIRST_WORD, OUTCOME, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome

_TOKENIZER = WorldTokenizer()


@dataclass(frozen=True)
class Sampler:
    """Where windows start.

    Attributes:
        batch_size: windows in a block-causal batch; under full attention as many as hold about as many tokens.
        ending_share: share of windows placed so that they hold an episode's end, at a uniform place in the window.
        event_share: the same for pick-ups, drops and toggles, and for attempts at something in front.
        near_share: the same for steps that look like a success of their level and are none.
        full_share: share of batches with full attention (any-order infilling) instead of block-causal.
        mixture: share of each masking strategy in block-causal batches.
        full_mixture: the same under full attention.
        behaviour_dropout: share of windows whose behaviour token is hidden.
        mission_share: share of full-attention windows in which words of the mission are hidden.
        swap_share: share of block-causal windows ending in success that get a mission which this does not fulfil.
        largest_ratio: scales the ratios that the any-order strategies draw.
        lone_outcomes: whether block-causal batches ask of every step how it ends, by one token more.
    """

    batch_size: int
    ending_share: float
    full_share: float
    mixture: Mapping[str, float]
    full_mixture: Mapping[str, float]
    behaviour_dropout: float = 0.1
    mission_share: float = 0.3
    event_share: float = 0.0
    near_share: float = 0.0
    swap_share: float = 0.0
    largest_ratio: float = 1.0
    lone_outcomes: bool = False


def draw_batch(
    frames: windows.Frames, sampler: Sampler, world: WorldConfig, seed: int, step: int, rank: int = 0
) -> Batch:
    """The batch of one step: the same for the same arguments, whatever came before.

    Args:
        frames: the training episodes.
        seed, step, rank: key of the randomness.
    """
    rng = np.random.default_rng((seed, step, rank))
    full = rng.random() < sampler.full_share
    count = world.span if full else world.recent + 1
    size = full_size(sampler.batch_size, world) if full else sampler.batch_size
    episode, start = starts(frames, sampler, size, count - 1, rng)
    share = 0.0 if full else sampler.swap_share
    missions, swapped = _swap_missions(frames, episode, start + count - 1, share, rng)
    window = windows.cut(frames, episode, start, count, world, missions)
    ends = _ends(window)
    window.ids[swapped, ends.last[swapped], OUTCOME] = _TOKENIZER.outcomes.start + Outcome.CONTINUE
    hidden = rng.random(size) < sampler.behaviour_dropout
    window.mission.ids[hidden, BEHAVIOUR] = _TOKENIZER.mask
    bot = (frames.behaviours[episode] == BEHAVIOURS.index("bot")) & ~swapped  # for that mission nobody acted
    bot = np.repeat(bot[:, None], count, axis=1)
    if not full:
        drawn = masks.draw(sampler.mixture, (size, world.recent), rng, largest=sampler.largest_ratio)
        return block_causal_batch(window, drawn, bot, world, sampler.lone_outcomes)
    drawn = masks.draw(sampler.full_mixture, (size, count), rng, largest=sampler.largest_ratio, ends=ends)
    drawn = masks.thinned(drawn, ends, rng)
    mission_target = _hide_words(window, sampler.mission_share, rng)
    return replace(full_attention_batch(window, drawn, bot, world), mission_target=mission_target)


def drawn_ahead(draw: Callable[[int], Batch], steps: range, loaders: int) -> Iterator[Batch]:
    """``draw(step)`` for all steps in order, by so many processes ahead of time; 0: none, each when it is asked for."""
    if not loaders:
        yield from map(draw, steps)
        return
    draw(steps[0])  # what is computed once is then shared with the processes, as is all of the data
    yield from DataLoader(
        cast("Dataset[Batch]", _Drawn(draw)),
        batch_size=None,
        sampler=steps,
        num_workers=loaders,
        multiprocessing_context="fork",
    )


class _Drawn:
    """Batches by number of step, as a loader wants them."""

    def __init__(self, draw: Callable[[int], Batch]) -> None:
        self._draw = draw

    def __getitem__(self, step: int) -> Batch:
        return self._draw(step)


def full_size(batch_size: int, world: WorldConfig) -> int:
    """Windows in a batch under full attention: as many as hold about the tokens of a block-causal batch."""
    return max(1, batch_size * 2 * world.recent // world.span)


def _ends(window: windows.Window) -> masks.Ends:
    """Where the windows' frames begin and end."""
    last = window.valid.shape[1] - 1 - window.valid[:, ::-1].argmax(axis=1)
    outcome = window.ids[np.arange(len(last)), last, OUTCOME] - _TOKENIZER.outcomes.start
    return masks.Ends(window.valid.argmax(axis=1), last, outcome == Outcome.SUCCESS)


def _swap_missions(
    frames: windows.Frames,
    episode: np.ndarray,
    last: np.ndarray,
    share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Give some windows that end in success another mission of the level: the same events are then no success.

    Without these, a level in which the mission's is the only object that can be handled teaches that handling it is
    success, whatever the mission says.

    Args:
        episode, last: (B,) of each window, and the episode's frame that is its last.

    Returns:
        Missions (B, 52) and which of them were swapped (B,) bool.
    """
    missions = frames.missions[episode]
    at = frames.offsets[episode] + np.minimum(last, frames.lengths[episode] - 1)
    succeeds = np.asarray(frames.outcomes[at]) == Outcome.SUCCESS
    chosen = np.flatnonzero(succeeds & (rng.random(len(episode)) < share))
    words = frames.other_missions.draw(episode[chosen], rng)
    found = words[:, 0] >= 0
    missions[chosen[found], FIRST_WORD:] = words[found]
    return missions, np.isin(np.arange(len(episode)), chosen[found])


def _hide_words(window: windows.Window, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide words of a share of the missions, each with one uniform ratio; returns their ids, -1 elsewhere."""
    words = window.mission.ids
    is_word = np.isin(words, np.array(_TOKENIZER.words))
    ratio = rng.random((len(words), 1)) * (rng.random((len(words), 1)) < share)
    hidden = is_word & (rng.random(words.shape) < ratio)
    target = np.where(hidden, words, -1)
    words[hidden] = _TOKENIZER.mask
    return target


def starts(
    frames: windows.Frames, sampler: Sampler, size: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Episodes and first frames of windows of ``count + 1`` frames.

    A window may overrun its episode's end, or start before its first frame.
    """
    lengths = frames.lengths
    episode = np.searchsorted(frames.chances, rng.random(size), side="right")
    start = rng.integers(0, lengths[episode])
    # The last frame is no base: it starts a dream instead, a window without a past.
    start = np.where(start == lengths[episode] - 1, -1, start)
    # Endings and events are rare and matter: some windows are placed to hold one, at any of their places.
    draw, back = rng.random(size), rng.integers(1, count + 1, size)
    if len(frames.ended):
        chosen = draw < sampler.ending_share
        episode = np.where(chosen, rng.choice(frames.ended, size), episode)
        start = np.where(chosen, np.maximum(-1, lengths[episode] - 1 - back), start)

    def place(chosen: np.ndarray, frame: np.ndarray, chances: np.ndarray) -> None:
        """Let the chosen windows hold one of some frames, drawn by cumulative chances."""
        nonlocal episode, start
        frame = frame[np.searchsorted(chances, rng.random(size), side="right")]
        owner = np.searchsorted(frames.offsets, frame, side="right") - 1
        episode = np.where(chosen, owner, episode)
        start = np.where(chosen, np.maximum(-1, frame - frames.offsets[owner] - back), start)

    below = 1 - sampler.event_share
    if len(frames.events):
        place(draw > below, frames.events, frames.event_chances)
    if sampler.near_share and len(frames.near_misses):
        place((draw <= below) & (draw > below - sampler.near_share), frames.near_misses, frames.near_miss_chances)
    return episode, start
