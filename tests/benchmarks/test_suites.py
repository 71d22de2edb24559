"""Suites: plans are checked, work is done once, holes are named, and the numbers follow from the rows."""

import json
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.benchmarks import blind_prediction, drift, trainings
from wmtoolkit.benchmarks.baselines import convolutional
from wmtoolkit.benchmarks.fidelity import FidelityPlan, players
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.ledger import Ledger, read_rows
from wmtoolkit.benchmarks.plans import AgentSpec, load_plan
from wmtoolkit.benchmarks.play import Condition, Player
from wmtoolkit.benchmarks.prediction import mean_over_levels
from wmtoolkit.benchmarks.suites import SUITES, run_suite
from wmtoolkit.data import open_store
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.aggregates import retention
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.training.config import load_config
from wmtoolkit.world import windows

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
    ):
        with pytest.raises(UserError, match=said):
            load_plan(SuccessPlan, "success", _plan(tmp_path, text))
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


def test_robustness_follows_from_its_rows(tmp_path, checkpoint):
    plan = _plan(
        tmp_path,
        f"levels: [{LEVEL}]\nagents: [{{agent: random}}]\nepisodes: 6\npredictions: 8\n"
        "knobs: {cell_dropout: [0.0, 0.3], view_size: [3]}\nbaselines:\n"
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
    assert len(blind) == 5
    assert all(0 <= row["known_cell_accuracy"] <= 1 for row in blind)


def test_fidelity_sets_imagined_beside_real(tmp_path, checkpoint, tiny):
    plan = _plan(
        tmp_path,
        f"levels: [{LEVEL}]\nepisodes: 3\nbranches: 6\nhorizon: 5\n"
        "agents: [{agent: random}, {agent: policy}, {agent: policy, label: p2, settings: {temperature: 1.0}}]",
    )
    document = run_suite("fidelity", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    assert document["units"]["missing"] == 0
    rows = [row for row in document["rows"] if row["table"] == "fidelity"]
    assert [row["agent"] for row in rows] == ["random", "policy", "p2"]
    assert all(row["real_n"] == row["imagined_n"] == 3 for row in rows)
    assert document["metrics"]["fidelity_pearson"]["n"] == 3
    ranking = [row for row in document["rows"] if row["table"] == "ranking"]
    assert [(row["level"], row["agents"]) for row in ranking] == [(LEVEL, 3)]
    assert document["metrics"]["ranking_spearman"]["value"] == ranking[0]["spearman"]
    # One model twice would count its points twice.
    model = AnyOrderWorldModel.create(LLaDA2MoeConfig(**tiny))
    alone = plan.read_text()
    for twice in (f"[{checkpoint}]", f"[{tmp_path / 'a' / 'run'}, {tmp_path / 'b' / 'run' / 'checkpoint'}]"):
        plan.write_text(f"{alone}\ncheckpoints: {twice}")
        for place in ("a/run", "b/run/checkpoint"):
            model.save_pretrained(tmp_path / place)
        with pytest.raises(UserError, match="the same model as"):
            run_suite("fidelity", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    # A further checkpoint adds its points; random, which does not depend on it, plays for real only once.
    plan.write_text(f"{alone}\ncheckpoints: [{tmp_path / 'a' / 'run'}]")
    other = run_suite("fidelity", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    assert other["metrics"]["fidelity_pearson"]["n"] == 6
    assert other["units"]["planned"] == document["units"]["planned"] + 3 * 3 + 2 * 3
    assert {row["agent"] for row in other["rows"] if row["table"] == "fidelity"} >= {"policy", "policy, run"}
    AnyOrderWorldModel.create(LLaDA2MoeConfig(**tiny)).save_pretrained(tmp_path / "c" / "run")
    twins = FidelityPlan(checkpoints=[str(tmp_path / "a" / "run"), str(tmp_path / "c" / "run")])
    names = list(players(twins, Player(checkpoint)))
    assert all(re.fullmatch(r"run \([0-9a-f]{8}\)", name) for name in names[1:])
    assert len(set(names)) == 3
    steps = [row for row in document["rows"] if row["table"] == "drift"]
    assert [row["horizon"] for row in steps] == list(range(1, len(steps) + 1))
    assert steps[0]["n"] == 6


class Recorded:
    """A world that shows what was recorded, but for one cell of one branch from its third step on."""

    def __init__(self, store, frames: windows.Frames, wrong_lane: int | None) -> None:
        self.store, self.frames, self.wrong_lane = store, frames, wrong_lane
        self.starts: set[int] = set()

    def rollout_state(self, histories):
        state = Recorded(self.store, self.frames, self.wrong_lane)
        first = {int(seed): int(self.frames.offsets[index]) for index, seed in enumerate(self.store.seeds)}
        state.place = np.array([first[history.seed] + len(history) for history in histories])
        self.starts |= {len(history) for history in histories}
        state.lane, state.step_number = np.arange(len(histories)), 0
        return state

    def select(self, rows):
        state = Recorded(self.store, self.frames, self.wrong_lane)
        state.place, state.lane, state.step_number = self.place[rows], self.lane[rows], self.step_number
        return state

    def step(self, actions):
        state = self.select(np.arange(len(self.place)))
        state.place, state.step_number = self.place + 1, self.step_number + 1
        np.testing.assert_array_equal(actions, self.frames.actions[state.place])
        state.images = np.array(self.frames.images[state.place])
        if state.step_number >= 3 and self.wrong_lane in state.lane:
            state.images[np.flatnonzero(state.lane == self.wrong_lane)[0], 3, 6] = (8, 1, 0)
        state.directions = np.asarray(self.frames.directions[state.place])
        state.sampled_outcomes = np.asarray(self.frames.outcomes[state.place])
        return state


def test_drift_finds_the_first_error(tmp_path):
    path = fresh_data(LEVEL, tmp_path, episodes=60)
    store = open_store([path], "test")
    frames = windows.Frames.from_store(store)
    recorded = Recorded(store, frames, None)
    perfect = drift.open_loop(recorded, path, 20, 6)
    assert all(row["known_cell_accuracy"] == row["known_frame_exact"] == 1 for row in perfect["steps"])
    assert perfect["divergence"]["without_error"] == 1
    assert perfect["divergence"]["median"] is None
    assert set(perfect["divergence"]["survival"]) == {1.0}
    lasting = [row["n"] for row in perfect["steps"]]
    assert lasting == sorted(lasting, reverse=True)
    assert lasting[0] == 20
    assert len(recorded.starts) > 3  # from anywhere in an episode, also where the horizon is longer
    # The lane that errs must last three steps: try one after the other.
    for lane in range(20):
        found = drift.open_loop(Recorded(store, frames, lane), path, 20, 6)
        if found["divergence"]["without_error"] < 1:
            break
    assert found["divergence"]["without_error"] == pytest.approx(19 / 20)
    steps = {row["horizon"]: row for row in found["steps"]}
    assert steps[2]["known_frame_exact"] == 1
    assert steps[3]["known_frame_exact"] == pytest.approx(1 - 1 / steps[3]["n"])
    assert found["divergence"]["survival"][:3] == [1.0, 1.0, pytest.approx(1 - 1 / steps[3]["n"], abs=1e-4)]


def test_divergence_by_hand():
    """Four branches of 3, 3, 2 and 1 steps: the first errs at step 2 and 3, the third at its last, the rest never."""
    last = np.array([3, 3, 2, 1])
    weight = np.zeros((4, 3, 4))
    for branch, steps in enumerate(last):
        weight[branch, :steps] = 1
    right = weight.copy()
    right[0, 1, 1] = right[0, 2, 2] = 0  # a known cell, then the heading: the first counts
    right[2, 1, 2] = 0  # the heading alone
    found = drift._divergence(right, weight, last)
    # At step 1 none of four errs; at step 2 two of the three that last; at step 3 none of the one that is left.
    assert found["survival"] == [1.0, pytest.approx(1 / 3, abs=1e-4), pytest.approx(1 / 3, abs=1e-4)]
    assert found["median"] == 2
    assert found["without_error"] == 0.5
    assert found["branches"] == 4


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


TRAININGS = """
variants:
  - {name: base, config: tiny}
  - {name: broken, config: tiny, set: [training.batch_size=0]}
set: [training.steps=4, data.episodes=40, training.checkpoint_every=2]
seeds: [0]
samples: 12
agents: [{agent: policy}]
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
    assert 0 <= run["known_cell_accuracy"] <= 1
    (variant,) = [row for row in document["rows"] if row["table"] == "variants"]
    assert variant["known_cell_accuracy"] == run["known_cell_accuracy"]
    assert variant["success_rate/policy"] in (0, 1)
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
