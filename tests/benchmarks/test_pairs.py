"""Unseen pairs: trained without missions that name them, measured on these and on others."""

from wmtoolkit.benchmarks.report import compare
from wmtoolkit.benchmarks.suites import run_suite
from wmtoolkit.data import open_store


def test_unseen_pairs_are_kept_from_training_and_measured_beside_others(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "config: tiny\nset: ['data.levels=[BabyAI-GoToObj-v0]', training.steps=3, data.episodes=150]\n"
        "held_out: [red box, blue ball]\nsamples: 20\n"
    )
    document = run_suite("pairs", tmp_path / "out", plan=plan)
    assert document["units"]["missing"] == 0, document["units"]
    rows = {row["pairs"]: row for row in document["rows"] if row["table"] == "pairs"}
    assert set(rows) == {"unseen pairs", "seen pairs"}
    for row in rows.values():
        assert (row["level"], row["seeds"]) == ("BabyAI-GoToObj-v0", 1)
        assert 0 <= row["known_cell_accuracy_low"] <= row["known_cell_accuracy"] <= 1
    (data,), (fresh,) = ((tmp_path / "out" / "data").glob(f"{kind}-*/*") for kind in ("training", "fresh"))
    pairs = {"go to the red box", "go to the blue ball", "go to a red box", "go to a blue ball"}
    for path in (data, fresh):
        named = {
            split: {trajectory.mission for trajectory in map(store.trajectory, range(len(store)))}
            for split in ("train", "validation", "test")
            if (store := open_store([path], split))
        }
        assert named["test"] <= pairs
        assert not (named["train"] | named["validation"]) & pairs
    # Both kinds are of fresh levels: those of the training's validation split chose the checkpoint.
    for split in ("validation", "test"):
        assert min(open_store([fresh], split).seeds) >= 1_000_000
        assert max(open_store([data], split).seeds) < 150
    text = compare([tmp_path / "out" / "pairs"], tmp_path / "report.md") and (tmp_path / "report.md").read_text()
    assert "## Unseen pairs" in text
    assert f"| known cells | {rows['unseen pairs']['known_cell_accuracy']:.4f} (" in text
