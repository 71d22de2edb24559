"""Films of episodes: the level from above, what the agent sees, and beside it what it had imagined to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from wmtoolkit.envs.rendering import draw_view, side_by_side
from wmtoolkit.world import grid

PICTURE = 336
"""Width of each picture of a film, in pixels, at most."""


def film_frame(
    env: gymnasium.Env,
    observation: Mapping[str, Any],
    info: Mapping[str, Any],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    headline: str,
) -> np.ndarray:
    """One frame of a film, (H, W, 3) uint8.

    Args:
        env: where the episode takes place; a real level is drawn from above if it can be.
        observation: what the agent sees now, and ``info`` that came with it.
        before: the agent's diagnostics of the last decision, with what it imagined to see now; empty at the start.
        now: the diagnostics of the decision just made; empty at the end.
        headline: first caption.
    """
    tile = PICTURE // grid.VIEW
    pictures, captions = [], []
    level: Any = env.unwrapped
    if hasattr(level, "get_frame"):
        pictures.append(level.get_frame(tile_size=max(4, PICTURE // max(level.width, level.height))))
        captions.append(f"{headline}\n{observation['mission']}")
        captions.append("what it sees")
    else:
        captions.append(f"{headline}\n{observation['mission']}")
    pictures.append(draw_view(observation["image"], info.get("confidence"), tile))
    if "imagined_image" in before or "imagined_image" in now:
        if "imagined_image" in before:
            pictures.append(draw_view(before["imagined_image"], before.get("imagined_confidence"), tile))
        else:
            pictures.append(np.full_like(pictures[-1], 255))
        promise = f"P(success) at its end {now['success_probability']:.2f}" if "success_probability" in now else ""
        captions.append(f"what it had imagined; now: {now.get('reason', 'the end')}\n{promise}")
    return side_by_side(pictures, captions)


def padded(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Frames padded with white at the right and the bottom to one size."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    padded = []
    for frame in frames:
        page = np.full((height, width, 3), 255, np.uint8)
        page[: frame.shape[0], : frame.shape[1]] = frame
        padded.append(page)
    return padded
