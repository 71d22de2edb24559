"""``wmtool evaluate``: every table is there, training seeds are refused, unseen pairs stand apart."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.cli.main import main
from wmtoolkit.data import collect, open_store
from wmtoolkit.data.splits import SplitRule
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.evaluate import EVERYWHERE, MODEL, evaluate
from wmtoolkit.evaluation.goals import HORIZONS, goal_tally
from wmtoolkit.evaluation.held_out import held_out, training_record
from wmtoolkit.evaluation.tables import SCORES, markdown
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome

LEVELS = ("BabyAI-GoToRedBallGrey-v0", "BabyAI-PutNextLocal-v0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    return [str(collect(level, 60, out=root / level, seed=5)) for level in LEVELS]


@pytest.fixture(scope="module")
def document(checkpoint: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("evaluation")
    found = evaluate(checkpoint, data, samples=40, out=out)
    written = json.loads((out / "results.json").read_text())
    assert written == {key: value for key, value in found.items() if key != "text"}
    assert (out / "results.md").read_text() == found["text"]
    return found


def test_each_level_has_its_own_rows(document: dict) -> None:
    tables = {row["table"] for row in document["rows"]}
    assert tables == {"levels", "events", "outcomes", "completion", "reliability"}
    for level in (*LEVELS, EVERYWHERE):
        own = [row for row in document["rows"] if row["level"] == level]
        predictors = [row["predictor"] for row in own if row["table"] == "levels"]
        assert predictors == [MODEL, "copy-last-frame", "dead-reckoned map", "map in sight"]
        assert [row["ratio"] for row in own if row["table"] == "completion"] == 2 * [k / 10 for k in range(1, 10)]
        model = next(row for row in own if row["table"] == "levels")
        for name in ("known_cell_accuracy", "known_frame_exact", "revealed_nll", "revealed_nll_prior", "ece"):
            assert model[f"{name}_low"] <= model[name] <= model[f"{name}_high"]
            assert model[f"{name}_n"] > 0


def test_all_levels_together_are_the_sum_of_each(document: dict) -> None:
    rows = [row for row in document["rows"] if row["table"] == "levels" and row["predictor"] == MODEL]
    name = "known_cell_accuracy"
    *levels, together = (row[name] * row[f"{name}_n"] for row in rows)
    assert together == pytest.approx(sum(levels))
    assert document["metrics"][name]["value"] == rows[-1][name]
    counts = {name: entry["n"] for name, entry in document["metrics"].items()}
    for name in ("ece", "ece_revealed", "ece_outcome"):
        assert counts[name] == sum(row.get(f"{name}_n", 0) for row in rows[:-1])
    # Calibration is that of what is scored beside it.
    scored = ("cell_accuracy", "revealed_cell_accuracy", "direction_accuracy")
    assert [counts[name] for name in ("ece", "ece_revealed", "ece_outcome")] == [counts[name] for name in scored]


def test_the_document_says_how_to_measure_again(document: dict, checkpoint: Path, data: list[str]) -> None:
    assert document["seed"] == 0
    assert len(document["checkpoint"]["sha256"]) == 64
    assert document["metrics"]["nll_per_step"]["standard_error"] > 0
    again = evaluate(checkpoint, data, samples=40)
    assert again["metrics"] == document["metrics"]
    assert evaluate(checkpoint, data, samples=40, seed=1)["metrics"] != document["metrics"]


def test_the_table_for_a_model_card_holds_the_numbers(document: dict) -> None:
    text = markdown(document)
    for name, heading in SCORES.items():
        assert (heading in text) == any(name in row for row in document["rows"]) or name == "outcome_f1"
    assert f"{document['metrics']['known_cell_accuracy']['value']:.4f}" in text
    assert document["checkpoint"]["sha256"] in text
    for level in LEVELS:
        assert f"| {level.removeprefix('BabyAI-').removesuffix('-v0')} |" in text


def test_training_seeds_are_refused(world_model: AnyOrderWorldModel, data: list[str], tmp_path: Path) -> None:
    """A model that was trained on the very episodes it is to be measured on is not measured on them."""
    run = tmp_path / "run"
    world_model.save_pretrained(run / "checkpoint")
    record = {"train_seeds": {LEVELS[0]: [[0, 1_000_000]]}}
    (run / "dataset.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=f"seeds were trained on in {LEVELS[0]}"):
        evaluate(run / "checkpoint", data, samples=10)
    # What its own training split holds is not what the test split holds.
    (run / "dataset.json").write_text(json.dumps(open_store(data).document()))
    model = AnyOrderWorldModel.from_pretrained(run / "checkpoint")
    assert training_record(model) is not None
    assert len(held_out(model, data, "test")) == 2
    with pytest.raises(UserError, match="trained on"):
        held_out(model, data, "train")
    # The record may travel with the checkpoint itself.
    world_model.facts["train_seeds"] = record["train_seeds"]
    try:
        with pytest.raises(UserError, match="trained on"):
            held_out(world_model, data, "test")
    finally:
        del world_model.facts["train_seeds"]


def test_priors_are_counted_in_no_episode_that_is_measured(world_model: AnyOrderWorldModel, data: list[str]) -> None:
    for path, part in zip(data, held_out(world_model, data, "test"), strict=True):
        training = open_store([path], "train")
        assert part.training is not None
        np.testing.assert_array_equal(part.training.images, training.images)
        assert not np.isin(part.store.seeds, training.seeds).any()
        assert not set(part.store.episode_ids) & set(training.episode_ids)


def test_unseen_pairs_stand_beside_seen_ones(world_model: AnyOrderWorldModel, tmp_path: Path) -> None:
    rule = SplitRule((0.6, 0.4, 0.0), ("red box", "green key", "blue ball", "purple ball", "yellow box", "grey key"))
    path = collect("BabyAI-GoToLocal-v0", 60, out=tmp_path / "pairs", split=rule)
    parts = held_out(world_model, [str(path)], "test")
    assert [part.name for part in parts] == ["BabyAI-GoToLocal-v0, unseen pairs", "BabyAI-GoToLocal-v0, seen pairs"]
    unseen, seen = (len(part.frames.lengths) for part in parts)
    assert unseen == len(open_store([path], "test"))
    assert seen == len(open_store([path], "validation"))
    assert asdict(rule)["held_out"]


def test_plans_are_compared_with_the_bots_first_step(world_model: AnyOrderWorldModel, data: list[str]) -> None:
    store = open_store([data[0]])
    found = goal_tally(world_model, store, 8, np.random.default_rng(0))
    assert found is not None
    ends = np.asarray(store.outcomes)[store.offsets[1:] - 1] == Outcome.SUCCESS
    by_bot = np.flatnonzero(ends & (np.asarray(store.behaviours) == BEHAVIOURS.index("bot")))
    horizons = [horizon for horizon in HORIZONS if horizon < world_model.network.world.span]
    assert found.entry()["n"] == 2 * len(horizons)
    rng, right = np.random.default_rng(0), []
    for horizon in horizons:
        for index in rng.permutation(by_bot[store.lengths[by_bot] >= horizon])[:2]:
            episode = store.trajectory(int(index))
            ((plan,),) = world_model.infill_plan([episode.prefix(len(episode) - horizon)], [horizon], steps=1)
            right.append(plan.actions[0] == episode.actions[len(episode) - horizon])
    assert found.value == pytest.approx(np.mean(right))


def test_two_datasets_of_a_level_are_told_apart(world_model: AnyOrderWorldModel, tmp_path: Path) -> None:
    paths = [str(collect(LEVELS[0], 40, out=tmp_path / name)) for name in ("a", "b")]
    names = [part.name for part in held_out(world_model, paths, "test")]
    assert len(set(names)) == 2
    assert all(name.startswith(LEVELS[0]) for name in names)


def test_without_data_fresh_episodes_are_played(
    world_model: AnyOrderWorldModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WMTOOLKIT_CACHE", str(tmp_path / "cache"))
    world_model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "dataset.json").write_text(json.dumps({"train_seeds": {"BabyAI-GoToLocalS5N2-v0": [[0, 999_999]]}}))
    command = ["evaluate", "--checkpoint", str(tmp_path / "checkpoint"), "--samples", "2", "--json"]
    done = CliRunner().invoke(main, [*command, "--level", "BabyAI-GoToLocalS5N2-v0"])
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["arguments"]["training_seeds"] == "refused"
    assert {row["level"] for row in document["rows"]} == {"BabyAI-GoToLocalS5N2-v0"}
    (tmp_path / "dataset.json").write_text(json.dumps({"train_seeds": {"BabyAI-GoToLocalS5N2-v0": [[0, 2_000_000]]}}))
    done = CliRunner().invoke(main, [*command, "--level", "BabyAI-GoToLocalS5N2-v0"])
    assert done.exit_code == 1
    assert "trained on" in done.stderr


def test_mistakes_are_told_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    small = collect(LEVELS[0], 4, out=tmp_path / "small")
    for arguments, said in (
        (["--data", str(small)], "holds no episode"),
        (["--data", str(tmp_path / "nowhere")], "does not exist"),
    ):
        done = CliRunner().invoke(main, ["evaluate", "--checkpoint", str(checkpoint), *arguments])
        assert done.exit_code == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert CliRunner().invoke(main, ["evaluate", "--data", str(small), "--split", "train"]).exit_code == 2
