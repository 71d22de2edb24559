"""Views are drawn as MiniGrid draws them; videos are written whole or not at all."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.envs.rendering import draw_view, side_by_side, write_gif, write_mp4, write_video
from wmtoolkit.errors import UserError


@pytest.mark.parametrize("level", ["BabyAI-GoToLocal-v0", "BabyAI-BossLevel-v0", "MiniGrid-DoorKey-8x8-v0"])
def test_views_equal_minigrids_own_render(level):
    env = make_level(level)
    rng = np.random.default_rng(0)
    observation = reset_level(env, seed=1)
    for _ in range(10):
        np.testing.assert_array_equal(draw_view(observation["image"], tile_size=16), env.get_pov_render(16))
        observation = env.step(rng.integers(6))[0]


def test_cells_fade_with_their_own_confidence_only():
    image = reset_level(make_level("BabyAI-GoToLocal-v0"), seed=0)["image"]
    confidence = np.ones((7, 7), np.float32)
    confidence[2, 5] = 0.25
    plain, faded = draw_view(image, tile_size=8), draw_view(image, confidence, tile_size=8)
    tile = np.s_[5 * 8 : 6 * 8, 2 * 8 : 3 * 8]  # row 5, column 2 of the picture
    distance = np.abs(faded.astype(int) - plain)
    assert distance[tile].min() > 0
    distance[tile] = 0
    assert not distance.any()
    confidence[2, 5] = 0
    blank = draw_view(image, confidence, tile_size=8)[tile]
    assert (blank == blank[0, 0]).all()


def test_a_view_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="ids"):
        draw_view(np.full((7, 7, 3), 11, np.uint8))
    with pytest.raises(ValueError, match="shape"):
        draw_view(np.zeros((7, 7), np.uint8))
    with pytest.raises(ValueError, match="confidence"):
        draw_view(np.zeros((7, 7, 3), np.uint8), np.ones((7, 6)))


def test_side_by_side_keeps_each_picture_under_its_caption():
    red, blue = np.zeros((20, 60, 3), np.uint8), np.zeros((30, 80, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    page = side_by_side([red, blue], ["real", "imagined by the model, in several words"], gap=5)
    assert page.shape[1] == 60 + 80 + 3 * 5
    bottom = page.shape[0] - 5 - 30
    np.testing.assert_array_equal(page[bottom : bottom + 20, 5:65], red)
    np.testing.assert_array_equal(page[bottom : bottom + 30, 70:150], blue)
    head = page[:bottom]
    assert (head != 255).any()  # the captions
    assert (side_by_side([red, blue], gap=5)[:5] == 255).all()


def _frames(count):
    return [np.full((16, 18, 3), (i * 40, 0, 255 - i * 40), np.uint8) for i in range(count)]


def test_gif_holds_every_frame_at_its_speed(tmp_path):
    path = write_gif(tmp_path / "new" / "a.gif", _frames(5), fps=5)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.info["duration"] == 200
        assert gif.info["loop"] == 0
        gif.seek(3)
        shown = np.asarray(gif.convert("RGB"))[0, 0]
    assert np.abs(shown.astype(int) - (120, 0, 135)).max() <= 8
    assert [p.name for p in path.parent.iterdir()] == ["a.gif"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_gif(tmp_path / "a.gif", _frames(2))
    before = path.read_bytes()
    for bad in ([], [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], [np.zeros((4, 4, 3))]):
        with pytest.raises(ValueError, match="frame"):
            write_gif(path, bad)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_the_suffix_chooses_the_format(tmp_path):
    assert write_video(tmp_path / "a.gif", _frames(2)).exists()
    with pytest.raises(UserError, match=r"\.gif or \.mp4"):
        write_video(tmp_path / "a.avi", _frames(2))


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is optional")
def test_mp4_holds_every_frame(tmp_path):
    import imageio_ffmpeg

    path = write_mp4(tmp_path / "a.mp4", [np.full((33, 35, 3), i * 20, np.uint8) for i in range(6)], fps=5)
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 6
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is not None, reason="imageio-ffmpeg is there")
def test_mp4_without_its_package_says_what_to_install(tmp_path):
    with pytest.raises(UserError, match="pip install imageio-ffmpeg"):
        write_mp4(tmp_path / "a.mp4", _frames(2))
