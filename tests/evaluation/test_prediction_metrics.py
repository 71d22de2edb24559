"""Prediction metrics against hand-computed values."""

from dataclasses import replace

import numpy as np
import pytest

from wmtoolkit import AnyOrderWorldModel, Trajectory, WorldTokenizer
from wmtoolkit.evaluation.prediction import (
    StepPredictions,
    action_accuracy,
    calibration_error,
    copy_last_frame,
    dead_reckoned_map,
    mission_swap,
    outcome_metrics,
    prediction_metrics,
    transitions,
)
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome


def _walk(actions: list[int], images: list[np.ndarray], directions: list[int], **options: object) -> Trajectory:
    trajectory = Trajectory.start({"mission": "go to the red ball", "image": images[0], "direction": directions[0]})
    for action, image, direction in zip(actions, images[1:], directions[1:], strict=True):
        trajectory = trajectory.extended(action, {"image": image, "direction": direction})
    return replace(trajectory, **options)


def _view(**cells: tuple[int, int, int]) -> np.ndarray:
    """All unseen but the agent's own empty cell and the named cells, e.g. c3r5=(6, 0, 0)."""
    image = np.zeros((7, 7, 3), np.uint8)
    image[grid.AGENT_CELL] = (grid.EMPTY, 0, 0)
    for name, cell in cells.items():
        image[int(name[1]), int(name[3])] = cell
    return image


BALL, EMPTY, WALL = (6, 0, 0), (grid.EMPTY, 0, 0), (grid.WALL, 5, 0)


def test_known_revealed_and_changed_cells_are_told_apart() -> None:
    # The agent looks right (+x), sees a free cell ahead and a ball two cells ahead, and steps forward: now the ball is
    # right ahead (known), a wall behind it is new (revealed), and the cell left of the ball, known as empty, is a wall.
    first = _view(c3r5=EMPTY, c3r4=BALL, c2r4=EMPTY)
    second = _view(c3r5=BALL, c3r4=WALL, c2r5=WALL)
    steps = transitions([_walk([grid.FORWARD], [first, second], [0, 0])])

    def cells(mask: np.ndarray) -> set[tuple[int, int]]:
        return {tuple(map(int, divmod(index, 7))) for index in np.flatnonzero(mask)}

    # The agent's own cell is known too: it was the free cell ahead. The ball is two rows nearer than it was.
    assert cells(steps.known[0]) == {(3, 6), (3, 5), (2, 5)}
    assert cells(steps.revealed[0]) == {(3, 4)}
    assert cells(steps.changed[0]) == {(2, 5)}


def test_each_metric_counts_its_own_cells() -> None:
    first = _view(c3r5=EMPTY, c3r4=BALL, c2r4=EMPTY)
    second = _view(c3r5=BALL, c3r4=WALL, c2r5=WALL)
    steps = transitions([_walk([grid.FORWARD], [first, second], [0, 0])])
    wrong = steps.cells.copy()
    wrong[0, 2 * 7 + 5] += 1  # the changed cell
    wrong[0, 0] += 1  # a cell of which nothing is known
    said = StepPredictions(wrong, steps.headings, steps.outcomes, np.full((1, 49), 0.9))
    found = {name: entry["value"] for name, entry in prediction_metrics(steps, said).items()}
    assert found["known_cell_accuracy"] == pytest.approx(2 / 3)
    assert found["changed_cell_accuracy"] == 0
    assert found["revealed_cell_accuracy"] == 1
    assert found["cell_accuracy"] == pytest.approx(47 / 49)
    assert found["frame_exact"] == 0
    assert found["known_frame_exact"] == 0
    assert found["direction_accuracy"] == 1
    assert found["ece"] == pytest.approx(abs(47 / 49 - 0.9))


def test_baselines_say_what_their_names_say() -> None:
    first = _view(c3r5=EMPTY, c3r4=BALL)
    second = _view(c3r5=BALL, c3r4=WALL)
    steps = transitions([_walk([grid.FORWARD], [first, second], [0, 0])])
    copied, mapped = copy_last_frame(steps), dead_reckoned_map(steps)
    tokens = WorldTokenizer()
    np.testing.assert_array_equal(copied.cells[0], tokens.cell_ids(first).ravel())
    ball, empty = tokens.cell_ids(np.array(BALL)), tokens.cell_ids(np.array(EMPTY))
    assert mapped.cells[0, 3 * 7 + 5] == ball
    assert mapped.cells[0, 3 * 7 + 4] == empty
    turning = transitions([_walk([grid.LEFT], [first, second], [0, 3])])
    assert dead_reckoned_map(turning).headings[0] == 3
    assert copy_last_frame(turning).headings[0] == 0


def test_the_dead_reckoned_map_knows_a_still_world(episodes: list[Trajectory]) -> None:
    """Where nothing changes, what was seen before is still there."""
    steps = transitions(episodes)
    said = dead_reckoned_map(steps)
    unseen = WorldTokenizer().cell_ids(np.zeros(3))
    seen = steps.known & ~steps.changed & (steps.cells != unseen)
    assert (said.cells == steps.cells)[seen].mean() == 1


def test_outcome_scores() -> None:
    true = np.array([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.CONTINUE, Outcome.CONTINUE])
    said = np.array([Outcome.SUCCESS, Outcome.CONTINUE, Outcome.SUCCESS, Outcome.CONTINUE])
    found = {name: entry["value"] for name, entry in outcome_metrics(said, true).items()}
    assert found == {"outcome_precision": 0.5, "outcome_recall": 0.5, "outcome_f1": 0.5}
    assert outcome_metrics(said, np.full(4, Outcome.CONTINUE)) == {}


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = np.array([0.9] * 10 + [0.6] * 10)
    right = np.array([True] * 9 + [False] + [True] * 3 + [False] * 7)
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.0 + 0.5 * 0.3)


def test_a_limit_draws_the_same_steps_again(episodes: list[Trajectory]) -> None:
    first, again = transitions(episodes, 10, seed=2), transitions(episodes, 10, seed=2)
    np.testing.assert_array_equal(first.step, again.step)
    assert len(first.step) == 10


def test_action_accuracy_asks_only_of_the_bot(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    assert action_accuracy(world_model, episodes) is None
    bots = [replace(trajectory.prefix(5), behaviour="bot") for trajectory in episodes[:2]]
    found = action_accuracy(world_model, [*episodes, *bots])
    assert found is not None
    assert found["n"] == 10
    said = [
        world_model.policy([bot.prefix(step)])[0].argmax() == bot.actions[step] for bot in bots for step in range(5)
    ]
    assert found["value"] == pytest.approx(np.mean(said))


def test_the_mission_swap_needs_successes_of_two_missions(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    ended = [
        replace(trajectory.prefix(4), terminations=np.arange(4) == 3, rewards=(np.arange(4) == 3).astype(np.float32))
        for trajectory in episodes
    ]
    assert mission_swap(world_model, ended[:1]) is None
    found = mission_swap(world_model, ended)
    assert found is not None
    assert found["n"] == len(ended)
    assert found["true_mission"] != found["other_mission"]
