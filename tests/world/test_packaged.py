"""The model that comes with the package: it loads, is small, and knows the levels it names."""

import json
from pathlib import Path

import pytest

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.data import collect, load_trajectories
from wmtoolkit.evaluation.prediction import model_predictions, prediction_tallies
from wmtoolkit.evaluation.transitions import all_steps, transitions
from wmtoolkit.world import windows

GREY = "BabyAI-GoToRedBallGrey-v0"


FRESH = 900_000
"""First level seed; the training used smaller ones."""


def _episodes(level: str, folder: Path) -> list[Trajectory]:
    return list(load_trajectories(collect(level, 8, policy="random", seed=FRESH, max_steps=30, out=folder / level)))


@pytest.fixture(scope="module")
def model() -> AnyOrderWorldModel:
    return AnyOrderWorldModel.from_pretrained()


def test_it_is_small_and_says_what_it_is(model: AnyOrderWorldModel) -> None:
    assert model.path is not None
    folder = Path(model.path)
    assert all(file.stat().st_size <= 16_000_000 for file in folder.iterdir())
    assert GREY in model.levels
    assert len(model.levels) == 10
    card = (folder / "README.md").read_text()
    assert all(level in card for level in model.levels)
    record = json.loads((folder / "dataset.json").read_text())
    assert set(record["train_seeds"]) == set(model.levels)


@pytest.mark.parametrize("level", [GREY, "BabyAI-GoToLocal-v0", "BabyAI-PickupLoc-v0"])
def test_it_knows_what_it_has_seen(model: AnyOrderWorldModel, level: str, tmp_path: Path) -> None:
    """Far below what the card reports, far above any guess: the weights that came are the ones that were measured."""
    frames = windows.Frames.from_trajectories(_episodes(level, tmp_path))
    target = all_steps(frames)
    steps = transitions(frames, target)
    found = prediction_tallies(steps, model_predictions(model, frames, target), len(target))
    known = found["known_cell_accuracy"]
    assert known.total.sum() / known.weight.sum() > 0.99
    heading = found["direction_accuracy"]
    assert heading.total.sum() / heading.weight.sum() > 0.99


def test_it_acts_like_the_bot_rather_than_at_random(model: AnyOrderWorldModel, tmp_path: Path) -> None:
    starts = [episode.prefix(0) for episode in _episodes(GREY, tmp_path)]
    assert model.policy(starts)[:, :3].sum(axis=1).mean() > 0.95  # the bot only turns and walks in this level
