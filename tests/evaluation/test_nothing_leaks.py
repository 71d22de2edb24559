"""What is scored is hidden: change it, and every score that the model gives stays the same, bit by bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import ended
from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.data.store import EpisodeStore, StoreWriter
from wmtoolkit.evaluation import goals
from wmtoolkit.evaluation.bounds import any_order_bound
from wmtoolkit.evaluation.completion import completion_tallies, draw_masks, inverse_probabilities
from wmtoolkit.evaluation.outcomes import success_probabilities
from wmtoolkit.evaluation.prediction import BASELINES, inverse_by_bayes, model_predictions
from wmtoolkit.evaluation.transitions import transitions
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.masks import Masks
from wmtoolkit.world.tokenizer import ACTION, ATTRIBUTES, DIRECTION, OUTCOME


def _given(model: AnyOrderWorldModel, ask: Callable[[Any], object], asked: object) -> list[torch.Tensor]:
    """Every score that the model gives while it is asked about something."""
    network, found = model.network, []

    def listened(score: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def listen(*args: object) -> torch.Tensor:
            found.append(score(*args))
            return found[-1]

        return listen

    network.logits, network.cell_logits = listened(network.logits), listened(network.cell_logits)
    try:
        ask(asked)
    finally:
        del network.logits, network.cell_logits
    return found


def _assert_same(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    assert len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def _other_actions(actions: np.ndarray) -> np.ndarray:
    """Actions that lead elsewhere, if the way is free."""
    return np.where(actions == grid.FORWARD, grid.LEFT, grid.FORWARD)


def _scrambled(item: Trajectory, first: int, slots: np.ndarray, cells: np.ndarray) -> Trajectory:
    """Other values for all that is not visible of the frames from ``first`` on: slots (n, 3), cells (n, 49, 3)."""
    frames = slice(first, first + len(slots))
    steps = slice(first - 1, first - 1 + len(slots)) if first else slice(0, len(slots) - 1)
    slots_of_steps = slots if first else slots[1:]
    images, directions, actions = item.images.copy(), item.directions.copy(), item.actions.copy()
    rewards, terminations = item.rewards.copy(), item.terminations.copy()
    other = (images[frames].astype(np.int64) - 1) % ATTRIBUTES  # what was unseen is seen, what was empty is unseen
    images[frames] = np.where(cells.reshape(-1, 7, 7, 3), images[frames], other)
    directions[frames] = (directions[frames] + ~slots[:, DIRECTION]) % 4
    actions[steps] = np.where(slots_of_steps[:, ACTION], actions[steps], _other_actions(actions[steps]))
    terminations[steps] ^= ~slots_of_steps[:, OUTCOME]
    rewards[steps] = np.where(slots_of_steps[:, OUTCOME], rewards[steps], 1)
    return replace(
        item, images=images, directions=directions, actions=actions, rewards=rewards, terminations=terminations
    )


def _with_another_future(item: Trajectory, frame: int) -> Trajectory:
    """The same up to a frame, and something else after it."""
    left = len(item) - frame
    return _scrambled(item, frame + 1, np.zeros((left, 3), bool), np.zeros((left, 49, 3), bool))


def _pair(
    items: list[Trajectory], last: list[int], first: list[int], drawn: Masks
) -> tuple[windows.Frames, windows.Frames, np.ndarray]:
    """Frames as they are, and with other hidden values in the frames ``first`` to ``last`` of each episode and another
    future; and the indices of the frames ``last``."""
    others = []
    for row, (item, begin, end) in enumerate(zip(items, first, last, strict=True)):
        count = end + 1 - begin
        other = _scrambled(item, begin, drawn.slots[row, :count], drawn.cells[row, :count])
        others.append(_with_another_future(other, end))
    frames, changed = (windows.Frames.from_trajectories(each) for each in (items, others))
    assert (frames.positions != changed.positions).any()
    return frames, changed, frames.offsets[:-1] + last


def test_the_bound_does_not_see_what_it_scores(either_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    count = len(episodes)
    drawn = masks.draw({"cell": 1.0}, (count, 1), np.random.default_rng(3))
    last = [1 + 2 * row for row in range(count)]
    *both, target = _pair(episodes, last, last, drawn)
    assert (both[0].positions != both[1].positions)[target].any()
    bounds = []

    def ask(frames: windows.Frames) -> None:
        bounds.append(any_order_bound(either_model, frames, target, 1, np.random.default_rng(3)))

    _assert_same(*(_given(either_model, ask, frames) for frames in both))
    assert (bounds[0] != bounds[1]).any()  # the truth did change


@pytest.mark.parametrize(("level", "belief"), [("cell", False), ("attribute", False), ("cell", True)])
def test_completion_sees_neither_what_is_hidden_nor_what_comes_after(
    either_model: AnyOrderWorldModel, episodes: list[Trajectory], level: str, belief: bool
) -> None:
    last = [1, 2, 3, 4, 5, 9, 12, 20, 1]
    first = [max(0, frame - 3) for frame in last]
    drawn = draw_masks(level, 0.5, (len(last), 4), np.random.default_rng(3), slots=not belief)
    # Where the first frame is seen from is where the past led, and given.
    drawn.slots[:, 0, [ACTION, DIRECTION]] = True
    *both, target = _pair(episodes, last, first, drawn)
    found = []

    def ask(frames: windows.Frames) -> None:
        rng = np.random.default_rng(3)
        found.append(completion_tallies(either_model, frames, target, level, 0.5, rng, belief=belief))

    scores = (_given(either_model, ask, frames) for frames in both)
    there = np.arange(4) <= np.subtract(last, first)[:, None]
    _assert_same(*([score.reshape(*there.shape, -1)[there] for score in given] for given in scores))
    assert found[0]["nll"].value != found[1]["nll"].value


@pytest.mark.parametrize("inferred", [inverse_probabilities, inverse_by_bayes])
def test_inverse_dynamics_does_not_see_the_action(
    inferred: Callable[..., np.ndarray], either_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    steps = np.array([0, 1, 2, 3, 10, 14, 25])
    others = []
    for item, step in zip(episodes, steps, strict=False):
        other = replace(item, actions=item.actions.copy())
        other.actions[step] = _other_actions(item.actions[step])
        others.append(other)
    frames, changed = (windows.Frames.from_trajectories(each) for each in (episodes[: len(steps)], others))
    assert (frames.positions != changed.positions).any()
    found = [inferred(either_model, each, frames.offsets[:-1] + steps + 1) for each in (frames, changed)]
    np.testing.assert_array_equal(*found)


def test_a_plan_does_not_see_the_way_the_bot_went(
    either_model: AnyOrderWorldModel, episodes: list[Trajectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    horizon = 4
    monkeypatch.setattr(goals, "HORIZONS", (horizon,))
    bots = [replace(ended(item, 5 + row), behaviour="bot") for row, item in enumerate(episodes[:4])]
    slots = np.zeros((horizon, 3), bool)
    slots[:, OUTCOME] = True  # that it succeeds then is what the plan is told
    ways = [_scrambled(bot, len(bot) - horizon + 1, slots, np.zeros((horizon, 49, 3), bool)) for bot in bots]
    stores, right = [], []
    for name, items in (("bots", bots), ("others", ways)):
        (tmp_path / name).mkdir()
        with StoreWriter(tmp_path / name) as writer:
            for index, item in enumerate(items):
                writer.add(item, 0, index)
        stores.append(EpisodeStore(tmp_path / name))

    def ask(store: EpisodeStore) -> None:
        right.append(goals.goal_tally(either_model, store, 10, np.random.default_rng(0)))

    _assert_same(*(_given(either_model, ask, store) for store in stores))
    assert right[0].entry()["n"] == len(bots)


@pytest.mark.parametrize("position", [1, 2, 3])
def test_the_outcome_is_asked_before_the_step_is_seen(
    either_model: AnyOrderWorldModel, episodes: list[Trajectory], position: int
) -> None:
    count = len(episodes)
    drawn = masks.only("forward", (count, 1))
    last = [3 + row for row in range(count)]
    *both, _ = _pair(episodes, last, last, drawn)
    asked = np.arange(count), np.array(last) - 1, position
    np.testing.assert_array_equal(*(success_probabilities(either_model, frames, *asked) for frames in both))


def test_predictions_do_not_depend_on_what_is_predicted(
    either_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    count = len(episodes)
    last = [1 + 3 * row for row in range(count)]
    forward, nothing = masks.only("forward", (count, 1)), masks.only("policy", (count, 1))
    frames, changed, target = _pair(episodes, last, last, forward)
    unknown = _pair(episodes, last, last, nothing)[1]
    said, other, policy = (model_predictions(either_model, each, target) for each in (frames, changed, unknown))
    for name in ("cells", "headings", "outcomes", "confidence", "visible", "actions", "outcome_confidence"):
        np.testing.assert_array_equal(getattr(said, name), getattr(other, name), err_msg=name)
    assert said.log_probs is not None
    assert not np.allclose(said.log_probs, other.log_probs)  # the truth did change
    # What the bot does is asked before the action is known.
    np.testing.assert_array_equal(said.actions, policy.actions)
    # Nor does it matter who acted.
    acted = windows.Frames.from_trajectories([replace(item, behaviour="tour") for item in episodes])
    again = model_predictions(either_model, acted, target)
    np.testing.assert_array_equal(said.confidence, again.confidence)
    np.testing.assert_array_equal(said.actions, again.actions)


def test_baselines_do_not_see_what_they_predict(episodes: list[Trajectory]) -> None:
    """Where a view is taken from follows from the action, and is no secret."""
    drawn = masks.only("forward", (len(episodes), 1))
    drawn.slots[..., DIRECTION] = True
    last = [1 + 3 * row for row in range(len(episodes))]
    *both, target = _pair(episodes, last, last, drawn)
    steps = [transitions(frames, target) for frames in both]
    assert (steps[0].cells != steps[1].cells).mean() > 0.9
    for name, baseline in BASELINES.items():
        said, other = (baseline(each) for each in steps)
        for part in ("cells", "headings", "outcomes"):
            np.testing.assert_array_equal(getattr(said, part), getattr(other, part), err_msg=f"{name}: {part}")
