"""Every metric of a model with known probabilities, against the value computed by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.evaluation.conftest import CHANCES, ended, favour, stand_in, view, walk
from wmtoolkit import AnyOrderWorldModel, Trajectory, WorldTokenizer
from wmtoolkit.data.splits import SPLITS
from wmtoolkit.data.store import EpisodeStore, StoreWriter
from wmtoolkit.evaluation.bounds import bound_tallies, chain, forward_chain
from wmtoolkit.evaluation.completion import (
    LEVELS,
    RATIOS,
    belief_accuracy,
    completion_curves,
    draw_masks,
    inverse_tallies,
)
from wmtoolkit.evaluation.evaluate import Measured, _metrics
from wmtoolkit.evaluation.goals import goal_tally
from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.outcomes import grounded_outcomes, outcome_steps
from wmtoolkit.evaluation.prediction import model_predictions
from wmtoolkit.evaluation.transitions import all_steps
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.tokenizer import FIRST_CELL, FIRST_WORD, OUTCOME
from wmtoolkit.world.trajectory import Outcome

RNG = np.random.default_rng
WALL = (grid.WALL, 5, 0)


def _cell_nats(images: np.ndarray) -> np.ndarray:
    """(..., 3) nats that ``constant`` gives to a cell's object, colour and state."""
    tables = (CHANCES["objects"], CHANCES["colors"], CHANCES["states"])
    return -np.log(np.stack([table[images[..., index]] for index, table in enumerate(tables)], -1))


def _said(images: np.ndarray) -> np.ndarray:
    """(..., 3) whether a cell's object, colour and state are what ``constant`` finds most likely."""
    return images == (grid.EMPTY, 0, 0)


def _nats(frames: windows.Frames) -> np.ndarray:
    """(N, 52) nats of the tokens of frames."""
    slots = [-np.log(CHANCES[kind][getattr(frames, kind)]) for kind in ("actions", "outcomes", "directions")]
    return np.concatenate([np.stack(slots, -1), _cell_nats(frames.images).sum(-1).reshape(-1, 49)], -1)


def test_the_likelihood_of_a_step(constant: AnyOrderWorldModel) -> None:
    images = [view(), view(c3r5=WALL)]
    frames = windows.Frames.from_trajectories([walk([grid.FORWARD], images, [0, 1])])
    found = bound_tallies(constant, frames, 1, 1, 1, RNG(0))
    # 47 cells unseen, an empty one, a grey wall; no action but forward has 0.4, no heading but right 0.2.
    cells = -47 * np.log(0.05 * 0.5 * 0.7) - np.log(0.5 * 0.5 * 0.7) - np.log(0.05 * 0.1 * 0.7)
    dynamics = cells - np.log(0.7) - np.log(0.2)
    assert found["chain_dynamics_per_step"].value == pytest.approx(dynamics, rel=1e-5)
    assert found["chain_nll_per_step"].value == pytest.approx(dynamics - np.log(0.4), rel=1e-5)


def test_the_bound_counts_what_is_hidden_and_the_chain_everything(
    constant: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories([episodes[0].prefix(2), episodes[1].prefix(3)])
    found = bound_tallies(constant, frames, 4, 1, 2, RNG(4))
    rng = RNG(4)
    nats = _nats(frames)[rng.permutation(all_steps(frames))[:4]]
    hidden = masks.draw({"cell": 1.0}, (4, 1), rng).targets[:, 0]
    bound = nats * hidden * 52 / hidden.sum(-1, keepdims=True)
    assert found["nll_per_step"].value == pytest.approx(bound.sum() / 4, rel=1e-5)
    assert found["dynamics_per_step"].value == pytest.approx(bound[:, 1:].sum() / 4, rel=1e-5)
    assert found["chain_nll_per_step"].value == pytest.approx(nats[:2].sum() / 2, rel=1e-5)
    assert found["chain_dynamics_per_step"].value == pytest.approx(nats[:2, 1:].sum() / 2, rel=1e-5)
    assert [found[name].entry()["n"] for name in ("nll_per_step", "chain_nll_per_step")] == [4, 2]


def test_the_forward_chain_by_hand(constant: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories(episodes[:2])
    target = all_steps(frames)[::11]
    expected = _nats(frames)[target]
    expected[:, :OUTCOME] = 0  # the action is given
    for tokens in (1, 7, 52):
        np.testing.assert_allclose(forward_chain(constant, frames, target, tokens), expected, rtol=1e-5)


def test_chains_are_distributions(either_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    """Over all 16 outcomes and headings a step may have, their chances add up to 1, and one tells of the other."""
    frames = windows.Frames.from_trajectories([episodes[0]])
    target, nats = np.array([4]), np.zeros((4, 4, 2))
    for outcome, heading in np.ndindex(4, 4):
        outcomes, headings = np.array(frames.outcomes), np.array(frames.directions)
        outcomes[target], headings[target] = outcome, heading
        other = replace(frames, outcomes=outcomes, directions=headings)
        nats[outcome, heading] = chain(either_model, other, target, first=OUTCOME, as_bot=True)[0, OUTCOME:FIRST_CELL]
    chances = np.exp(-nats)
    np.testing.assert_allclose(chances[..., 0], chances[:, :1, 0] + 0 * chances[..., 0], rtol=1e-5)
    np.testing.assert_allclose(chances.prod(-1).sum(), 1, rtol=1e-4)
    assert np.ptp(chances[..., 1], axis=0).max() > 1e-4


def test_few_tokens_at_a_time_see_those_before_them(
    either_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories([episodes[0]])
    target = np.array([3, 6])
    one, three, all_at_once = (
        chain(either_model, frames, target, first=OUTCOME, tokens=tokens, as_bot=True) for tokens in (1, 3, 51)
    )
    begins = np.arange(OUTCOME, 52, 3)  # the first of each three knows as much as in the chain itself
    np.testing.assert_allclose(three[:, begins], one[:, begins], rtol=1e-4, atol=1e-5)
    assert not np.allclose(three, one, rtol=1e-3)
    parallel = -model_predictions(either_model, frames, target).log_probs
    np.testing.assert_allclose(all_at_once[:, OUTCOME:], parallel[:, OUTCOME:], rtol=1e-4, atol=1e-5)
    assert (one[:, :OUTCOME] == 0).all()


def test_the_standard_error_of_the_bound_is_that_of_a_mean_over_episodes() -> None:
    episode, step = np.divmod(np.arange(800), 2)
    values = RNG(0).normal(20, 3, 400)[episode] + step  # the two steps of an episode are no two witnesses
    found = _metrics(Measured(scores={"nll_per_step": Tally.of("mean", values, episode)}))["nll_per_step"]
    assert found["standard_error"] == pytest.approx(values.reshape(400, 2).mean(1).std() / np.sqrt(400), rel=0.1)
    low, high = found["ci95"]
    assert found["standard_error"] == pytest.approx((high - low) / 3.92)


def test_the_standard_error_of_the_public_bound_is_the_formula(
    constant: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories([episodes[0].prefix(3)])
    found = constant.nll([episodes[0].prefix(3)], samples=4, seed=7)
    rng, nats = RNG(7), _nats(frames)[1:]
    hidden = np.stack([masks.draw({"cell": 1.0}, (3, 1), rng).targets[:, 0] for _ in range(4)])
    draws = (nats * hidden * 52 / hidden.sum(-1, keepdims=True)).sum(-1)
    assert found["nll_per_step"] == pytest.approx(draws.mean(), rel=1e-5)
    # A step's mean over 4 draws has a quarter of their variance, the mean over 3 steps a ninth of the sum of these.
    assert found["standard_error"] == pytest.approx(np.sqrt((draws.var(axis=0, ddof=1) / 4).sum() / 9), rel=1e-4)


def test_completion_curves_count_what_is_hidden_up_to_the_target(
    constant: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories([episodes[0].prefix(3)])
    images = frames.images.reshape(4, 49, 3)
    right, nats = _said(images), _cell_nats(images)
    found = completion_curves(constant, frames, 3, RNG(0))
    assert list(found) == [(level, ratio) for level in LEVELS for ratio in RATIOS]
    rng = RNG(0)
    there = np.arange(4) <= rng.permutation(all_steps(frames))[:, None]  # all windows start with the episode
    for (level, ratio), tallies in found.items():
        hidden = ~draw_masks(level, ratio, (3, 4), rng).cells & there[..., None, None]
        accuracy, nll = (tallies[name] for name in ("accuracy", "nll"))
        if level == "attribute":
            count, hits, lost = hidden.sum(), (right & hidden).sum(), (nats * hidden).sum()
        else:
            whole = hidden.all(-1)
            count, hits, lost = whole.sum(), (right.all(-1) & whole).sum(), (nats.sum(-1) * whole).sum()
        assert accuracy.entry()["n"] == nll.entry()["n"] == count
        assert accuracy.value == pytest.approx(hits / count)
        assert nll.value == pytest.approx(lost / count, rel=1e-5)


def test_belief_counts_the_hidden_cells_of_the_newest_frame(
    constant: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories([episodes[0].prefix(3)])
    found = belief_accuracy(constant, frames, 3, RNG(0))
    rng = RNG(0)
    newest = rng.permutation(all_steps(frames))
    hidden = ~draw_masks("cell", 0.3, (3, 4), rng, slots=False).cells.all(-1)[np.arange(3), newest]
    right = _said(frames.images.reshape(4, 49, 3)).all(-1)[newest]
    assert found.entry()["n"] == hidden.sum()
    assert found.value == pytest.approx(right[hidden].mean())


def test_inverse_dynamics_counts_apart_where_something_changed(constant: AnyOrderWorldModel) -> None:
    far, nearer, near = view(c3r3=WALL), view(c3r4=WALL), view(c3r5=WALL)
    # Two steps to a wall, one into it, a turn after which the view is the same, and nothing.
    moves = [grid.FORWARD, grid.FORWARD, grid.FORWARD, grid.LEFT, grid.DONE]
    episode = walk(moves, [far, nearer, near, near, near, near], [0, 0, 0, 0, 3, 3])
    found = inverse_tallies(constant, windows.Frames.from_trajectories([episode]), 10, RNG(0))
    assert found["inverse_accuracy"].value == 3 / 5  # it always says forward
    assert found["inverse_accuracy_changed"].value == 2 / 3
    assert found["inverse_accuracy_changed"].entry()["n"] == found["inverse_bayes_changed"].entry()["n"] == 3
    # What came after is as likely after any action, so the first one, left, is as good as any: one step was that.
    assert found["inverse_bayes_changed"].value == 1 / 3
    still = windows.Frames.from_trajectories([walk([grid.DONE], [near, near], [0, 0])])
    assert list(inverse_tallies(constant, still, 10, RNG(0))) == ["inverse_accuracy"]


def test_goals_count_plans_that_start_as_the_bot_went_on(
    constant: AnyOrderWorldModel, episodes: list[Trajectory], tmp_path: Path
) -> None:
    forward, left, pickup = grid.FORWARD, grid.LEFT, grid.PICKUP

    def episode(actions: list[int], success: bool = True, behaviour: str = "bot") -> Trajectory:
        length = len(actions)
        item = ended(episodes[0], length) if success else episodes[0].prefix(length)
        return replace(item, actions=np.array(actions), behaviour=behaviour)

    def store(*items: Trajectory) -> EpisodeStore:
        folder = tmp_path / str(len(items))
        folder.mkdir()
        with StoreWriter(folder) as writer:
            for index, item in enumerate(items):
                writer.add(item, SPLITS.index("test"), index)
        return EpisodeStore(folder, "test")

    others = episode([forward], success=False), episode([forward], behaviour="random")
    bots = episode([left, forward, forward]), episode([forward, pickup]), episode([forward])
    found = goal_tally(constant, store(*others, *bots), 100, RNG(0))
    assert found is not None
    # It plans to go forward: one step from the end 2 of 3 bots did, two steps from it 2 of 2.
    assert found.value == pytest.approx(4 / 5)
    assert found.entry()["n"] == 5
    assert goal_tally(constant, store(*others), 100, RNG(0)) is None


def _red(ids: torch.Tensor) -> torch.Tensor:
    """(B,) 1 where a sequence names the colour red."""
    return (ids == int(WorldTokenizer().mission_block("red", "bot")[FIRST_WORD])).any(1).long()


def test_outcomes_under_another_mission(episodes: list[Trajectory]) -> None:
    def outcomes(success: float) -> dict[str, np.ndarray]:
        rest = 0.9 - success
        return {"outcomes": np.array([0.05, rest, success, 0.05])}

    # P(success) is 0.8 under a mission that names something red and 0.3 under another.
    model = stand_in(outcomes(0.3), outcomes(0.8), which=_red)
    missions = ["go to the red ball", "go to the red ball", "go to the green key"]
    items = [replace(ended(episodes[0], 2), mission=mission, level="one") for mission in missions]
    frames = windows.Frames.from_trajectories(items)
    found = grounded_outcomes(model, frames, outcome_steps(frames, 10, 10, RNG(0)))
    values = {place: {name: tally.value for name, tally in found[place].items()} for place in found}
    swapped = {
        "success_probability": (0.8 + 0.8 + 0.3) / 3,
        "success_probability_swapped": (0.3 + 0.3 + 0.8) / 3,
        "swap_falls": 2 / 3,  # from 0.8 to 0.3 it falls to less than half, from 0.3 to 0.8 it rises
    }
    # One step before: both steps of each red mission are called a success, so 2 hits, 2 false alarms and 1 miss.
    first = {"outcome_precision": 2 / 4, "outcome_recall": 2 / 3, "outcome_f1": 4 / 7}
    # Two frames before it has the second step alone: 2 hits and 1 miss.
    second = {"outcome_precision": 1, "outcome_recall": 2 / 3, "outcome_f1": 4 / 5}
    assert values == {1: pytest.approx(first | swapped), 2: pytest.approx(second | swapped), 3: {}}


def test_a_probability_that_falls_to_half_or_more_does_not_count_as_fallen(episodes: list[Trajectory]) -> None:
    answers = [{"outcomes": favour(4, Outcome.SUCCESS, chance)} for chance in (0.25, 0.45)]
    model = stand_in(*answers, which=_red)
    missions = ["go to the red ball", "go to the green key"]
    items = [replace(ended(episodes[0], 1), mission=mission, level="one") for mission in missions]
    frames = windows.Frames.from_trajectories(items)
    found = grounded_outcomes(model, frames, outcome_steps(frames, 10, 10, RNG(0)))[1]
    assert found["swap_falls"].value == 0
    assert found["success_probability"].value == pytest.approx(0.35)


def test_near_misses_look_like_a_success_of_their_level(episodes: list[Trajectory]) -> None:
    model = stand_in(
        {"outcomes": favour(4, Outcome.SUCCESS, 0.25)}, {"outcomes": favour(4, Outcome.SUCCESS, 0.75)}, which=_red
    )
    ball = np.array(episodes[0].images)
    ball[2, *grid.FRONT_CELL] = (grid.OBJECTS.index("ball"), 0, 0)
    actions = np.array(episodes[0].actions)
    actions[1] = grid.TOGGLE
    actions[2:5] = grid.LEFT  # so no other step looks alike
    item = replace(episodes[0], images=ball, actions=actions, level="one")
    right, wrong = (replace(item, mission=f"go to the {name}") for name in ("grey ball", "red key"))
    frames = windows.Frames.from_trajectories([ended(right, 2), wrong.prefix(5)])
    steps = outcome_steps(frames, 10, 10, RNG(0))
    assert (steps.episode[steps.near], steps.step[steps.near]) == (1, 1)
    found = grounded_outcomes(model, frames, steps)[1]
    assert found["success_probability_near_miss"].value == pytest.approx(0.75)
    assert found["success_probability_near_miss"].entry()["n"] == 1
    assert steps.weight.sum() == 2 + 5
