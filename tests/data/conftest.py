import numpy as np
import pytest

from wmtoolkit.world.trajectory import Trajectory


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Datasets and caches of a test lie in its own folder."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    monkeypatch.setenv("WMTOOLKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_trajectory():
    """Random episodes that are valid but play no level."""

    def make(steps=5, seed=0, *, level_seed=0, mission="go to the red ball", end="success", behaviour="bot"):
        rng = np.random.default_rng(seed)
        images = np.zeros((steps + 1, 7, 7, 3), np.uint8)
        images[..., 0] = rng.integers(0, 11, (steps + 1, 7, 7))
        images[..., 1] = rng.integers(0, 6, (steps + 1, 7, 7))
        images[..., 2] = rng.integers(0, 3, (steps + 1, 7, 7))
        last = np.arange(steps) == steps - 1
        return Trajectory(
            mission=mission,
            images=images,
            directions=rng.integers(0, 4, steps + 1),
            actions=rng.integers(0, 7, steps),
            rewards=(last * (0.5 if end == "success" else 0)).astype(np.float32),
            terminations=last & (end in ("success", "failure")),
            truncations=last & (end == "truncated"),
            behaviour=behaviour,
            level="BabyAI-GoToLocal-v0",
            seed=level_seed,
        )

    return make
