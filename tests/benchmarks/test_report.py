"""The report: made of real results, self-contained, and clear about what it cannot read or what is missing."""

import csv
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner

from wmtoolkit.benchmarks.report import compare, headline, sections
from wmtoolkit.benchmarks.reporting import policies
from wmtoolkit.benchmarks.reporting.goals import goals
from wmtoolkit.benchmarks.reporting.reading import read_all
from wmtoolkit.benchmarks.reporting.sections import number
from wmtoolkit.benchmarks.rollouts import rollout
from wmtoolkit.benchmarks.suites import run_suite, write_report
from wmtoolkit.cli.main import main
from wmtoolkit.data import collect
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.evaluate import evaluate
from wmtoolkit.evaluation.intervals import wilson
from wmtoolkit.evaluation.results import write_json

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
    with pytest.raises(UserError, match=r"\.html"):
        write_report(suites, suites / "report.pdf")


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(folders: list[Path], suites: Path, tmp_path: Path) -> None:
    broken = {}
    for name, text in (
        ("cut", '{"schema": 1, "comm'), ("other", '{"schema": 99}'), ("bare", '{"schema": 1}'),
        ("half", '{"schema": 1, "command": "evaluate", "command_line": "", "arguments": {}, "rows": [], "metrics": '
         '{"ece": {"value": 0}}}'),
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
        "lacks arguments",
        "metric ece lacks ci95, n",
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
        for lacking in ({"arguments": {}}, {"rows": [{"table": row.get("table")} for row in document["rows"]]}):
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
    [("model: {a: [1", "cut off or no YAML"), ("model: {}", "lacks training, world"), ("[1]", "lacks the config")],
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


def _entry(value: float | None) -> dict[str, object]:
    return {"value": value, "ci95": None, "n": 9}


def _goals(command: str, rows: list[dict], metrics: dict | None = None, **more: object) -> dict[str, tuple[str, ...]]:
    """Goal, measured and verdict of each goal of a document, by what it is about."""
    section = goals([({"command": command, "metrics": metrics or {}, "rows": rows, **more}, "here")])
    lines = [] if section is None else section.tables[0].lines
    assert {line[4] for line in lines} <= {"here"}
    return {line[0]: tuple(line[1:4]) for line in lines}


def _holes(*units: dict) -> dict[str, object]:
    holes = [{"unit": unit, "missing": 3, "error": "not run yet"} for unit in units]
    return {"planned": 10, "missing": 3 * len(units), "holes": holes}


def test_goals_of_prediction_by_hand() -> None:
    metrics = {"outcome_f1": _entry(0.98), "ece": _entry(0.03)}
    found = _goals("evaluate", [], metrics)
    assert found["outcome F1"] == ("at least 0.98", "0.98000", "reached")
    assert found["calibration error of all cells"] == ("at most 0.02", "0.0300", "missed")
    assert found["changed cells"][2].startswith("not measured: ")
    found = _goals("bench prediction", [], metrics, units=_holes({"level": "a"}))
    assert found["outcome F1"][2] == "open: 3 units of work are missing"
    assert goals([({"command": "bench speed", "metrics": {}, "rows": []}, "speed")]) is None


def test_goals_of_success_by_hand() -> None:
    level = "BabyAI-GoToLocal-v0"
    played = [("bot", 1.0, 10.0, 1.0), ("best-first", 0.985, 12.0, 250.0)]
    names = ("agent", "success_rate", "mean_episode_length", "milliseconds_per_decision")
    rows = [{"table": "success", "level": level, "n": 9, **dict(zip(names, row, strict=True))} for row in played]
    success, taken, length = (
        f"{what} of best-first, GoToLocal{end}"
        for what, end in (("success", ""), ("ms a decision", ""), ("mean length", ", in the bot's"))
    )
    found = _goals("bench success", rows)
    assert found == {
        success: ("at least 0.99", "0.985", "missed"),
        taken: ("at most 200", "250", "missed"),
        length: ("at most 1.3", "1.20", "reached"),
    }
    # Whose episodes are missing says what is open; films and others' episodes do not matter.
    units = [{"level": level, "agent": "bot"}, {"level": level, "agent": "policy"}, {"film": "bot", "level": level}]
    found = _goals("bench success", rows, units=_holes(*units))
    assert [found[what][2] for what in (success, taken, length)] == [
        "missed", "missed", "open: 3 units of work are missing",
    ]  # fmt: skip
    nothing = _goals("bench success", [rows[0], {"table": "success", "level": level, "agent": "best-first", "n": 0}])
    assert nothing == {success: ("at least 0.99", "-", "not measured: no episode was played")}


def test_goals_of_fidelity_by_hand() -> None:
    (what,) = _goals("bench fidelity", [])
    for metrics, said in (
        ({"fidelity_pearson": _entry(0.96)}, ("0.960", "reached")),
        ({"fidelity_pearson": _entry(0.94)}, ("0.940", "missed")),
        ({"fidelity_pearson": _entry(None)}, ("-", "not measured: success is the same everywhere on one side")),
        ({}, ("-", "not measured: fewer than three agents and levels are played to the end")),
    ):
        assert _goals("bench fidelity", [], metrics)[what][1:] == said
    units = _holes({"level": "a", "agent": "policy"}, {"level": "a", "branches": 4})
    found = _goals("bench fidelity", [], {"fidelity_pearson": _entry(0.96)}, units=units)
    assert found[what][2] == "open: 3 units of work are missing"
    (looked,) = _goals("bench fidelity", [], arguments={"plan": {"start": "look_around"}})
    assert looked == f"{what}, after a look around"


def test_goals_of_robustness_by_hand() -> None:
    level = "BabyAI-GoToLocal-v0"
    kept = [
        {"table": "retention", "level": level, "belief": belief, "agent": agent, "retention_0.3": share}
        for belief, agent, share in (
            (False, "policy", 0.7), (True, "policy", 0.9), (False, "random", 1.0), (False, "bot", 1.0),
            (False, "cloning", 0.95), (False, "mcts", 0.99), (False, "idle", None),
        )
    ]  # fmt: skip
    hidden = {"table": "gain", "level": level, "agent": "policy", "knob": "cell_dropout", "strength": 0.3}
    gains = [
        {**hidden, "over": over, "success_difference": gain}
        for over, gain in (("itself, as seen", 0.2), ("cloning", 0.0), ("bot", -0.5))
    ] + [{**hidden, "strength": 0.5, "over": "itself, as seen", "success_difference": 0.1}]
    condition = {"table": "robustness", "level": level, "agent": "policy", "knob": "cell_dropout"}
    rates = [
        {**condition, "strength": strength, "belief": belief, "success_rate": rate}
        for strength, belief, rate in ((0.0, False, 0.5), (0.3, False, 0.35), (0.3, True, 0.45))
    ]
    baselines = [{"agent": agent, "label": ""} for agent in ("random", "bot", "cloning", "idle")]
    arguments = {"plan": {"baselines": baselines}}
    found = _goals("bench robustness", [*kept, *gains, *rates], arguments=arguments)
    # Above its own without, not above cloning's; who is blind keeps all, who never succeeds has nothing to keep, and
    # an agent of the plan that is no baseline does not count. At 30 % alone, and nobody is measured by the bot.
    value, unkept = (
        "0.900: 0.450 of 0.500",
        "not measured: idle never succeeds with a clear view, or episodes are missing",
    )
    assert found == {
        "success that policy keeps at 30 % hidden cells with belief completion, GoToLocal": (
            "at least 0.85", value, "reached"
        ),
        "the same, above its own without": ("above 0.700: 0.350 of 0.500", value, "reached"),
        "the same, above that of cloning": ("above 0.950", value, "missed"),
        "the same, above that of idle": ("above -", value, unkept),
        "difference of policy's success there to itself, as seen": ("above 0", "0.200", "reached"),
        "difference of policy's success there to cloning": ("above 0", "0.000", "missed"),
    }  # fmt: skip


def test_goals_of_baselines_by_hand() -> None:
    ours = {"known_cell_accuracy": 0.9, "known_frame_exact": 0.8, "chain_nll": 1.5, "outcome_f1": 0.7}
    ours |= {"action_accuracy": 0.8, "goal_accuracy": 0.6, "forward_nll": 1.4, "direction_accuracy": 0.1}
    theirs = {"known_cell_accuracy": 0.9, "known_frame_exact": 0.85, "chain_nll": 2.0, "outcome_f1": 0.7}
    theirs |= {"action_accuracy": 0.7, "belief_accuracy": 0.9, "direction_accuracy": 0.9}
    rows = [{"table": "variants", "variant": "any-order", **ours}]
    rows += [{"table": "variants", "variant": "autoregressive", **theirs}]
    found = {what.partition(", ")[2]: line for what, line in _goals("bench baselines", rows).items()}
    assert {query.partition(":")[0]: verdict.partition(":")[0] for query, (_, _, verdict) in found.items()} == {
        "forward": "reached", "outcome": "missed", "policy": "reached", "inverse": "not measured",
        "belief": "not measured", "goal": "not measured",
    }  # fmt: skip
    assert found["forward: known cells right"] == ("no worse than 0.900", "0.900", "reached")
    assert found["forward: known frames exact"] == ("no worse than 0.850", "0.800", "missed")
    assert found["forward: nats a step, token by token"] == ("no worse than 2.000", "1.500", "reached")
    assert len([query for query in found if query.startswith("forward")]) == 3
    assert _goals("bench baselines", rows, arguments={"plan": {"baselines": ["any-order"]}}) == {}
    found = _goals("bench baselines", rows, units=_holes({"baseline": "autoregressive"}, {"baseline": "cloning"}))
    assert {verdict.partition(":")[0] for _, _, verdict in found.values()} == {"open", "not measured"}


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
    assert found["rows"][0]["validation_nll"] == 3.5
    assert "cut off at step 10 of 20" in (tmp_path / "report.html").read_text()
    assert f"wmtool train --config {run / 'config.yaml'}" in (tmp_path / "report.html").read_text()
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


def test_learning_curves_by_hand(tmp_path: Path) -> None:
    plan = {"level": "BabyAI-GoToLocal-v0", "algo": "ppo", "mode": "imagined", "episodes": 64, "clone": 9}
    rows = [
        {
            "step": step,
            "success_rate": rate,
            "sampled_success_rate": drawn,
            "real_steps": step,
            "real_resets": step // 4,
        }
        | {"real_episodes": 0, "seconds": 2.0}
        for step, rate, drawn in ((0, 0.25, 0.5), (64, 0.5, 0.75))
    ]
    curve = policies._curve({"arguments": plan, "rows": rows}, "run")
    assert [row["success"] for row in curve] == [0.5, 0.75]
    assert (curve[1]["success_low"], curve[1]["success_high"]) == wilson(48, 64)
    assert (curve[1]["success_rate_low"], curve[1]["success_rate_high"]) == wilson(32, 64)
    (line,) = policies.policies([({"arguments": plan, "rows": rows}, "run")]).tables[0].lines
    assert line[:4] == ["run", "GoToLocal", "ppo", "imagined"]
    assert line[4].startswith("75.0 % (")
    assert line[6:10] == ["9", "64", "64", "16"]
    # Two runs share a section and a figure, and what cannot be shown is named beside them.
    document = {
        "schema": 1,
        "command": "train-policy",
        "command_line": "x",
        "metrics": {"success_rate": _entry(0.5)},
        "rows": rows,
        "arguments": plan,
    }
    for name, changed in (("a", {}), ("b", {}), ("odd", {"arguments": {}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({**document, **changed}))
    made = sections(read_all([tmp_path])[0])
    assert [section.title for section in made] == ["Goals", "train-policy: odd", "Policies"]
    assert [row[0] for row in made[2].tables[0].lines] == ["a", "b"]
    assert made[2].figures[0][0].count("imagined)") == 2


def test_goals_of_policies_infilling_and_few_episodes_by_hand() -> None:
    level = "BabyAI-GoToLocal-v0"
    plan = {"level": level, "algo": "ppo", "mode": "imagined"}
    metrics = {"success_rate": _entry(0.5), "sampled_success_rate": _entry(0.86)}
    (found,) = _goals("train-policy", [], metrics, arguments=plan).values()
    assert found[0] == "at least 0.85"
    assert found[2] == "reached"
    assert _goals("train-policy", [], metrics, arguments={**plan, "mode": "real"}) == {}
    rows = [
        {"table": "success", "level": level, "agent": agent, "n": 9, "success_rate": 1.0, "mean_episode_length": 5.0}
        | {"milliseconds_per_decision": 1.0, "forward_passes_per_decision": passes}
        for agent, passes in (("infill", 4.0), ("best-first", 4.5))
    ]
    found = _goals("bench success", rows)
    assert found["success of infill, GoToLocal"][2] == "reached"
    assert found["passes a decision of infill, GoToLocal"] == ("fewer than best-first's 4.50", "4.00", "reached")
    name = "success_rate/best-first, GoToRedBallGrey"
    rows = [
        {"table": "variants", "variant": str(episodes), "real_episodes": episodes, name: rate}
        for episodes, rate in ((2000, 1.0), (500, 0.995), (250, 0.98))
    ]
    (found,) = _goals("bench efficiency", rows).values()
    assert found == ("at most 300", "500: 0.995", "missed")
    rows[2][name] = 0.99
    assert (
        _goals("bench efficiency", rows)["recorded episodes to 99 % success of best-first, GoToRedBallGrey"][2]
        == "reached"
    )
