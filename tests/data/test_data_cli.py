"""``wmtool collect`` and ``wmtool inspect`` through the real entry point, recipes, and what inspect tells."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from wmtoolkit.data import collect, load_trajectories, open_store
from wmtoolkit.data.artifacts import inspect_path
from wmtoolkit.data.inspection import duplicates, inspect_dataset, overlap_text
from wmtoolkit.data.page import sample_episodes
from wmtoolkit.data.recipes import collect_levels, collection_recipe, packaged_recipes, read_recipe
from wmtoolkit.data.store import EpisodeStore, StoreWriter
from wmtoolkit.errors import UserError


def wmtool(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "wmtoolkit.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_collect_prints_one_json_document_and_inspect_agrees(tmp_path):
    collected = wmtool(
        "collect", "--level", "BabyAI-PutNextLocal-v0", "--episodes", 12, "--out", tmp_path / "d", "--json"
    )
    assert collected.returncode == 0, collected.stderr
    row = json.loads(collected.stdout)["datasets"][0]
    assert row["episodes"] == 12
    assert "\nwmtool collect --level BabyAI-PutNextLocal-v0 " in (tmp_path / "d" / "README.md").read_text()
    again = wmtool("collect", "--level", "BabyAI-PutNextLocal-v0", "--episodes", 12, "--out", tmp_path / "d")
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    assert "Traceback" not in again.stderr
    found = wmtool("inspect", tmp_path / "d", "--json", "--verify")
    assert json.loads(found.stdout)["fingerprint"] == row["fingerprint"]
    assert f"fingerprint  {row['fingerprint']}" in wmtool("inspect", tmp_path / "d").stdout


def test_several_levels_make_a_folder_that_minari_lists(tmp_path, monkeypatch):
    import minari

    recipe = collection_recipe(None, levels=["BabyAI-GoToObj-v0", "MiniGrid-DoorKey-5x5-v0"], episodes=3, max_steps=4)
    document = collect_levels(recipe, out=str(tmp_path / "many"))
    names = ["wmtoolkit/BabyAI-GoToObj/mixed-v0", "wmtoolkit/MiniGrid-DoorKey-5x5/mixed-v0"]
    assert [row["dataset_id"] for row in document["datasets"]] == names
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "many"))
    assert sorted(minari.list_local_datasets()) == names
    assert len(load_trajectories(tmp_path / "many")) == 6
    with pytest.raises(UserError, match="holds a dataset"):
        collect_levels(recipe, out=str(tmp_path / "many"))
    assert len(collect_levels(recipe, out=str(tmp_path / "many"), resume=True)["datasets"]) == 2
    with pytest.raises(UserError, match="names one dataset"):
        collect_levels(recipe, out="wmtoolkit/x/y-v0")


def test_a_dry_run_collects_nothing(tmp_path):
    document = collect_levels(collection_recipe("ten_levels"), out=str(tmp_path / "d"), dry_run=True)
    assert len(document["plans"]) == 10
    assert document["expected_seconds"] > 0
    assert not (tmp_path / "d").exists()


def test_packaged_recipes_are_valid():
    assert {"ten_levels", "gotolocal", "unseen_pairs"} <= set(packaged_recipes())
    for name in packaged_recipes():
        assert collection_recipe(name).plans()
    ten = collection_recipe("ten_levels")
    assert len(ten.levels) == 10
    assert ten.episodes >= 1000
    assert collection_recipe("ten_levels", episodes=5, seed=9).plans()[0].seed == 9


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("episods: 3", "did you mean 'episodes'"),
        ("episodes: many", "episodes is 'many'"),
        ("shares: {bot: x}", "number"),
        ("split: {parts: [1]}", "split.parts"),
        ("split: {shares: 1}", "lists"),
        ("levels: [a", "not YAML"),
        ("- a\n- b", "mapping"),
        ("levels: []", "no level"),
    ],
)
def test_wrong_recipes_are_named(tmp_path, text, word):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=word):
        collection_recipe(str(tmp_path / "r.yaml"))


def test_another_policy_leaves_the_shares_of_the_config_behind(tmp_path):
    assert collection_recipe("ten_levels", policy="bot").plans()[0].shares == {"bot": 1.0}
    assert collection_recipe("ten_levels", policy="best-first").plans()[0].shares == {"agent": 1.0}
    given = collection_recipe("ten_levels", policy="best-first", shares=["agent=0.5", "random=0.5"])
    assert given.plans()[0].shares == {"agent": 0.5, "random": 0.5}
    assert given.agent == "best-first"


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(UserError, match="ten_levels"):
        read_recipe("eleven_levels")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_exits_with_130_and_can_be_resumed(tmp_path, workers):
    arguments = ["collect", "--episodes", "40000", "--out", str(tmp_path / "d"), "--workers", str(workers)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "wmtoolkit.cli", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and so would be what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / ".d.collecting").glob("shard-*.npz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "--resume" in err
    assert "Traceback" not in err
    assert list((tmp_path / ".d.collecting").glob("shard-*.npz"))
    assert [path.name for path in tmp_path.iterdir()] == [".d.collecting"]


def test_wrong_usage_exits_with_2_and_mistakes_with_1(tmp_path):
    assert wmtool("collect", "--episodes", "0").returncode == 2
    wrong = wmtool("collect", "--level", "BabyAI-GoToLocl-v0", "--out", tmp_path / "d")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("wmtool: ")
    assert len(wrong.stderr.strip().splitlines()) == 1
    for command in ("collect", "inspect"):
        shown = wmtool(command, "--help")
        assert "Example: wmtool" in shown.stdout
        assert "--seed" in shown.stdout


def test_inspect_counts_what_is_there(tmp_path, make_trajectory):
    folder = tmp_path / "packed"
    folder.mkdir()
    episodes = [
        make_trajectory(4, seed=1, level_seed=1),
        make_trajectory(4, seed=1, level_seed=2, behaviour="noisy"),
        make_trajectory(6, seed=2, level_seed=3, end="truncated"),
        make_trajectory(4, seed=1, level_seed=4, end="failure"),
    ]
    with StoreWriter(folder) as writer:
        for index, (episode, split) in enumerate(zip(episodes, (0, 0, 1, 2), strict=True)):
            writer.add(episode, split, index)
    # 1 and 2 are equal in views and actions, as is 4, which is for the test
    found = duplicates(EpisodeStore(folder))
    assert found == {
        "episodes": 2,
        "starts": 2,
        "test_episodes": 1,
        "test_starts_in_training": 1,
        "test_episodes_in_training": 1,
    }
    assert "only 2 different starts" in overlap_text(found)
    assert overlap_text({**found, "test_episodes": 0}) == ""


def test_inspect_shares_and_histograms_add_up(tmp_path):
    path = collect("BabyAI-GoToLocal-v0", 30, out=tmp_path / "d")
    document = inspect_dataset(path, html=tmp_path / "page.html", films=4)
    trajectories = load_trajectories(path)
    steps = sum(len(trajectory) for trajectory in trajectories)
    assert document["steps"] == steps == sum(document["actions"].values()) == sum(document["events"].values())
    assert document["success_rate"] == round(np.mean([trajectory.success for trajectory in trajectories]), 4)
    assert document["mission_words"]["go"] == 30
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="film"') == 4
    assert page.count("data:image/png") > 8
    assert "<script" not in page
    assert document["fingerprint"] in page


def test_a_page_escapes_what_the_data_say(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 2, policy="random", max_steps=2, out=tmp_path / "d", command="<b>&run</b>")
    inspect_dataset(path, html=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;run" in page


def test_films_show_every_kind_of_episode(tmp_path):
    store = open_store([collect("BabyAI-GoToLocal-v0", 60, out=tmp_path / "d")])
    chosen = sample_episodes(store, 6, np.random.default_rng(0))
    assert len(set(chosen)) == 6
    assert {int(store.behaviours[episode]) for episode in chosen} == set(store.behaviours.tolist())
    assert sample_episodes(store, 1000, np.random.default_rng(0)) != []


def test_a_dataset_card_lies_beside_the_data(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 40, out=tmp_path / "d", command="wmtool collect --x")
    card = (path / "README.md").read_text()
    assert card.startswith("# wmtoolkit/BabyAI-GoToObj/mixed-v0\n")
    for text in (
        "| episodes | 40 |",
        "0 to 39",
        open_store([path]).fingerprint,
        "wmtool collect --x",
        "minigrid 3",
        "start with the mission and view of a training episode",
    ):
        assert text in card


def test_inspect_tells_checkpoints_runs_and_results_apart(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text('{"model_type": "llada2_moe", "hidden_size": 8}')
    found = inspect_path(checkpoint)
    assert (found["kind"], found["parameters"], found["model_type"]) == ("checkpoint", 17, "llada2_moe")
    (checkpoint / "model.safetensors").write_bytes(b"12345678901")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        inspect_path(checkpoint)
    run = tmp_path / "run"
    (run / "checkpoints" / "step-0000010").mkdir(parents=True)
    (run / "config.yaml").write_text("training: {steps: 10}\n")
    (run / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "loss": 1.0}\n')
    (run / "dataset.json").write_text('{"fingerprint": "abc"}')
    found = inspect_path(run)
    assert (found["kind"], found["records"], found["dataset"]) == ("run", 2, "abc")
    assert found["last_metrics"] == {"step": 10, "loss": 1.0}
    assert found["checkpoints"] == ["step-0000010"]
    (run / "metrics.jsonl").write_text('{"step": 5}\n{"step"')
    with pytest.raises(UserError, match="line 2"):
        inspect_path(run)
    results = tmp_path / "results"
    results.mkdir()
    (results / "results.json").write_text(
        '{"command": "bench", "metrics": {"success_rate": {"value": 0.5, "ci95": [0.4, 0.6], "n": 9}}, "rows": []}'
    )
    assert "success_rate: 0.5" in inspect_path(results)["text"]
    with pytest.raises(UserError, match="holds no dataset"):
        inspect_path(tmp_path / "results" / "..")
