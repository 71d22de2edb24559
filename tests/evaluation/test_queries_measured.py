"""Outcomes, completion, inverse dynamics and likelihood: against the model's own queries and hand-computed values."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation.conftest import ended, stand_in
from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.evaluation.bounds import any_order_bound, chain
from wmtoolkit.evaluation.completion import (
    completion_tallies,
    draw_masks,
    inverse_probabilities,
    inverse_tallies,
)
from wmtoolkit.evaluation.outcomes import grounded_outcomes, outcome_steps, success_probabilities
from wmtoolkit.evaluation.prediction import inverse_by_bayes, model_predictions
from wmtoolkit.evaluation.transitions import all_steps
from wmtoolkit.world import masks, windows
from wmtoolkit.world.tokenizer import FIRST_WORD, Visibility
from wmtoolkit.world.trajectory import Outcome


@pytest.fixture(scope="module")
def indifferent() -> AnyOrderWorldModel:
    """A model to which every completion is equally likely."""
    return stand_in({})


def test_the_chain_rule_of_an_indifferent_model_counts_the_choices(
    indifferent: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    choices = len(indifferent.network.completions)
    frames = windows.Frames.from_trajectories(episodes)
    nll = chain(indifferent, frames, all_steps(frames)[:3])
    expected = np.log([7, 4, 4, *[choices] * 49])
    np.testing.assert_allclose(nll, np.tile(expected, (3, 1)), rtol=1e-5)


def test_the_bound_of_an_indifferent_model_is_weighted_by_what_is_hidden(
    indifferent: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories(episodes)
    target = all_steps(frames)[:40]
    found = any_order_bound(indifferent, frames, target, 1, np.random.default_rng(5))
    drawn = masks.draw({"cell": 1.0}, (40, 1), np.random.default_rng(5)).targets[:, 0]
    each = np.log([7, 4, 4, *[len(indifferent.network.completions)] * 49])
    np.testing.assert_allclose(found, drawn * each * (52 / drawn.sum(-1, keepdims=True)), rtol=1e-5)
    # Its expectation is the exact value.
    many = any_order_bound(indifferent, frames, np.repeat(target, 25), 1, np.random.default_rng(6)).sum(-1)
    assert many.mean() == pytest.approx(each.sum(), abs=4 * many.std() / np.sqrt(len(many)))


def test_the_chain_is_the_models_own_conditionals(either_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    """Bound and chain ask the same network: with all but one token visible they agree on that token."""
    frames = windows.Frames.from_trajectories(episodes[:1])
    target = all_steps(frames)[[5]]
    found = chain(either_model, frames, target)[0]
    altered = replace(episodes[0], images=episodes[0].images.copy())
    altered.images[target[0], 6, 6] = (8, 1, 0)  # the last cell, which every token but itself is asked without
    again = chain(either_model, windows.Frames.from_trajectories([altered]), target)[0]
    np.testing.assert_array_equal(found[:-1], again[:-1])
    assert found[-1] != pytest.approx(again[-1])


def test_inverse_dynamics_is_the_public_query(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    episode = episodes[0]
    frames = windows.Frames.from_trajectories([episode])
    steps = np.array([0, 1, 2, 3, 10, len(episode) - 1])
    found = inverse_probabilities(world_model, frames, steps + 1)
    np.testing.assert_allclose(found, world_model.infer_action([episode] * len(steps), steps.tolist()), atol=1e-4)


def test_bayes_rule_is_the_public_query(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    episode = episodes[0]
    steps = np.array([0, 1, 5, len(episode) - 1])
    found = inverse_by_bayes(world_model, windows.Frames.from_trajectories([episode]), steps + 1)
    asked = world_model.infer_action([episode] * len(steps), steps.tolist(), bayes=True)
    np.testing.assert_allclose(found, asked, atol=1e-4)


def test_by_bayes_rule_the_likeliest_step_tells_the_action(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    """P(action | step) is proportional to what forward prediction gives that step after each action."""
    target = np.array([4])
    likelihoods = []
    for action in range(7):
        other = replace(episodes[0], actions=episodes[0].actions.copy())
        other.actions[3] = action
        said = model_predictions(world_model, windows.Frames.from_trajectories([other]), target)
        assert said.log_probs is not None
        likelihoods.append(said.log_probs[0, 1:].astype(np.float64).sum())
    expected = np.exp(np.array(likelihoods) - np.logaddexp.reduce(likelihoods))
    found = inverse_by_bayes(world_model, windows.Frames.from_trajectories(episodes[:1]), target)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_inverse_accuracy_by_hand(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories(episodes[:2])
    found = inverse_tallies(world_model, frames, 10**6, np.random.default_rng(0))
    target = all_steps(frames)
    right = inverse_probabilities(world_model, frames, target).argmax(-1) == frames.actions[target]
    assert found["inverse_accuracy"].value == pytest.approx(right.mean())
    assert found["inverse_accuracy"].entry()["n"] == len(target)
    assert 0 < found["inverse_accuracy_changed"].entry()["n"] < len(target)


@pytest.mark.parametrize("level", ["cell", "attribute"])
def test_masks_hide_what_they_say(level: str) -> None:
    drawn = draw_masks(level, 0.3, (200, 2), np.random.default_rng(0))
    assert (~drawn.cells).mean() == pytest.approx(0.3, abs=0.01)
    assert (~drawn.slots).mean() == pytest.approx(0.3, abs=0.04)
    together = drawn.cells.all(-1) | ~drawn.cells.any(-1)
    assert together.all() == (level == "cell")
    assert draw_masks(level, 0.3, (20, 2), np.random.default_rng(0), slots=False).slots.all()


@pytest.mark.parametrize("level", ["cell", "attribute"])
def test_completion_of_an_indifferent_model(
    indifferent: AnyOrderWorldModel, episodes: list[Trajectory], level: str
) -> None:
    """It costs the logarithm of how many completions agree with what is visible."""
    frames = windows.Frames.from_trajectories(episodes)
    target = all_steps(frames)[3:40:5]
    found = completion_tallies(indifferent, frames, target, level, 0.5, np.random.default_rng(0))
    size = indifferent.network.world.recent + 1
    hidden = ~draw_masks(level, 0.5, (len(target), size), np.random.default_rng(0)).cells
    objects, colors, states = (hidden[..., kind].sum() for kind in range(3))
    asked = hidden.any(-1).sum() if level == "cell" else hidden.sum()
    nats = objects * np.log(11) + colors * np.log(6) + states * np.log(4)
    assert found["nll"].value == pytest.approx(nats / asked, rel=1e-5)
    assert found["accuracy"].entry()["n"] == found["nll"].entry()["n"] == asked


def test_completion_agrees_with_the_public_query(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    """Belief by ``complete`` on one window is what is counted here, and the hidden truth changes nothing."""
    size = world_model.network.world.recent + 1
    episode = episodes[0].prefix(size - 1)
    frames = windows.Frames.from_trajectories([episode])
    target = np.array([size - 1])
    found = completion_tallies(world_model, frames, target, "cell", 0.4, np.random.default_rng(3), belief=True)
    drawn = draw_masks("cell", 0.4, (1, size), np.random.default_rng(3), slots=False)
    seen = replace(Visibility.full(size - 1), images=drawn.cells[0].reshape(size, 7, 7, 3))
    said = world_model.complete([episode], [seen])[0].trajectory
    hidden = ~seen.images[-1].all(-1)
    equal = (said.images[-1] == episode.images[-1]).all(-1)[hidden]
    assert found["accuracy"].value == pytest.approx(equal.mean())
    assert found["accuracy"].entry()["n"] == hidden.sum()
    scrambled = replace(episode, images=np.where(seen.images, episode.images, 1))
    other = world_model.complete([scrambled], [seen])[0].trajectory
    np.testing.assert_array_equal(other.images, said.images)


def test_outcomes_are_asked_at_every_position(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories([ended(item, 6) for item in episodes])
    steps = outcome_steps(frames, 100, 20, np.random.default_rng(0))
    success = steps.outcome == Outcome.SUCCESS
    assert success.sum() == len(episodes)
    assert steps.weight[success] == pytest.approx(1)
    assert steps.weight[~success].sum() == pytest.approx(5 * len(episodes))
    found = grounded_outcomes(world_model, frames, steps)
    assert list(found) == list(range(1, world_model.network.world.recent + 1))
    for position, tallies in found.items():
        said = success_probabilities(world_model, frames, steps.episode, steps.step, position)
        there = success & (steps.swapped[:, 0] >= 0)
        assert tallies["success_probability"].value == pytest.approx(said[there, Outcome.SUCCESS].mean())
        assert tallies["swap_falls"].entry()["n"] == there.sum()


def test_the_first_position_is_a_rollouts_prediction(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories(episodes[:1])
    step = np.array([2, 7, 11])
    found = success_probabilities(world_model, frames, np.zeros(3, np.int64), step, 1)
    histories = [episodes[0].prefix(int(item)) for item in step]
    expected = world_model.predict(histories, episodes[0].actions[step]).outcome_probabilities
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_swapped_mission_names_other_objects(episodes: list[Trajectory]) -> None:
    missions = ["go to the red ball", "go to a ball", "pick up the blue key", "traverse the rooms"]
    mixed = [
        replace(item, mission=text, level="one")
        for item, text in zip([ended(item, 6) for item in episodes], missions * 3, strict=False)
    ]
    frames = windows.Frames.from_trajectories(mixed)
    steps = outcome_steps(frames, 100, 5, np.random.default_rng(0))
    for row in np.flatnonzero(steps.outcome == Outcome.SUCCESS):
        own = missions[steps.episode[row] % 4]
        if own == "traverse the rooms":  # it names no object that could be swapped
            assert (steps.swapped[row] == -1).all()
            continue
        same = (frames.missions[:, FIRST_WORD:] == steps.swapped[row, FIRST_WORD:]).all(-1)
        others = np.flatnonzero(same)
        # A red ball is a ball: the two are no swap for each other.
        assert {mixed[i].mission for i in others} <= (
            {"go to the red ball", "go to a ball"} if own.endswith("key") else {"pick up the blue key"}
        )
        assert steps.swapped[row, 0] == frames.missions[steps.episode[row], 0]
    assert (steps.swapped[steps.outcome != Outcome.SUCCESS] == -1).all()
