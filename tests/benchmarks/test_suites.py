"""Suites: plans are checked, work is done once, holes are named, and the numbers follow from the rows."""

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from click.testing import CliRunner

from wmtoolkit.benchmarks import robustness, success, suites, trainings
from wmtoolkit.benchmarks.baselines import acting, convolutional
from wmtoolkit.benchmarks.baselines.suite import BaselinesPlan
from wmtoolkit.benchmarks.fresh import check_fresh
from wmtoolkit.benchmarks.ledger import Ledger, read_rows
from wmtoolkit.benchmarks.plans import AgentSpec, load_plan
from wmtoolkit.benchmarks.play import Condition, Player, summary
from wmtoolkit.benchmarks.prediction import mean_over_levels
from wmtoolkit.benchmarks.report import compare
from wmtoolkit.benchmarks.suites import SUITES, run_suite
from wmtoolkit.cli.main import main
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.intervals import wilson
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.progress import progress
from wmtoolkit.training.config import load_config

LEVEL = "BabyAI-GoToLocalS5N2-v0"


def _plan(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("suite", SUITES)
def test_packaged_plans_are_whole(suite, quick):
    from importlib import import_module

    module, kind = SUITES[suite]
    plan = load_plan(getattr(import_module(f"wmtoolkit.benchmarks.{module}"), kind), suite, quick=quick)
    for variant in getattr(plan, "variants", []):
        load_config(variant.config, [*plan.set, *variant.set])
    names = [agent.name for agent in getattr(plan, "agents", [])]
    assert len(set(names)) == len(names)


def test_mistakes_in_plans_are_named(tmp_path):
    from wmtoolkit.benchmarks.success import SuccessPlan

    for text, said in (
        ("epsodes: 3", "unknown key epsodes; did you mean episodes"),
        ("episodes: many", "episodes"),
        ("quick: {lvels: []}", "lvels"),
        ("- a", "not a mapping"),
        ("levels: [", "not YAML"),
        ("agents: [{agent: bot}, {agent: bot, settings: {a: 1}}]", "agents: bot comes twice; give one of them another"),
        ("levels: [a, b, a]", "levels: a comes twice"),
    ):
        with pytest.raises(UserError, match=said):
            load_plan(SuccessPlan, "success", _plan(tmp_path, text))
    with pytest.raises(UserError, match="predictors: map in sight comes twice"):
        load_plan(robustness.RobustnessPlan, "robustness", _plan(tmp_path, "predictors: [map in sight, map in sight]"))
    with pytest.raises(UserError, match=r"baselines: cloning comes twice$"):
        load_plan(BaselinesPlan, "baselines", _plan(tmp_path, "baselines: [cloning, cloning]"))
    with pytest.raises(UserError, match="variants: x comes twice"):
        load_plan(trainings.TrainingsPlan, "ablation", _plan(tmp_path, "variants: [{name: x}, {name: y}, {name: x}]"))
    with pytest.raises(UserError, match="cannot be read"):
        load_plan(SuccessPlan, "success", tmp_path / "nowhere.yaml")
    path = _plan(tmp_path, "episodes: 3\nseed: 4\nquick: {episodes: 2}")
    assert load_plan(SuccessPlan, "success", path).episodes == 3
    assert load_plan(SuccessPlan, "success", path, quick=True).episodes == 2
    assert load_plan(SuccessPlan, "success", path, quick=True, changes={"episodes": 1, "seed": None}).seed == 4
    with pytest.raises(UserError, match="no suite"):
        run_suite("speeed", tmp_path)


SUCCESS = f"""
levels: [{LEVEL}]
agents: [{{agent: random}}, {{agent: bot}}, {{agent: best-first, settings: {{batch: 0}}}}]
episodes: 4
"""


def test_success_is_counted_and_a_broken_agent_leaves_a_hole(tmp_path, checkpoint):
    document = run_suite("success", tmp_path / "out", plan=_plan(tmp_path, SUCCESS), checkpoint=checkpoint)
    rows = {row["agent"]: row for row in document["rows"] if row["table"] == "success"}
    assert rows["bot"]["success_rate"] == 1
    assert (rows["bot"]["n"], rows["best-first"]["n"]) == (4, 0)
    assert document["units"]["missing"] == 4
    (hole,) = document["units"]["holes"]
    assert hole["unit"]["agent"] == "best-first"
    assert "batch must be at least 1" in hole["error"]
    assert "missing 4" in document["text"]
    over = {(row["agent"], row["over"]): row for row in document["rows"] if row["table"] == "improvement"}
    assert set(over) == {("bot", "random")}  # the better one first
    better = over["bot", "random"]
    assert better["probability"] > 0.5
    assert better["success_difference"] == pytest.approx(1 - rows["random"]["success_rate"])
    assert document["metrics"]["success_iqm/bot"]["value"] == 1
    written = json.loads((tmp_path / "out" / "success" / "results.json").read_text())
    assert written["rows"] == document["rows"]


def test_a_perfect_planner_that_is_not_shown_its_level_leaves_a_hole(tmp_path):
    player, ledger = Player(), Ledger(tmp_path, "robustness")
    perfect = AgentSpec("perfect:beam")
    with progress("play", 2) as bar:
        for condition in (
            Condition(LEVEL, perfect, corruption={"cell_dropout": 0.3}), Condition(LEVEL, perfect, imagined=True),
        ):  # fmt: skip
            player.play(condition, [1], ledger, bar)
            assert "a copy of the real level" in str(ledger.error(player.unit(condition, 1)))


def test_a_suite_goes_on_where_it_stopped(tmp_path, checkpoint, monkeypatch):
    from wmtoolkit.benchmarks import play

    plan, played = _plan(tmp_path, SUCCESS.replace(", {agent: best-first, settings: {batch: 0}}", "")), []
    really = play.run_episode

    def counted(agent, env, seed):
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append(seed)
        return really(agent, env, seed)

    monkeypatch.setattr(play, "run_episode", counted)
    with pytest.raises(KeyboardInterrupt):
        run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    half = json.loads((tmp_path / "out" / "success" / "results.json").read_text())
    assert half["units"] == {
        "planned": 8,
        "missing": 5,
        "holes": half["units"]["holes"],
    }
    assert {hole["error"] for hole in half["units"]["holes"]} == {"not run yet"}
    monkeypatch.setattr(play, "run_episode", lambda *arguments: (played.append(arguments[-1]), really(*arguments))[1])
    whole = run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    assert len(played) == 8
    assert whole["units"]["missing"] == 0
    run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    assert len(played) == 8
    # A checkpoint has no part in what random and the bot do: their rows are good for another one too.
    units = [row["unit"] for row in read_rows(tmp_path / "out" / "success" / "rows.jsonl")]
    assert {unit["checkpoint"] for unit in units} == {None}


def test_a_level_that_raises_loses_that_episode_alone(tmp_path, checkpoint, monkeypatch):
    from wmtoolkit.benchmarks import play

    class Broken(gymnasium.Wrapper):
        def reset(self, *, seed=None, options=None):
            if seed == 12:
                raise RuntimeError("no way through")
            return super().reset(seed=seed, options=options)

    really = play.make_real_env
    monkeypatch.setattr(play, "make_real_env", lambda level: Broken(really(level)))
    plan = _plan(tmp_path, f"levels: [{LEVEL}]\nagents: [{{agent: bot}}]\nepisodes: 5\nseed: 10")
    for _ in range(2):  # resumed, it is tried again and nothing else is lost
        document = run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)
        (row,) = (row for row in document["rows"] if row["table"] == "success")
        assert row["n"] == 4
        assert document["units"]["missing"] == 1
        assert "no way through" in document["units"]["holes"][0]["error"]
    broken = [row["unit"]["seed"] for row in read_rows(tmp_path / "out" / "success" / "rows.jsonl") if "error" in row]
    assert set(broken) == {12}


def test_seeds_that_were_trained_on_are_left_out(world_model, tmp_path):
    world_model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "dataset.json").write_text(json.dumps({"train_seeds": {LEVEL: [[10, 11]]}}))
    player = Player(tmp_path / "checkpoint")
    assert player.seeds(LEVEL, 9, 4) == [9, 12]
    assert player.seeds("BabyAI-GoToLocal-v0", 9, 4) == [9, 10, 11, 12]
    plan = _plan(tmp_path, f"levels: [{LEVEL}]\nepisodes: 4\nseed: 9")
    document = run_suite("success", tmp_path / "out", plan=plan, checkpoint=tmp_path / "checkpoint")
    row = next(row for row in document["rows"] if row["table"] == "success")
    assert row["n"] == 2
    assert "2 of 4 seeds were trained on" in row["note"]
    assert document["arguments"]["training_seeds"] == "left out"


def test_a_cloned_network_plays_from_its_file(checkpoint, tmp_path):
    network = convolutional.CloningNetwork()
    convolutional.save_cloning(network, tmp_path / "models" / "a.safetensors")
    player = Player(checkpoint)
    condition = Condition(LEVEL, AgentSpec(f"cloning:{tmp_path / 'models' / 'a.safetensors'}"))
    assert not player.uses_model(condition)
    with player.environment(condition) as env:
        observation, _ = env.reset(seed=0)
        expected = convolutional.CloningAgent(network.eval()).act(observation)
        assert player.agent(condition, env).act(observation) == expected
    (tmp_path / "b.safetensors").write_bytes(b"no")
    for wrong in ("b.safetensors", "nowhere.safetensors"):
        with pytest.raises(UserError, match="is no network of behaviour cloning"):
            convolutional.load_cloning(tmp_path / wrong)


def test_conditions_reach_the_agent(checkpoint):
    player = Player(checkpoint)
    spec = AgentSpec("random")
    with player.environment(Condition(LEVEL, spec, corruption={"cell_dropout": 1.0})) as env:
        observation, info = env.reset(seed=0)
        assert (observation["image"] == 0).all()
        assert not info["visible"].any()
    with player.environment(Condition(LEVEL, spec, corruption={"cell_dropout": 1.0}, belief=True)) as env:
        observation, info = env.reset(seed=0)
        assert (observation["image"] != 0).any()
        assert info["belief_confidence"].shape == (7, 7)
    with player.environment(Condition(LEVEL, spec, imagined=True)) as env:
        env.reset(seed=0)
        assert "log_prob" in env.step(0)[-1]
    assert player.uses_model(Condition(LEVEL, spec, belief=True))
    assert not player.uses_model(Condition(LEVEL, spec))


def test_a_summary_of_episodes_by_hand():
    names = ("success", "episode_return", "length", "decisions", "seconds", "slowest", "forward_passes", "error")
    episodes = [
        (True, 0.9, 4, 4, 2.0, 0.9, 8, None),
        (False, 0.0, 10, 10, 4.0, 1.5, 20, None),
        (False, 0.0, 2, 6, 4.0, 0.5, 2, "ValueError: no"),
    ]
    found = summary([dict(zip(names, episode, strict=True)) for episode in episodes])
    assert found["n"] == 3
    assert found["success_rate"] == pytest.approx(1 / 3)
    assert (found["success_rate_low"], found["success_rate_high"]) == pytest.approx(wilson(1, 3))
    assert found["mean_return"] == pytest.approx(0.3)
    assert found["mean_episode_length"] == 7  # the one that was cut short has none
    assert found["mean_episode_length_low"] <= 7 <= found["mean_episode_length_high"]
    assert found["milliseconds_per_decision"] == pytest.approx(500)
    assert found["slowest_decision_milliseconds"] == pytest.approx(1500)
    assert found["forward_passes_per_decision"] == pytest.approx(1.5)
    assert found["forward_passes_per_decision_low"] >= 1 / 3  # of the last alone; at most 2, of either other
    assert found["forward_passes_per_decision_high"] == 2
    assert found["forward_passes_per_episode"] == 10
    assert (found["errors"], found["error"]) == (1, "ValueError: no")
    assert summary([]) == {"n": 0}


@pytest.mark.parametrize("suite", ["success", "robustness", "fidelity"])
def test_every_suite_says_which_seeds_are_left_out(suite, world_model, tmp_path):
    """And plays none of them, nor any level seed twice."""
    world_model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "dataset.json").write_text(json.dumps({"train_seeds": {LEVEL: [[10, 11]]}}))
    more = {"robustness": "predictions: 0\nknobs: {cell_dropout: [0.0, 0.3]}", "fidelity": "branches: 2\nhorizon: 2"}
    text = f"levels: [{LEVEL}]\nagents: [{{agent: random}}]\nepisodes: 4\nseed: 9\n{more.get(suite, '')}"
    document = run_suite(suite, tmp_path / "out", plan=_plan(tmp_path, text), checkpoint=tmp_path / "checkpoint")
    rows = [row for row in document["rows"] if row["table"] == suite]
    assert rows
    assert {row["note"] for row in rows} == {"2 of 4 seeds were trained on and left out"}
    units = [row["unit"] for row in read_rows(tmp_path / "out" / suite / "rows.jsonl") if "agent" in row["unit"]]
    assert {unit["seed"] for unit in units} == {9, 12}
    text = compare([tmp_path / "out" / suite])["text"]
    assert "2 of 4 seeds were trained on and left out" in text


def test_levels_are_averaged_with_their_intervals():
    entries = [
        {"value": 0.4, "ci95": [0.3, 0.5], "n": 10, "standard_error": 0.06},
        {"value": 0.8, "ci95": [0.7, 0.9], "n": 30, "standard_error": 0.08},
    ]
    found = mean_over_levels(entries)
    half = np.sqrt(2 * 0.1**2) / 2
    assert found == {
        "value": pytest.approx(0.6),
        "ci95": pytest.approx([0.6 - half, 0.6 + half]),
        "n": 40,
        "levels": 2,
        "standard_error": pytest.approx(0.05),
    }  # half of 0.1, the root of the sum of squares
    outside = {"value": 0.01, "ci95": [0.02, 0.04], "n": 1}  # there is no side below to count
    assert mean_over_levels([outside])["ci95"] == pytest.approx([0.01, 0.04])
    assert mean_over_levels([outside, outside])["ci95"] == pytest.approx([0.01, 0.01 + np.sqrt(2 * 0.03**2) / 2])


TRAININGS = """
variants:
  - {name: base, config: tiny}
  - {name: broken, config: tiny, set: [training.batch_size=0]}
set: [training.steps=4, data.episodes=40, training.checkpoint_every=2]
seeds: [0]
samples: 12
decoding: [1, 3]
agents: [{agent: policy}, {agent: best-first, label: broken, settings: {batch: 0}}, {agent: cloning}]
episodes: 1
"""


def test_every_agent_that_raised_is_named(tmp_path):
    agents = [AgentSpec("policy"), AgentSpec("best-first"), AgentSpec("beam")]
    plan = trainings.TrainingsPlan(agents=agents, seeds=[0], episodes=4)
    ledger = Ledger(tmp_path, "ablation")
    (unit,) = trainings.units(plan, Player())
    played = {
        "success_rate": 0.5,
        "success_rate_low": 0.2,
        "success_rate_high": 0.8,
        "mean_episode_length": 3.0,
        "n": 4,
    }
    values = {"parameters": 1, "steps": 1, "training_seconds": 1.0, "best_validation_nll": 1.0, "metrics": {}}
    for agent, errors in zip(agents, (1, 0, 2), strict=True):
        values[f"play/{agent.name}"] = {**played, "errors": errors, "error": "ValueError: no" if errors else None}
    ledger.write(unit, values, 1.0)
    _, rows = trainings.report(plan, Player(), ledger)
    said = "policy raised in 1 of 4 episodes: ValueError: no; beam raised in 2 of 4 episodes: ValueError: no"
    assert [row["note"] for row in rows] == [said, said]


def test_trainings_are_resumable_rows(tmp_path):
    plan = _plan(tmp_path, TRAININGS.replace("  - {name: broken, config: tiny, set: [training.batch_size=0]}\n", ""))
    document = run_suite("ablation", tmp_path / "out", plan=plan)
    assert document["units"]["missing"] == 0, document["units"]
    (run,) = [row for row in document["rows"] if row["table"] == "runs"]
    assert run["steps"] == 4
    assert run["parameters"] > 10_000
    assert run["demonstrations"] == pytest.approx(0.3 * run["real_episodes"])
    assert 0 <= run["known_cell_accuracy"] <= 1
    (variant,) = [row for row in document["rows"] if row["table"] == "variants"]
    assert variant["known_cell_accuracy"] == run["known_cell_accuracy"]
    assert variant["success_rate/policy"] in (0, 1)
    assert variant["success_rate/cloning"] in (0, 1)
    assert 0 <= run["frame_exact_alone_8/1"] <= 1
    assert run["frame_exact_alone_8/3"] is not None
    assert "success_rate/broken" not in run
    assert "broken could not play in BabyAI-GoToRedBallGrey-v0: " in run["note"]
    checkpoint = next((tmp_path / "out" / "ablation" / "runs").glob("base-*")) / "checkpoint"
    assert run["checkpoint"] == Player(checkpoint).identity["sha256"]
    # The rival learns from the variant's own episodes.
    fitted = acting.config_of({"config": "tiny", "set": list(load_plan(trainings.TrainingsPlan, "ablation", plan).set)})
    assert acting.place("cloning", fitted, tmp_path / "out").is_file()
    finished = (tmp_path / "out" / "ablation" / "rows.jsonl").read_text()
    again = run_suite("ablation", tmp_path / "out", plan=plan)
    assert (tmp_path / "out" / "ablation" / "rows.jsonl").read_text() == finished
    assert again["rows"] == document["rows"]


def test_a_training_that_fails_says_why(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        trainings.train_apart("tiny", [], [str(tmp_path / "nowhere")], tmp_path / "run")


def test_a_wrong_config_is_told_before_any_work(tmp_path):
    with pytest.raises(UserError, match="batch_size"):
        run_suite("ablation", tmp_path / "out", plan=_plan(tmp_path, TRAININGS))


def test_means_over_seeds_show_their_range():
    runs = [
        {"table": "runs", "variant": "a", "training_seed": 0, "x": 1.0, "x_low": 0.5, "x_high": 1.5},
        {"table": "runs", "variant": "a", "training_seed": 1, "x": 2.0, "x_low": 1.5, "x_high": 2.5},
    ]
    assert trainings.mean_over_seeds(runs) == {"x": 1.5, "x_low": 1.0, "x_high": 2.0}
    assert trainings.mean_over_seeds(runs[:1]) == {"x": 1.0, "x_low": 0.5, "x_high": 1.5}
    runs[1] |= {"y": 3.0, "y_low": 2.0, "y_high": 4.0}  # the second run alone
    assert trainings.mean_over_seeds(runs) == {
        "x": 1.5, "x_low": 1.0, "x_high": 2.0, "y": 3.0, "y_low": 2.0, "y_high": 4.0,
    }  # fmt: skip


@pytest.mark.parametrize("suite", ["ablation", "efficiency", "baselines", "pairs"])
def test_nothing_is_measured_on_the_seeds_it_was_trained_on(tmp_path, suite):
    variants = "config: tiny" if suite in ("baselines", "pairs") else "variants: [{config: tiny}]"
    plan = _plan(tmp_path, f"{variants}\nset: [data.episodes=10, data.seed=4000]\n")
    with pytest.raises(UserError, match=r"level seeds 4000 to 4009 of .* are what 'tiny' is trained on"):
        run_suite(suite, tmp_path / "out", plan=plan, changes={"seed": 4009})


def test_seeds_that_touch_are_no_overlap():
    config = load_config("tiny", ["data.episodes=10", "data.seed=4000"])
    (level,) = config.data.levels
    for seed, count in ((3990, 10), (4010, 10)):
        check_fresh(seed, count, [level], [config])
    check_fresh(4000, 10, [LEVEL], [config])  # another level
    for seed, count in ((3990, 11), (4009, 1), (0, 9000)):
        with pytest.raises(UserError, match=f"seed {seed}: "):
            check_fresh(seed, count, [LEVEL, level], [config])


def test_nobody_plays_the_seeds_it_was_fitted_on(tmp_path, checkpoint):
    text = "agents: [{agent: cloning, settings: {config: tiny, set: [data.episodes=10, data.seed=4000]}}]\n"
    plan = _plan(tmp_path, f"levels: [BabyAI-GoToRedBallGrey-v0]\nepisodes: 2\nseed: 3999\n{text}")
    for suite in ("success", "robustness", "fidelity"):
        with pytest.raises(UserError, match="is trained on"):
            run_suite(suite, tmp_path / "out", plan=plan, checkpoint=checkpoint)


def _played(success: bool, returned: float) -> dict:
    """An episode's entry in a ledger."""
    return {
        "success": success, "episode_return": returned, "length": 4, "decisions": 4, "seconds": 0.4, "slowest": 0.2,
        "forward_passes": 8, "error": None,
    }  # fmt: skip


def test_the_middle_of_returns_over_levels_by_hand(tmp_path, checkpoint):
    player, ledger = Player(checkpoint), Ledger(tmp_path, "success")
    plan = success.SuccessPlan(levels=["a", "b", "c", "d"], agents=[AgentSpec("random")], episodes=2, seed=5)
    returns = {"a": (0.0, 0.0), "b": (0.0, 0.5), "c": (0.4, 0.6), "d": (0.9, 1.0)}
    for condition in success.conditions(plan):
        for seed, returned in zip((5, 6), returns[condition.level], strict=True):
            ledger.write(player.unit(condition, seed), _played(returned > 0, returned), 1.0)
    row = next(row for row in success.report(plan, player, ledger)[1] if row["table"] == "agents")
    assert row["return_iqm"] == pytest.approx((0.25 + 0.5) / 2)  # of 0, 0.25, 0.5 and 0.95 the middle two
    assert row["success_iqm"] == pytest.approx((0.5 + 1) / 2)
    assert row["success_rate"] == pytest.approx(5 / 8)


def test_what_is_asked_of_all_suites_reaches_those_it_means(tmp_path, checkpoint, monkeypatch):
    asked, pages = {}, []

    def run(suite, out, **options):
        asked[suite] = options["changes"]
        if suite == "fidelity":
            raise RuntimeError("no room")
        return {"units": {"missing": 0}}

    def report(folder, missing):
        pages.append(list(missing))
        return {"text": ""}

    monkeypatch.setattr(suites, "run_suite", run)
    monkeypatch.setattr(suites, "write_report", report)
    monkeypatch.setattr(suites, "speed", lambda **options: 1 / 0)
    changes = {"episodes": 20, "levels": [LEVEL], "seed": 7}
    suites.run_all(tmp_path, checkpoint=checkpoint, changes=changes)
    # The episodes that are recorded to be predicted are not those that agents play.
    assert asked["prediction"] == {"levels": [LEVEL], "seed": 7}
    assert asked["success"] == asked["robustness"] == changes
    # What left nothing behind is named in the page, and so is what was not asked for.
    assert pages == [
        ["fidelity: RuntimeError: no room", "speed: ZeroDivisionError: division by zero"]
        + [f"{suite}: not run; give --trainings" for suite in ("efficiency", "ablation", "baselines", "pairs")]
    ]


def test_a_quick_speed_does_not_stand_for_a_full_one(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(suites, "run_suite", lambda *arguments, **options: {"units": {"missing": 0}})
    measured = []

    def speed(quick, out, checkpoint):
        measured.append((quick, checkpoint))
        document = results_document("bench speed", {"quick": quick}, {}, checkpoint=Player(checkpoint).identity)
        write_json(out / "results.json", document)

    monkeypatch.setattr(suites, "speed", speed)
    for quick in (True, True, False, False, True):
        suites.run_all(tmp_path, quick=quick, checkpoint=checkpoint)
    assert measured == [(True, checkpoint), (False, checkpoint)]
    for _ in range(2):
        suites.run_all(tmp_path)  # the packaged model's is another
    assert measured[2:] == [(False, None)]


def test_pairs_has_no_episodes_to_play():
    done = CliRunner().invoke(main, ["bench", "pairs", "--episodes", "3"])
    assert done.exit_code == 2
    assert "No such option" in done.stderr
