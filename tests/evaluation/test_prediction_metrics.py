"""Prediction metrics against hand-computed values, and what they must not look at."""

from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import random_episode
from tests.evaluation.conftest import view, walk
from wmtoolkit import AnyOrderWorldModel, Trajectory, WorldTokenizer
from wmtoolkit.evaluation.calibration import Calibration, calibrations
from wmtoolkit.evaluation.prediction import (
    StepPredictions,
    action_tally,
    copy_last_frame,
    dead_reckoned_map,
    event_tallies,
    map_in_sight,
    model_predictions,
    outcome_tallies,
    prediction_tallies,
)
from wmtoolkit.evaluation.prior import CellPrior
from wmtoolkit.evaluation.transitions import NAMES, Transitions, all_steps, draw_steps, events, transitions
from wmtoolkit.world import grid, windows
from wmtoolkit.world.trajectory import Outcome


def _steps(*trajectories: Trajectory) -> Transitions:
    frames = windows.Frames.from_trajectories(trajectories)
    return transitions(frames, all_steps(frames))


BALL, EMPTY, WALL = (6, 0, 0), (grid.EMPTY, 0, 0), (grid.WALL, 5, 0)
FORWARD_STEP = (
    # The agent looks right (+x), sees a free cell ahead and a ball two cells ahead, and steps forward: now the ball is
    # right ahead (known), a wall behind it is new (revealed), and the cell left of the ball, known as empty, is a wall.
    [grid.FORWARD],
    [view(c3r5=EMPTY, c3r4=BALL, c2r4=EMPTY), view(c3r5=BALL, c3r4=WALL, c2r5=WALL)],
    [0, 0],
)


def test_known_revealed_and_changed_cells_are_told_apart() -> None:
    steps = _steps(walk(*FORWARD_STEP))

    def cells(mask: np.ndarray) -> set[tuple[int, int]]:
        return {tuple(map(int, divmod(index, 7))) for index in np.flatnonzero(mask)}

    # The agent's own cell is known too: it was the free cell ahead. The ball is two rows nearer than it was.
    assert cells(steps.known[0]) == {(3, 6), (3, 5), (2, 5)}
    assert cells(steps.revealed[0]) == {(3, 4)}
    assert cells(steps.changed[0]) == {(2, 5)}


def test_the_age_of_a_cell_is_how_long_ago_it_was_seen() -> None:
    there, away = view(c3r5=BALL), view(c3r5=WALL)
    # Looking right at a ball, the agent turns away for six steps and back: the ball was last seen 8 steps ago.
    turns = [grid.LEFT] * 2 + [grid.DONE] * 4 + [grid.RIGHT] * 2
    headings = [0, 3, 2, 2, 2, 2, 2, 3, 0]
    steps = _steps(walk(turns, [there, *[away] * 7, there], headings))
    ahead = 3 * 7 + 5
    assert steps.age[-1, ahead] == 8
    assert steps.known[-1, ahead]
    assert not steps.changed[-1, ahead]
    assert steps.age[2, ahead] == 1
    assert (steps.age[~steps.known] == -1).all()
    wrong = steps.cells.copy()
    wrong[-1, ahead] += 1  # 8 steps old
    wrong[3, 3 * 7 + 6] += 1  # the agent's own place, 4 steps old
    found = prediction_tallies(steps, StepPredictions(wrong, steps.headings, steps.outcomes), len(steps))
    # The own place 5 to 8 steps after it was seen, what is right of it 7 and 8, and what is above it 5 and 6.
    assert found["remembered_cell_accuracy"].entry()["n"] == 8
    assert found["remembered_cell_accuracy"].value == pytest.approx(7 / 8)


def test_cells_last_seen_5_to_30_steps_ago_are_remembered() -> None:
    steps = _steps(walk(*FORWARD_STEP))
    age, known = np.full((1, 49), -1), np.zeros((1, 49), bool)
    age[0, :5], known[0, :5] = [4, 5, 29, 30, 31], True
    steps, wrong = replace(steps, age=age, known=known), steps.cells.copy()
    wrong[0, [0, 3, 4]] += 1
    found = prediction_tallies(steps, StepPredictions(wrong, steps.headings, steps.outcomes), 1)
    assert found["remembered_cell_accuracy"].value == pytest.approx(2 / 3)  # 5 and 29, not 30
    assert found["known_cell_accuracy"].value == pytest.approx(2 / 5)


def test_each_metric_counts_its_own_cells() -> None:
    steps = _steps(walk(*FORWARD_STEP))
    wrong = steps.cells.copy()
    wrong[0, 2 * 7 + 5] += 1  # the changed cell
    wrong[0, 0] += 1  # a cell of which nothing is known
    log_probs = np.full((1, 52), -0.5, np.float32)
    # A cell is seen with probability e^-0.2: given that it is, it costs 0.2 nats less.
    seen = np.full((1, 49), -0.2, np.float32)
    said = StepPredictions(wrong, steps.headings, steps.outcomes, np.full((1, 49), 0.9), log_probs, seen)
    prior = CellPrior(np.full((49, 420), -2.0))
    found = {name: tally.value for name, tally in prediction_tallies(steps, said, 1, prior).items()}
    assert found["known_cell_accuracy"] == pytest.approx(2 / 3)
    assert found["changed_cell_accuracy"] == 0
    assert found["revealed_cell_accuracy"] == 1
    assert found["cell_accuracy"] == pytest.approx(47 / 49)
    assert found["frame_exact"] == 0
    assert found["known_frame_exact"] == 0
    assert found["direction_accuracy"] == 1
    turned = prediction_tallies(steps, replace(said, headings=(steps.headings + 1) % 4), 1)
    assert turned["direction_accuracy"].value == 0
    assert found["forward_nll"] == pytest.approx(51 * 0.5)  # all but the action
    assert found["revealed_nll"] == pytest.approx(0.5 - 0.2)
    assert found["revealed_nll_prior"] == pytest.approx(2)
    assert found["revealed_nll_gain"] == pytest.approx(2 - 0.3)


def test_only_the_steps_drawn_evenly_count() -> None:
    steps = _steps(walk(*FORWARD_STEP), walk(*FORWARD_STEP))
    wrong = steps.cells.copy()
    wrong[1] += 1
    said = StepPredictions(wrong, steps.headings, steps.outcomes)
    assert prediction_tallies(steps, said, 1)["known_cell_accuracy"].value == 1
    assert prediction_tallies(steps, said, 2)["known_cell_accuracy"].value == 0.5
    assert event_tallies(steps, said)["move"].value == 0.5


def test_baselines_say_what_their_names_say() -> None:
    first, second = view(c3r5=EMPTY, c3r4=BALL), view(c3r5=BALL, c3r4=WALL)
    steps = _steps(walk([grid.FORWARD], [first, second], [0, 0]))
    copied, mapped = copy_last_frame(steps), dead_reckoned_map(steps)
    tokens = WorldTokenizer()
    np.testing.assert_array_equal(copied.cells[0], tokens.cell_ids(first).ravel())
    ball, empty = tokens.cell_ids(np.array(BALL)), tokens.cell_ids(np.array(EMPTY))
    assert mapped.cells[0, 3 * 7 + 5] == ball
    assert mapped.cells[0, 3 * 7 + 4] == empty
    turning = _steps(walk([grid.LEFT], [first, second], [0, 3]))
    assert dead_reckoned_map(turning).headings[0] == 3
    assert copy_last_frame(turning).headings[0] == 0


def test_the_dead_reckoned_map_knows_a_still_world(episodes: list[Trajectory]) -> None:
    """Where nothing changes, what was seen before is still there."""
    steps = _steps(*episodes)
    said = dead_reckoned_map(steps)
    unseen = WorldTokenizer().cell_ids(np.zeros(3))
    seen = steps.known & ~steps.changed & (steps.cells != unseen)
    assert (said.cells == steps.cells)[seen].mean() == 1


def test_the_map_in_sight_knows_what_walls_hide() -> None:
    """After a turn or a step nothing has changed: whatever was seen before is shown, or hidden, as the map says."""
    steps = _steps(*(random_episode("BabyAI-GoToObjMazeS4R2-v0", seed, 60) for seed in range(12)))
    moved = steps.known & (steps.actions <= grid.FORWARD)[:, None]
    hidden = moved & (steps.cells == WorldTokenizer().cell_ids(np.zeros(3)))
    assert hidden.any()
    assert not (dead_reckoned_map(steps).cells == steps.cells)[hidden].any()
    assert (map_in_sight(steps).cells == steps.cells)[moved].all()


def test_events_are_what_the_action_did() -> None:
    key, door, opened = (5, 2, 0), (grid.DOOR, 1, 1), (grid.DOOR, 1, 0)
    held = view(c3r5=EMPTY)
    held[grid.AGENT_CELL] = key
    acted = walk(
        [grid.LEFT, grid.FORWARD, grid.PICKUP, grid.DROP, grid.PICKUP, grid.TOGGLE, grid.TOGGLE, grid.FORWARD],
        [view(), view(c3r5=EMPTY), view(c3r5=key), held, view(c3r5=key), view(c3r5=key), view(c3r5=door),
         view(c3r5=opened), view(c3r5=WALL)],
        [0, 3, 3, 3, 3, 3, 3, 3, 3],
    )  # fmt: skip
    frames = windows.Frames.from_trajectories([acted])
    named = [NAMES[kind] for kind in events(frames, all_steps(frames))]
    assert named == ["turn", "move", "pickup", "drop", "no effect", "no effect", "toggle", "move"]
    blocked = windows.Frames.from_trajectories([walk([grid.FORWARD], [view(c3r5=WALL)] * 2, [0, 0])])
    assert events(blocked, all_steps(blocked)).tolist() == [NAMES.index("bump")]


def test_rare_events_are_drawn_beside_the_even_draw(episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories(episodes)
    target, evenly = draw_steps(frames, 12, 4, np.random.default_rng(3))
    again, _ = draw_steps(frames, 12, 4, np.random.default_rng(3))
    np.testing.assert_array_equal(target, again)
    assert evenly == 12
    assert len(np.unique(target)) == len(target)
    everywhere = np.bincount(events(frames, all_steps(frames)), minlength=len(NAMES))
    drawn = np.bincount(events(frames, target), minlength=len(NAMES))
    assert (drawn >= np.minimum(everywhere, 4)).all()
    assert draw_steps(frames, 10**6, 4, np.random.default_rng(3))[1] == everywhere.sum()


def test_outcome_scores() -> None:
    true = np.array([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.CONTINUE, Outcome.CONTINUE])
    said = np.array([Outcome.SUCCESS, Outcome.CONTINUE, Outcome.SUCCESS, Outcome.CONTINUE])
    found = {name: tally.value for name, tally in outcome_tallies(said, true, np.arange(4)).items()}
    assert found == {"outcome_precision": 0.5, "outcome_recall": 0.5, "outcome_f1": 0.5}
    # The false alarm stands for three: precision 1/4, F1 = 2 / (2 + 3 + 1).
    weight = np.array([1.0, 1.0, 3.0, 3.0])
    found = {name: tally.value for name, tally in outcome_tallies(said, true, np.arange(4), weight).items()}
    assert found == pytest.approx({"outcome_precision": 0.25, "outcome_recall": 0.5, "outcome_f1": 1 / 3})
    assert outcome_tallies(said, np.full(4, Outcome.CONTINUE), np.arange(4)) == {}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    found = Calibration.of(confidence, right, np.arange(20) % 4)
    assert found.entry()["value"] == pytest.approx(0.5 * 0.0 + 0.5 * 0.3)
    assert found.entry()["n"] == 20
    low, high = found.rows()
    assert (low["confidence"], low["accuracy"], low["n"]) == (pytest.approx(0.6), pytest.approx(0.3), 10)
    assert (high["confidence"], high["accuracy"]) == (pytest.approx(0.9), pytest.approx(0.9))
    both = Calibration.joined([found, found])
    assert both.entry()["value"] == pytest.approx(found.entry()["value"])
    assert Calibration.of(np.ones(3), np.ones(3), np.arange(3)).entry()["value"] == 0


def test_the_interval_of_the_calibration_error_holds_it() -> None:
    # Two episodes of a step said with 0.75, one right: the gap is 0.25. Drawn anew it is 0.25 three times of four, and
    # 0.75 where the wrong one comes twice; mirrored at 0.25 that is below 0.
    found = Calibration.of(np.array([0.75, 0.75]), np.array([True, False]), np.arange(2)).entry()
    assert (found["value"], found["ci95"]) == (pytest.approx(0.25), pytest.approx([0, 0.75]))
    # Five right and fifteen wrong, alike in both episodes: no draw differs.
    alike = Calibration.of(np.full(40, 0.75), np.arange(40) % 4 == 0, np.arange(40) // 20).entry()
    assert alike["ci95"] == pytest.approx([0.5, 0.5])
    rng, calibrated = np.random.default_rng(0), 0
    for _ in range(60):
        confidence = rng.uniform(0.3, 1, 600)
        found = Calibration.of(confidence, rng.random(600) < confidence, np.arange(600) // 20).entry()
        assert 0 <= found["ci95"][0] <= found["value"] <= found["ci95"][1]
        calibrated += found["ci95"][0] == 0
    assert calibrated > 15  # percentiles alone never reach down to 0


def test_calibration_of_revealed_cells_and_of_the_outcome_is_told_apart() -> None:
    steps = _steps(walk(*FORWARD_STEP), walk(*FORWARD_STEP))
    wrong, confidence = steps.cells.copy(), np.full((2, 49), 0.9)
    wrong[steps.revealed] += 1
    confidence[steps.revealed] = 0.6
    outcomes = np.array([Outcome.CONTINUE, Outcome.SUCCESS])
    said = StepPredictions(wrong, steps.headings, outcomes, confidence, outcome_confidence=np.array([0.8, 0.7]))

    def errors(steps: Transitions, evenly: int) -> dict[str, tuple[float, int]]:
        entries = {name: part.entry() for name, part in calibrations(steps, said, evenly).items()}
        return {name: (pytest.approx(entry["value"]), entry["n"]) for name, entry in entries.items()}

    # 48 cells said with 0.9 are right and the revealed one, said with 0.6, is wrong.
    cells, revealed = (48 * 0.1 + 0.6) / 49, 0.6
    assert errors(steps, 1) == {"ece": (cells, 49), "ece_revealed": (revealed, 1), "ece_outcome": (0.2, 1)}
    # The second outcome, said with 0.7, is wrong.
    both = {"ece": (cells, 98), "ece_revealed": (revealed, 2), "ece_outcome": ((0.2 + 0.7) / 2, 2)}
    assert errors(steps, 2) == both
    nothing_new = replace(steps, revealed=np.zeros_like(steps.revealed))
    assert list(calibrations(nothing_new, said, 2)) == ["ece", "ece_outcome"]


def test_the_prior_counts_what_was_revealed_where() -> None:
    tokens = WorldTokenizer()
    ball, wall = (int(tokens.cell_ids(np.array(cell))) for cell in (BALL, WALL))
    # At place 5: 30 balls and 10 walls. With 10 parts of the overall mix, which is the same: 3/4 and 1/4.
    prior = CellPrior.counted(np.full(40, 5), np.array([ball] * 30 + [wall] * 10))
    assert np.exp(prior.log_probs).sum(axis=1) == pytest.approx(1)
    ids = np.full((1, 49), ball)
    assert np.exp(-prior.nll(ids)[0, 5]) == pytest.approx(0.75, abs=0.03)
    # Elsewhere nothing was seen: the overall mix.
    assert np.exp(-prior.nll(ids)[0, 6]) == pytest.approx(0.75, abs=0.05)
    never = int(tokens.cell_ids(np.array([8, 3, 0])))
    assert np.isfinite(prior.nll(np.full((1, 49), never))).all()


def test_the_prior_is_fitted_on_what_it_is_given(episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories(episodes)
    steps = transitions(frames, all_steps(frames))
    row, place = np.nonzero(steps.revealed)
    expected = CellPrior.counted(place, steps.cells[row, place])
    found = CellPrior.fit(frames, 10**6, np.random.default_rng(0))
    np.testing.assert_allclose(found.log_probs, expected.log_probs)


def test_predictions_equal_those_of_a_rollout(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories(episodes[:2])
    target = all_steps(frames)[:20]
    said = model_predictions(world_model, frames, target)
    histories = [episodes[0].prefix(step) for step in range(20)]
    found = world_model.predict(histories, episodes[0].actions[:20])
    cells = WorldTokenizer().cell_ids(found.images).reshape(20, -1)
    assert (cells == said.cells).mean() > 0.999
    np.testing.assert_array_equal(found.directions, said.headings)
    np.testing.assert_allclose(found.confidence.reshape(20, -1), said.confidence, atol=1e-4)
    np.testing.assert_allclose(world_model.policy(histories), said.actions, atol=1e-4)


def test_action_accuracy_asks_only_of_the_bot(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    rng = np.random.default_rng(0)
    assert action_tally(world_model, windows.Frames.from_trajectories(episodes), 50, rng) is None
    bots = [replace(trajectory.prefix(5), behaviour="bot") for trajectory in episodes[:2]]
    found = action_tally(world_model, windows.Frames.from_trajectories([*episodes, *bots]), 50, rng)
    assert found is not None
    assert found.entry()["n"] == 10
    said = [
        world_model.policy([bot.prefix(step)])[0].argmax() == bot.actions[step] for bot in bots for step in range(5)
    ]
    assert found.value == pytest.approx(np.mean(said))
