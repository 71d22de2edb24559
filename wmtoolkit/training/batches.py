"""Training batches: a pure function of the seed and the step, so that resuming is exact and needs no state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wmtoolkit.world import masks, windows
from wmtoolkit.world.batching import Batch, block_causal_batch, full_attention_batch
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import BEHAVIOUR, WorldTokenizer
from wmtoolkit.world.trajectory import BEHAVIOURS

_TOKENIZER = WorldTokenizer()


@dataclass(frozen=True)
class Sampler:
    """Where windows start.

    Attributes:
        batch_size: windows in a batch.
        ending_share: share of windows placed so that they hold an episode's end, at a uniform place in the window.
        event_share: the same for pick-ups, drops and toggles that changed something.
        full_share: share of batches with full attention (any-order infilling) instead of block-causal.
        mixture: share of each masking strategy in block-causal batches.
        full_mixture: the same under full attention.
        behaviour_dropout: share of windows whose behaviour token is hidden.
        mission_share: share of full-attention windows in which words of the mission are hidden.
    """

    batch_size: int
    ending_share: float
    full_share: float
    mixture: Mapping[str, float]
    full_mixture: Mapping[str, float]
    behaviour_dropout: float = 0.1
    mission_share: float = 0.3
    event_share: float = 0.0


def draw_batch(
    frames: windows.Frames, sampler: Sampler, world: WorldConfig, seed: int, step: int, rank: int = 0
) -> Batch:
    """The batch of one step: the same for the same arguments, whatever came before.

    Args:
        frames: the training episodes.
        seed, step, rank: key of the randomness.
    """
    rng = np.random.default_rng((seed, step, rank))
    episode, start = _starts(frames, sampler, world.recent, rng)
    full = rng.random() < sampler.full_share
    window = windows.cut(frames, episode, start, world.recent + 1, world)
    hidden = rng.random(len(episode)) < sampler.behaviour_dropout
    window.context.ids[hidden, BEHAVIOUR] = _TOKENIZER.mask
    bot = np.repeat((frames.behaviours[episode] == BEHAVIOURS.index("bot"))[:, None], world.recent + 1, axis=1)
    if not full:
        return block_causal_batch(window, masks.draw(sampler.mixture, (len(episode), world.recent), rng), bot, world)
    drawn = masks.draw(sampler.full_mixture, (len(episode), world.recent + 1), rng)
    mission_target = _hide_words(window, sampler.mission_share, rng)
    return replace(full_attention_batch(window, drawn, bot, world), mission_target=mission_target)


def _hide_words(window: windows.Window, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide words of a share of the missions, each with one uniform ratio; returns their ids, -1 elsewhere."""
    words = window.context.ids[:, : window.mission_length]
    is_word = np.isin(words, np.array(_TOKENIZER.words))
    ratio = rng.random((len(words), 1)) * (rng.random((len(words), 1)) < share)
    hidden = is_word & (rng.random(words.shape) < ratio)
    target = np.where(hidden, words, -1)
    words[hidden] = _TOKENIZER.mask
    return target


def _starts(
    frames: windows.Frames, sampler: Sampler, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Episodes and first frames of the windows; a window may overrun the episode's end, or start before it."""
    size, lengths = sampler.batch_size, frames.lengths
    anywhere = rng.integers(0, frames.offsets[-1], size)
    episode = np.searchsorted(frames.offsets, anywhere, side="right") - 1
    start = anywhere - frames.offsets[episode]
    # The last frame is no base: it starts a dream instead, a window without a past.
    start = np.where(start == lengths[episode] - 1, -1, start)
    # Endings and events are rare and matter: some windows are placed to hold one, at any of their places.
    draw, back = rng.random(size), rng.integers(1, count + 1, size)
    if len(frames.ended):
        chosen = draw < sampler.ending_share
        episode = np.where(chosen, rng.choice(frames.ended, size), episode)
        start = np.where(chosen, np.maximum(-1, lengths[episode] - 1 - back), start)
    if len(frames.events):
        chosen = draw > 1 - sampler.event_share
        event = rng.choice(frames.events, size)
        owner = np.searchsorted(frames.offsets, event, side="right") - 1
        episode = np.where(chosen, owner, episode)
        start = np.where(chosen, np.maximum(-1, event - frames.offsets[owner] - back), start)
    return episode, start
