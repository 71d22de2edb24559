"""Robustness: conditions, what is kept, what belief gains, and predictions from badly seen histories."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.evaluation.conftest import view, walk
from wmtoolkit.benchmarks import blind_prediction
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player
from wmtoolkit.benchmarks.robustness import RobustnessPlan, condition, report, settings
from wmtoolkit.benchmarks.suites import run_suite
from wmtoolkit.evaluation.aggregates import retention

LEVEL = "BabyAI-GoToLocalS5N2-v0"


def _plan(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_robustness_follows_from_its_rows(tmp_path, checkpoint):
    plan = _plan(
        tmp_path,
        f"levels: [{LEVEL}]\nagents: [{{agent: random}}]\nepisodes: 6\npredictions: 8\n"
        "knobs: {cell_dropout: [0.0, 0.3], view_size: [3]}\npredictors: [copy-last-frame]\nbaselines:\n"
        "  - {agent: bot}\n"
        f"  - {{agent: cloning, settings: {{config: tiny, set: [training.steps=1, 'data.levels=[{LEVEL}]']}}}}",
    )
    document = run_suite("robustness", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    assert document["units"]["missing"] == 0
    tables = {name: [row for row in document["rows"] if row["table"] == name] for name in ("robustness", "retention")}
    # Without belief: 0, 0.3 and the small view; with it: 0.3 and the small view.
    assert [(row["strength"], row["belief"]) for row in tables["robustness"] if row["agent"] == "random"] == [
        (0.0, False), (0.3, False), (0.3, True), (3.0, False), (3.0, True),
    ]  # fmt: skip
    ledger = Ledger(tmp_path / "out" / "robustness", "robustness")
    player = Player(checkpoint)
    scores = {}
    for strength in (0.0, 0.3):
        condition = Condition(LEVEL, AgentSpec("random"), corruption={"cell_dropout": strength} if strength else {})
        scores[strength] = np.array(
            [ledger.values(player.unit(condition, seed))["success"] for seed in range(1_000_000, 1_000_006)]
        )
    expected = retention(scores[0.0], scores[0.3])["value"]
    found = next(row for row in tables["retention"] if not row["belief"])
    assert found["retention_0.3"] == (None if expected is None else pytest.approx(expected))
    assert "return_retention_0.3" in found
    # Baselines act on what is shown; the bot reads the simulator, whatever is shown.
    for name in ("bot", "cloning"):
        beside = [row for row in tables["robustness"] if row["agent"] == name]
        assert [(row["strength"], row["belief"], row["n"]) for row in beside] == [
            (0, False, 6),
            (0.3, False, 6),
            (3, False, 6),
        ]
    assert next(row for row in tables["retention"] if row["agent"] == "bot")["retention_0.3"] == 1
    # The gain of belief is paired: its mean is the difference of the two rates.
    gains = {(row["over"], row["knob"]): row for row in document["rows"] if row["table"] == "gain"}
    assert set(gains) == {
        ("itself, as seen", "cell_dropout"), ("itself, as seen", "view_size"), ("bot", "cell_dropout"),
        ("cloning", "cell_dropout"),
    }  # fmt: skip
    rates = {
        (row["agent"], row["knob"], row["strength"], row["belief"]): row["success_rate"] for row in tables["robustness"]
    }
    for (over, knob), row in gains.items():
        theirs = rates["random" if over == "itself, as seen" else over, knob, row["strength"], False]
        assert row["success_difference"] == pytest.approx(rates["random", knob, row["strength"], True] - theirs)
    # The cloned network is fitted once and kept.
    (kept,) = (tmp_path / "out" / "models").iterdir()
    before = kept.stat().st_mtime_ns
    run_suite("robustness", tmp_path / "out", plan=plan, checkpoint=checkpoint, changes={"episodes": 7})
    assert kept.stat().st_mtime_ns == before
    blind = [row for row in document["rows"] if row["table"] == "blind prediction"]
    assert [(row["predictor"], row["strength"], row["belief"]) for row in blind] == [
        ("world model", 0, False), ("world model", 0.3, False), ("world model", 0.3, True),
        ("world model", 3, False), ("world model", 3, True),
        ("copy-last-frame", 0, False), ("copy-last-frame", 0.3, False), ("copy-last-frame", 3, False),
    ]  # fmt: skip
    assert len({row["known_cell_accuracy_n"] for row in blind}) == 1
    assert blind[6]["known_cell_accuracy"] < blind[5]["known_cell_accuracy"]  # it repeats what it was not shown
    assert all(0 <= row["known_cell_accuracy"] <= 1 for row in blind)


def test_blind_predictions_see_what_an_agent_would(world_model, tmp_path, monkeypatch):
    path, shown = fresh_data(LEVEL, tmp_path, episodes=60), []
    really = world_model.predict

    def watched(histories, actions):
        shown.append(np.concatenate([history.images[..., 0].ravel() for history in histories]))
        return really(histories, actions)

    monkeypatch.setattr(world_model, "predict", watched)
    found = [
        blind_prediction.predict_blindly(world_model, path, corruption, belief, 30)
        for corruption, belief in (
            ({}, False),
            ({}, True),
            ({"cell_dropout": 1.0}, False),
            ({"cell_dropout": 1.0}, True),
        )
    ]
    assert found[0] == found[1]  # there is nothing to fill in
    clear, filled, hidden, believed = shown
    np.testing.assert_array_equal(clear, filled)
    assert not hidden.any()
    assert believed.any()
    assert len({row["known_cell_accuracy_n"] for row in found}) == 1  # what counts does not depend on what is shown


def test_a_curve_with_a_hole_has_no_area(checkpoint, tmp_path):
    player, ledger, agent = Player(checkpoint), Ledger(tmp_path, "robustness"), AgentSpec("bot")
    plan = RobustnessPlan(
        [LEVEL], [agent], knobs={"cell_dropout": [0.0, 0.3, 0.7]}, belief=[False], episodes=2, predictions=0
    )
    found = {"length": 4, "decisions": 4, "seconds": 0.4, "slowest": 0.2, "forward_passes": 8, "error": None}
    half = {}
    for strength, successes in ((0.0, (1, 1)), (0.3, (1, 0)), (0.7, (0, 0))):
        for seed, success in zip((1_000_000, 1_000_001), successes, strict=True):
            unit = player.unit(condition(LEVEL, agent, "cell_dropout", strength, False), seed)
            ledger.write(unit, {"success": bool(success), "episode_return": 0.5 * success, **found}, 1.0)
        (half[strength],) = (row for row in report(plan, player, ledger)[1] if row["table"] == "retention")
    assert half[0.0]["retention_0.3"] is None
    assert half[0.3]["retention_0.3"] == half[0.3]["return_retention_0.3"] == 0.5
    assert half[0.3]["robustness_auc"] is None
    # 0.3 wide from 1 to 0.5 and 0.4 wide from 0.5 to 0, over a width of 0.7.
    assert half[0.7]["robustness_auc"] == pytest.approx((0.3 * 0.75 + 0.4 * 0.25) / 0.7)
    metrics, _ = report(plan, player, ledger)
    assert metrics[f"retention_0.3/{LEVEL}/bot/as seen"]["value"] == 0.5


def test_the_clear_view_is_planned_whatever_is_tried():
    knobs = {"cell_dropout": [0.0, 0.3], "view_size": [3]}
    dropout, view_size = ("cell_dropout", 0.3), ("view_size", 3)
    clear = ("cell_dropout", 0.0, False)
    for belief, rest in (
        ([True], [(*dropout, True), (*view_size, True)]),
        ([False, True], [(*dropout, False), (*dropout, True), (*view_size, False), (*view_size, True)]),
    ):
        assert list(settings(RobustnessPlan(knobs=knobs, belief=belief))) == [clear, *rest]


def test_accuracies_of_blind_predictions_by_hand(monkeypatch):
    """Two episodes of a step after which three cells are known; of one all are said right, of the other two."""
    ball, empty, wall = (6, 0, 0), (1, 0, 0), (2, 5, 0)
    first = view(c3r5=empty, c3r4=ball, c2r4=empty)
    truth = view(c3r5=ball, c3r4=wall, c2r5=wall)
    wrong = truth.copy()
    wrong[3, 5] = wall
    wrong[0, 0] = wall  # nothing is known of it
    steps = [walk([2], [first, truth], [0, 0]) for _ in range(2)]
    store = SimpleNamespace(trajectory=lambda index: steps[index])
    frames = blind_prediction.windows.Frames
    whole = frames.from_trajectories(steps)
    monkeypatch.setattr(blind_prediction, "open_store", lambda *arguments: store)
    monkeypatch.setattr(frames, "from_store", classmethod(lambda cls, given: whole))
    given = []

    def predict(histories, actions):
        given.extend(histories)
        return SimpleNamespace(images=np.stack([truth, wrong]))

    model = SimpleNamespace(predict=predict)
    row = blind_prediction.predict_blindly(model, Path("x"), {}, False, 2)
    # What is asked about is no part of what the model is given.
    for history in given:
        np.testing.assert_array_equal(history.images, first[None])
        assert len(history) == 0
    assert row["known_cell_accuracy"] == pytest.approx(5 / 6)
    assert row["known_cell_accuracy_n"] == 6
    assert row["known_frame_exact"] == 0.5
    # Who repeats the last frame has the empty hand right, and neither the ball nor the wall.
    row = blind_prediction.predict_blindly(model, Path("x"), {}, False, 2, predictor="copy-last-frame")
    assert row["known_cell_accuracy"] == pytest.approx(1 / 3)
    assert row["known_cell_accuracy_n"] == 6
