"""Pictures of symbolic views with MiniGrid's own tiles, and videos made of them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from minigrid.core.grid import Grid
from PIL import Image, ImageDraw, ImageFont

from wmtoolkit.errors import UserError
from wmtoolkit.world import grid

TILE_SIZE = 32
_FOG = np.array([226, 226, 236], dtype=np.float32)
_PAPER = (255, 255, 255)
_INK = (20, 20, 20)


def draw_view(image: np.ndarray, confidence: np.ndarray | None = None, tile_size: int = TILE_SIZE) -> np.ndarray:
    """Draw an egocentric view as MiniGrid draws it, far cells on top and the agent at the bottom.

    Args:
        image: (W, H, 3) integer triples (object, colour, state), ``[column, row]``.
        confidence: (W, H) in 0..1; a cell fades into fog as its confidence falls. None: all certain, and the picture
            equals MiniGrid's own ``get_pov_render``.
        tile_size: pixels a cell.

    Returns:
        (H * tile_size, W * tile_size, 3) uint8.

    Raises:
        ValueError: for a shape or an id that MiniGrid cannot draw.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a view has shape (columns, rows, 3), not {image.shape}")
    if (image.reshape(-1, 3).max(axis=0) >= (len(grid.OBJECTS), len(grid.COLORS), len(grid.STATES))).any():
        raise ValueError("the view holds ids that MiniGrid does not know")
    tiles, seen = Grid.decode(image)
    agent = (image.shape[0] // 2, image.shape[1] - 1)
    picture = tiles.render(tile_size, agent_pos=agent, agent_dir=3, highlight_mask=seen)
    if confidence is None:
        return picture
    if np.shape(confidence) != image.shape[:2]:
        raise ValueError(f"confidence has shape {np.shape(confidence)}, the view {image.shape[:2]}")
    weight = np.clip(np.asarray(confidence, dtype=np.float32).T, 0, 1)
    weight = np.kron(weight, np.ones((tile_size, tile_size), np.float32))[..., None]
    return np.rint(weight * picture + (1 - weight) * _FOG).astype(np.uint8)


def side_by_side(frames: Sequence[np.ndarray], captions: Sequence[str] | None = None, gap: int = 8) -> np.ndarray:
    """Join pictures from left to right on white, each under its caption.

    Args:
        frames: pictures (H_i, W_i, 3) uint8; lower ones are padded at the bottom.
        captions: one line a picture, wrapped to its width; None: no captions.
        gap: pixels between pictures and around them.

    Returns:
        (H, W, 3) uint8.
    """
    if not frames or (captions is not None and len(captions) != len(frames)):
        raise ValueError("side_by_side needs at least one frame, and as many captions as frames")
    font = ImageFont.load_default(size=14)
    captions = captions or [""] * len(frames)
    texts = [_wrap(text, frame.shape[1], font) for text, frame in zip(captions, frames, strict=True)]
    line = 18
    head = line * max(text.count("\n") + 1 if text else 0 for text in texts)
    width = sum(frame.shape[1] for frame in frames) + gap * (len(frames) + 1)
    height = head + max(frame.shape[0] for frame in frames) + 2 * gap
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    left = gap
    for frame, text in zip(frames, texts, strict=True):
        draw.multiline_text((left, gap // 2), text, fill=_INK, font=font, spacing=2)
        page.paste(Image.fromarray(np.ascontiguousarray(frame)), (left, gap + head))
        left += frame.shape[1] + gap
    return np.asarray(page).copy()


def write_video(path: str | os.PathLike[str], frames: Sequence[np.ndarray], fps: float = 4.0) -> Path:
    """Write a GIF or an MP4, as the suffix of ``path`` says; see ``write_gif`` and ``write_mp4``."""
    check_video(path)
    write = write_gif if Path(path).suffix.lower() == ".gif" else write_mp4
    return write(path, frames, fps)


def check_video(path: str | os.PathLike[str]) -> None:
    """Raise ``UserError`` if a video of this name could not be written: another suffix, or no imageio-ffmpeg."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise UserError(f"video {path}: the name must end in .gif or .mp4")
    if suffix == ".mp4":
        _check_mp4(path)


def _check_mp4(path: str | os.PathLike[str]) -> None:
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(f"video {path}: MP4 needs imageio-ffmpeg; pip install imageio-ffmpeg, or name it .gif")


def write_gif(path: str | os.PathLike[str], frames: Sequence[np.ndarray], fps: float = 4.0) -> Path:
    """Write an endlessly looping GIF with Pillow, whole or not at all.

    Args:
        path: the file; its folder is made.
        frames: pictures (H, W, 3) uint8 of one size.
        fps: frames a second, at most 50 (the format counts hundredths of a second).

    Returns:
        The path.
    """
    _check_frames(frames, fps)
    palette = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 8)], axis=0)).quantize(255)
    still = Image.Dither.NONE
    pictures = [Image.fromarray(np.ascontiguousarray(f)).quantize(palette=palette, dither=still) for f in frames]
    duration = max(20, round(1000 / fps))
    with _whole(path) as temporary:
        pictures[0].save(
            temporary, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=False
        )
    return Path(path)


def write_mp4(path: str | os.PathLike[str], frames: Sequence[np.ndarray], fps: float = 4.0) -> Path:
    """Write an H.264 MP4, whole or not at all; needs the optional package imageio-ffmpeg.

    Frames are padded to even sizes, which the format wants.

    Raises:
        UserError: if imageio-ffmpeg is not installed.
    """
    _check_frames(frames, fps)
    _check_mp4(path)
    import imageio_ffmpeg

    height, width = (size + size % 2 for size in frames[0].shape[:2])
    with _whole(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary), (width, height), fps=fps, macro_block_size=2, output_params=["-f", "mp4"]
        )
        writer.send(None)
        for frame in frames:
            even = np.full((height, width, 3), _PAPER, dtype=np.uint8)
            even[: frame.shape[0], : frame.shape[1]] = frame
            writer.send(even)
        writer.close()
    return Path(path)


def _check_frames(frames: Sequence[np.ndarray], fps: float) -> None:
    if not len(frames):
        raise ValueError("a video needs at least one frame")
    if len({frame.shape for frame in frames}) != 1 or frames[0].ndim != 3 or frames[0].dtype != np.uint8:
        raise ValueError("the frames of a video are (H, W, 3) uint8 of one size")
    if not 0 < fps <= 50:
        raise ValueError(f"fps must be in (0, 50], not {fps}")


@contextmanager
def _whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that takes its place when the block ends well and vanishes otherwise."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    lines: list[str] = []
    for paragraph in text.split("\n") if text else []:
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(lines)
