"""The report: made of real results, self-contained, and clear about what it cannot read or what is missing."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from wmtoolkit.benchmarks.report import compare, headline
from wmtoolkit.benchmarks.reporting.reading import read_all
from wmtoolkit.benchmarks.reporting.sections import number
from wmtoolkit.benchmarks.rollouts import rollout
from wmtoolkit.benchmarks.suites import run_suite, write_report
from wmtoolkit.cli.main import main
from wmtoolkit.data import collect
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.evaluate import evaluate
from wmtoolkit.evaluation.results import results_document, write_json

LEVEL = "BabyAI-GoToRedBallGrey-v0"
SMALL = "BabyAI-GoToLocalS5N2-v0"
PLANS = {
    "success": f"levels: [{SMALL}]\n"
    "agents: [{agent: random}, {agent: bot}, {agent: policy, settings: {x: 1}}]\n"
    "episodes: 3",
    "robustness": f"levels: [{SMALL}]\nagents: [{{agent: random}}]\nepisodes: 3\npredictions: 6\n"
    "knobs: {cell_dropout: [0.0, 0.3, 0.7]}",
    "baselines": "config: tiny\nset: [training.steps=2, data.episodes=40]\nsamples: 8\nepisodes: 0\n"
    "baselines: [any-order, autoregressive]",
    "fidelity": f"levels: [{SMALL}]\nagents: [{{agent: random}}, {{agent: policy}}, {{agent: policy, label: b}}]\n"
    "episodes: 2\nbranches: 4\nhorizon: 4",
}


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An evaluation, and rollouts of two agents with a film, of the tiny model."""
    root = tmp_path_factory.mktemp("results")
    data = str(collect(LEVEL, 60, out=root / "data"))
    evaluate(checkpoint, [data], samples=40, out=root / "evaluate")
    rollout(agent="random", level=LEVEL, episodes=2, seed=900_000, out=root / "random")
    rollout(
        agent="policy", level=LEVEL, checkpoint=checkpoint, episodes=1, seed=900_000, out=root / "policy",
        video=root / "policy" / "episode.gif",
    )  # fmt: skip
    return [root / "evaluate", root / "random", root / "policy"]


@pytest.fixture(scope="module")
def suites(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four suites, one of them with an agent that cannot be made."""
    root = tmp_path_factory.mktemp("bench")
    for suite, plan in PLANS.items():
        (root / f"{suite}.yaml").write_text(plan, encoding="utf-8")
        run_suite(suite, root / "out", plan=root / f"{suite}.yaml", checkpoint=checkpoint)
    return root / "out"


def _stands_alone(page: str) -> None:
    for outside in ('src="http', 'href="http', "@import", "<script", "url(http"):
        assert outside not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_the_page_stands_alone(folders: list[Path], tmp_path: Path) -> None:
    compare(folders, tmp_path / "report.html", title="A <title>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    assert "data:image/gif;base64," in page
    assert page.count("<svg") == 2
    _stands_alone(page)
    results = json.loads((folders[0] / "results.json").read_text())
    assert f"{results['metrics']['known_cell_accuracy']['value']:.4f}" in page
    assert results["checkpoint"]["sha256"] in page


def test_markdown_and_csv_hold_the_same_numbers(folders: list[Path], tmp_path: Path) -> None:
    found = compare(folders)
    assert [row["kind"] for row in found["rows"]] == ["evaluate", "rollout", "rollout"]
    assert [line for line in found["text"].splitlines() if line.startswith("## ")] == [
        "## Goals", "## Prediction: evaluate", "## Rollouts",
    ]  # fmt: skip
    results = json.loads((folders[0] / "results.json").read_text())
    # What the page draws, in numbers.
    reliability = [row for row in results["rows"] if row["table"] == "reliability"]
    completion = [row for row in results["rows"] if row["table"] == "completion" and row["masking"] == "cell"]
    for row in reliability:
        said = f"| {row['bin']:.3f} | {row['accuracy']:.3f} of {row['confidence']:.3f}, {row['n']:,} |"
        assert said in found["text"]
    nats = " | ".join(number(row["nll"]) for row in completion)
    assert f"| GoToRedBallGrey | cell, nats | {nats} |" in found["text"]
    compare(folders, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for name, entry in results["metrics"].items():
        (line,) = [
            line
            for line in lines
            if line["table"] == "metrics" and line["metric"] == name and line["source"] == "evaluate"
        ]
        assert float(line["value"]) == entry["value"]
        assert [float(line["low"]), float(line["high"])] == entry["ci95"]


def test_suites_are_reported_with_their_holes(suites: Path) -> None:
    written = write_report(suites)
    page = Path(written["report"]).read_text(encoding="utf-8")
    _stands_alone(page)
    assert "<li>speed: no room</li>" not in page
    assert "<li>speed: no room</li>" in Path(write_report(suites, missing=["speed: no room"])["report"]).read_text()
    for heading in ("Success", "Robustness", "Fidelity", "Baselines"):
        assert f"<h2>{heading}</h2>" in page
    assert "3 of 9 units of work are missing" in page
    assert "has no option &#39;x&#39;" in page
    text = (suites / "report.md").read_text(encoding="utf-8")
    success = json.loads((suites / "success" / "results.json").read_text())
    (bot,) = [row for row in success["rows"] if row["table"] == "success" and row["agent"] == "bot"]
    assert f"100.0 % ({100 * bot['success_rate_low']:.1f} to 100.0)" in text
    assert (suites / "report.csv").is_file()
    # Any-order and autoregressive side by side; a dash where one cannot be asked.
    lines = [line for line in text.splitlines() if line.startswith(("| query |", "| goal:", "| forward: "))]
    assert lines[0] == "| query | any-order | autoregressive |"
    queries = ["known cells", "known frames", "nats", "of these, the heading", "of these, outcome", "heading", "nats"]
    for line, query in zip(lines[1:8], queries, strict=True):
        assert line.startswith(f"| forward: {query}")
    assert [line.endswith("| - |") for line in lines[1:]] == [*6 * [False], True, True]
    assert "Not in this plan: copy-last-frame, " in text
    assert "Not in this plan: any-order" not in text
    with pytest.raises(UserError, match=r"\.html"):
        write_report(suites, suites / "report.pdf")


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(folders: list[Path], suites: Path, tmp_path: Path) -> None:
    broken = {}
    for name, text in (
        ("cut", '{"schema": 1, "comm'), ("other", '{"schema": 99}'), ("bare", '{"schema": 1}'),
        ("half", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], "metrics": '
         '{"ece": {"value": 0}}}'),
        ("bad", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], "metrics": '
         '{"ece": 0.5}}'),
        ("word", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], "metrics": '
         '{"ece": {"value": "low", "ci95": null, "n": 1}}}'),
        ("one end", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], "metrics": '
         '{"ece": {"value": 1, "ci95": [1], "n": 1}}}'),
        ("named", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], '
         '"metrics": {}, "checkpoint": "abc"}'),
        ("counted", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], '
         '"metrics": {}, "units": {"planned": 3}}'),
        ("flat", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "metrics": {}, '
         '"rows": [1]}'),
    ):  # fmt: skip
        broken[name] = tmp_path / name
        broken[name].mkdir()
        (broken[name] / "results.json").write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "rows.jsonl").write_text('{"schema": 1, "suite": "success"}\n')
    paths = [*broken.values(), tmp_path / "empty", tmp_path / "killed", *folders]
    found = compare(paths, tmp_path / "report.html")
    assert len(found["rows"]) == 3
    page = (tmp_path / "report.html").read_text()
    for said in (
        "cut off or no JSON",
        "another schema",
        "lacks command, command_line, arguments, metrics, rows",
        "metric ece lacks ci95, n",
        "metric ece lacks value, ci95, n",
        "rows that are no objects",
        "word/results.json: metric ece is no number with an interval",
        "one end/results.json: metric ece is no number with an interval",
        "checkpoint lacks sha256",
        "units lacks missing, holes",
        "neither results.json nor",
        "cut off before it wrote",
    ):
        assert said in page
        assert said in found["text"]
    with pytest.raises(UserError, match="another schema"):
        compare([broken["other"]])
    with pytest.raises(UserError, match=r"\.html, \.md, \.csv"):
        compare(folders, tmp_path / "report.pdf")
    # A folder of suites stands for the suites in it.
    assert [item.document["command"] for item in read_all([suites])[0]] == [
        "bench baselines", "bench fidelity", "bench robustness", "bench success",
    ]  # fmt: skip


def test_results_of_another_hand_spoil_nothing(folders: list[Path], suites: Path, tmp_path: Path) -> None:
    """Whatever a document lacks beyond its frame, the page, Markdown and CSV hold all the others."""
    odd = []
    for source in (*folders, *sorted(path.parent for path in suites.glob("*/results.json"))):
        document = json.loads((source / "results.json").read_text())
        nothing = {name: {**entry, "value": None} for name, entry in document["metrics"].items()}
        for lacking in (
            {"arguments": {}},
            {"rows": [{"table": row.get("table")} for row in document["rows"]]},
            {"metrics": nothing, "units": {"planned": 3, "missing": 1, "holes": [{}]}},
        ):
            odd.append(tmp_path / f"odd-{len(odd)}")
            odd[-1].mkdir()
            (odd[-1] / "results.json").write_text(json.dumps({**document, **lacking}))
    found = compare([*odd, *folders])
    assert len(found["rows"]) == len(odd) + len(folders)
    assert headline(read_all([*odd, *folders])[0])
    compare([*odd, *folders], tmp_path / "all.csv")
    text = found["text"]
    assert "cannot be shown (KeyError" in text
    assert "says of the goals cannot be told (KeyError" in text
    assert len(re.findall(r"^\| policy[^|]* \| GoToRedBallGrey \| \d", text, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("model: {a: [1", "cut off or no YAML"),
        ("[1]", "lacks model.num_hidden_layers, model.hidden_size"),
        ("{model: 1, training: {steps: 2}, world: {egomotion: on}}", "num_experts_per_tok, training.seed; start"),
    ],
)
def test_runs_with_a_broken_config_are_named(config: str, said: str, folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    found = compare([tmp_path / "run", *folders])
    assert said in found["left_out"][0]
    assert len(found["rows"]) == len(folders)


def test_each_number_of_the_csv_has_labels_of_its_own(folders: list[Path], suites: Path, tmp_path: Path) -> None:
    compare([*folders, suites], tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        keys = [tuple(line[name] for name in ("source", "table", "labels", "metric")) for line in csv.DictReader(file)]
    assert {table for _, table, _, _ in keys} >= {"robustness", "drift", "completion", "reliability", "outcomes"}
    assert len(set(keys)) == len(keys)


def test_each_measurement_of_a_learning_curve_says_when_in_the_csv(tmp_path: Path) -> None:
    rows = [{"step": step, "success_rate": 0.5} for step in (0, 64)]
    write_json(tmp_path / "results.json", results_document("train-policy", {}, {}, rows))
    compare([tmp_path], tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [line["labels"] for line in csv.DictReader(file)] == ["step=0", "step=64"]


def test_quick_results_say_so_and_efficiency_counts_demonstrations(tmp_path: Path) -> None:
    row = {"table": "variants", "variant": "v", "seeds": 1, "parameters": 9.0, "training_seconds": 2.0}
    row |= {"data_episodes": 100, "known_frame_exact": 0.5, "real_episodes": 200.0, "demonstrations": 60.0}
    write_json(tmp_path / "results.json", results_document("bench efficiency", {"quick": True}, {}, [row]))
    document = results_document("bench prediction", {"quick": True}, {"ece": {"value": 0.0, "ci95": None, "n": 1}})
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "b" / "results.json", document)
    (tmp_path / "results.json").rename(tmp_path / "a" / "results.json")
    text = compare([tmp_path])["text"]
    assert "| at most 0.02 | 0.0000 | reached | b, a quick plan |" in text
    assert "- a quick plan: it shows that all this runs, and proves little" in text
    assert "| variant | seeds | recorded episodes | of them the expert's | parameters |" in text
    assert "| v | 1 | 200 | 60 | 9 |" in text


def test_results_of_one_command_stand_side_by_side(folders: list[Path], suites: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "success").mkdir(parents=True)
        document = json.loads((suites / "success" / "results.json").read_text())
        (tmp_path / name / "success" / "results.json").write_text(json.dumps(document))
    document["rows"] = [{"table": "success"}]  # of another hand: no level
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "results.json").write_text(json.dumps(document))
    found = compare([tmp_path / "a" / "success", tmp_path / "b" / "success", tmp_path / "odd", *folders[1:]])
    text = found["text"]
    for heading in ("## Success side by side", "## Success: a/success", "## Success: b/success"):
        assert heading in text
    assert "| metric | a/success | b/success | odd |" in text
    assert "odd/results.json cannot be shown (KeyError: 'level')" in text
    # Rollouts: the difference on the seeds they share, and where each comes from.
    assert "| policy | random | GoToRedBallGrey | " in text
    checkpoint = json.loads((folders[2] / "results.json").read_text())["checkpoint"]["sha256"]
    assert f"checkpoint sha256 {checkpoint}" in text


def test_results_of_one_name_are_told_apart(folders: list[Path], tmp_path: Path) -> None:
    """By as much of their paths as all of them need, not merely two."""
    text = (folders[0] / "results.json").read_text()
    places = [tmp_path / "a" / "x" / "run", tmp_path / "b" / "x" / "run", tmp_path / "b" / "y" / "run"]
    for place in places:
        place.mkdir(parents=True)
        (place / "results.json").write_text(text)
    assert [item.name for item in read_all(places)[0]] == ["a/x/run", "b/x/run", "b/y/run"]


def test_where_imagination_began_is_in_a_rollouts_name(tmp_path: Path) -> None:
    document = rollout(agent="random", level=SMALL, episodes=1)
    del document["text"]
    for start in ("level", "look_around"):
        (tmp_path / start).mkdir()
        told = {**document, "arguments": {**document["arguments"], "imagined": True, "start": start}}
        (tmp_path / start / "results.json").write_text(json.dumps(told))
    names = [item.name for item in read_all([tmp_path / "level", tmp_path / "look_around"])[0]]
    assert names == ["random in imagination", "random in imagination, start look_around"]


def test_rows_of_other_commits_are_told(suites: Path, tmp_path: Path) -> None:
    document = json.loads((suites / "success" / "results.json").read_text())
    machines = [document["versions"]["machine"]]
    assert document["made"] == {"commits": [document["git"]], "dates": [document["date"]], "machines": machines}
    # As before machines were kept.
    document["made"] = {"commits": ["abc", document["git"]], "dates": ["2026-01-01", document["date"]]}
    (tmp_path / "results.json").write_text(json.dumps(document))
    assert f"its rows made at abc, {document['git']} on 2026-01-01, " in compare([tmp_path])["text"]


def test_a_run_that_was_cut_off_says_so(tmp_path: Path) -> None:
    from wmtoolkit.training.config import load_config, write_config

    run = tmp_path / "run"
    run.mkdir()
    write_config(load_config("tiny", ["training.steps=20"]), run / "config.yaml")
    lines = [{"step": step, "loss": 1.0 / step} for step in (5, 10)] + [{"step": 10, "validation_nll_per_step": 3.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 1')
    found = compare([run], tmp_path / "report.html")
    assert found["rows"][0]["state"] == "cut off at step 10 of 20"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n12\n{"loss": 3}\n')
    for name, odd in (("dataset", "[1]"), ("dataset", '{"paths": null}'), ("versions", "[1]")):
        (run / f"{name}.json").write_text(odd)
        assert "| run | cut off at step 10 of 20 |" in compare([run])["text"]
        (run / f"{name}.json").unlink()
    assert found["rows"][0]["validation_nll"] == 3.5
    assert "cut off at step 10 of 20" in (tmp_path / "report.html").read_text()
    assert f"wmtool train --config {run / 'config.yaml'}" in (tmp_path / "report.html").read_text()
    write_json(run / "dataset.json", {"paths": ["my data"]})
    assert "config.yaml --data 'my data'" in compare([run])["text"]
    write_json(run / "versions.json", {"versions": {"python": "3.11"}, "git": "abc"})
    assert "seed 0, commit abc, python 3.11" in compare([run])["text"]


def test_the_bench_command(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(PLANS["success"], encoding="utf-8")
    command = ["bench", "success", "--plan", str(tmp_path / "plan.yaml"), "--checkpoint", str(checkpoint)]
    command += ["--out", str(tmp_path / "out"), "--episodes", "1"]
    done = CliRunner().invoke(main, [*command, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["units"]["planned"] == 3
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 1
    assert "--resume" in again.stderr
    assert CliRunner().invoke(main, [*command, "--resume"]).exit_code == 0
    done = CliRunner().invoke(main, ["bench", "report", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert (tmp_path / "out" / "report.html").is_file()
    wrong = CliRunner().invoke(
        main, ["bench", "all", "--plan", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "x")]
    )
    assert wrong.exit_code == 2
    wrong = CliRunner().invoke(
        main, ["bench", "all", "--checkpoint", str(tmp_path / "none"), "--out", str(tmp_path / "x")]
    )
    assert wrong.exit_code == 1
    assert "no checkpoint folder" in wrong.stderr
