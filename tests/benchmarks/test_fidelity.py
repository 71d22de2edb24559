"""Fidelity: imagined beside real, checkpoints told apart, drift and divergence by hand, and the films beside them."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.evaluation.conftest import view, walk
from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.agents.random_agent import RandomAgent
from wmtoolkit.benchmarks import comparison_films, drift, play
from wmtoolkit.benchmarks.fidelity import FidelityPlan, pairs, players, report, units
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.lanes import run_lanes
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player
from wmtoolkit.benchmarks.report import compare
from wmtoolkit.benchmarks.rollouts import run_episode
from wmtoolkit.benchmarks.suites import run_suite
from wmtoolkit.data import open_store
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.progress import progress
from wmtoolkit.world import windows
from wmtoolkit.world.trajectory import Outcome

LEVEL = "BabyAI-GoToLocalS5N2-v0"


def _plan(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_where_imagination_begins_makes_other_episodes_of_imagination_alone(tmp_path, checkpoint):
    player, given = Player(checkpoint, tmp_path), {"levels": [LEVEL], "agents": [AgentSpec("random")], "episodes": 2}
    plain, looked = (
        {json.dumps(unit) for unit in units(FidelityPlan(**given, start=start), player)}
        for start in ("level", "look_around")
    )
    assert len(plain - looked) == len(looked - plain) == 2
    assert all('"imagined": true' in unit and '"start": "look_around"' in unit for unit in looked - plain)
    for wrong, said in (("start: dream", "start is 'dream'"), ("start: look_around\nfilms: random", "films show")):
        plan = _plan(tmp_path, f"levels: [{LEVEL}]\nagents: [{{agent: random}}]\n{wrong}\n")
        with pytest.raises(UserError, match=said):
            run_suite("fidelity", tmp_path / "out", plan=plan, checkpoint=checkpoint)


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

    def step(self, actions, steps=1):
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
    perfect = drift.open_loop(recorded, [path], 20, 6)
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
        found = drift.open_loop(Recorded(store, frames, lane), [path], 20, 6)
        if found["divergence"]["without_error"] < 1:
            break
    assert found["divergence"]["without_error"] == pytest.approx(19 / 20)
    steps = {row["horizon"]: row for row in found["steps"]}
    assert steps[2]["known_frame_exact"] == 1
    assert steps[3]["known_frame_exact"] == pytest.approx(1 - 1 / steps[3]["n"])
    assert found["divergence"]["survival"][:3] == [1.0, 1.0, pytest.approx(1 - 1 / steps[3]["n"], abs=1e-4)]


def test_what_imagination_says_wrong_by_hand(monkeypatch):
    """Two branches of two steps that know two cells; at the second one errs in a cell, the other in the heading, and
    both in the outcome."""
    shown = view(c3r5=(6, 0, 0))
    done = [walk([6, 6], [shown] * 3, [0, 0, 0]) for _ in range(2)]
    recorded = windows.Frames.from_trajectories(done)
    monkeypatch.setattr(drift, "open_store", lambda *arguments: SimpleNamespace(trajectory=lambda index: done[index]))
    monkeypatch.setattr(windows.Frames, "from_store", classmethod(lambda cls, store: recorded))

    def state(step: int) -> SimpleNamespace:
        images, directions, outcomes = np.stack([shown, shown]), np.zeros(2, int), np.full(2, Outcome.CONTINUE)
        if step == 2:
            images[0, 3, 5] = (2, 5, 0)
            images[0, 0, 0] = (2, 5, 0)  # never seen: it does not count
            directions[1], outcomes[:] = 1, Outcome.SUCCESS
        return SimpleNamespace(
            images=images, directions=directions, sampled_outcomes=outcomes, step=lambda actions, steps: state(step + 1)
        )

    model = SimpleNamespace(rollout_state=lambda histories: state(0))
    # Branches begin at a random step: take a seed with which both begin at the first.
    drawn = (drift.open_loop(model, [Path("x")], 2, 2, seed)["steps"] for seed in range(40))
    found = next(rows for rows in drawn if [row["n"] for row in rows] == [2, 2])
    names = ("known_cell_accuracy", "known_frame_exact", "direction_accuracy", "outcome_accuracy")
    assert [[row[name] for name in names] for row in found] == [[1, 1, 1, 1], [0.75, 0.5, 0.5, 0]]


def test_imagined_and_real_meet_in_the_metrics_by_hand(checkpoint, tmp_path):
    player, ledger = Player(checkpoint), Ledger(tmp_path, "fidelity")
    plan = FidelityPlan([LEVEL], [AgentSpec("random", name) for name in "abc"], episodes=2, seed=7)
    # Each agent has settings of its own, so that their episodes are told apart.
    plan = replace(plan, agents=[replace(spec, settings={"x": spec.label}) for spec in plan.agents])
    successes = {"a": ((1, 1), (1, 0)), "b": ((1, 0), (0, 1)), "c": ((0, 0), (0, 0))}  # real, imagined
    found = {"length": 4, "decisions": 4, "seconds": 0.4, "slowest": 0.2, "forward_passes": 8, "error": None}
    for pair in pairs(plan):
        for condition, side in zip(pair, successes[pair[0].agent.label], strict=True):
            for seed, success in zip((7, 8), side, strict=True):
                values = {"success": bool(success), "episode_return": float(success), **found}
                ledger.write(player.unit(condition, seed), values, 1.0)
    metrics, rows = report(plan, player, ledger)
    rates = [
        (row["agent"], row["real_success_rate"], row["imagined_success_rate"])
        for row in rows
        if row["table"] == "fidelity"
    ]
    assert rates == [("a", 1, 0.5), ("b", 0.5, 0.5), ("c", 0, 0)]
    assert metrics["fidelity_gap"]["value"] == pytest.approx(0.5 / 3)
    assert metrics["fidelity_gap"]["ci95"] == pytest.approx([0, 0.5])  # three times c, or b, is 1 of 27 draws each
    # Deviations from the means: 1/2, 0, -1/2 and 1/6, 1/6, -1/3.
    assert metrics["fidelity_pearson"]["value"] == pytest.approx(0.25 / np.sqrt(1 / 2 * 1 / 6))


def test_a_film_is_of_an_agent_with_its_settings(checkpoint):
    agents = [[AgentSpec("policy", settings=settings)] for settings in ({}, {"temperature": 2.0})]
    plans = [FidelityPlan([LEVEL], found, films="policy", episodes=1) for found in agents]
    first, second = (list(comparison_films.film_units(plan, Player(checkpoint))) for plan in plans)
    assert first != second
    assert first == list(comparison_films.film_units(plans[0], Player(checkpoint)))


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


def test_films_set_real_beside_imagined(tmp_path, checkpoint):
    text = f"levels: [{LEVEL}, BabyAI-GoToObj-v0]\nagents: [{{agent: random}}]\nepisodes: 1\n"
    plan = _plan(tmp_path, f"{text}films: random")
    document = run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)
    assert document["units"] == {"planned": 4, "missing": 0, "holes": []}
    films = {row["level"]: row for row in document["rows"] if row["table"] == "films"}
    for level, row in films.items():
        path = tmp_path / "out" / "success" / row["file"]
        assert path.name == f"{level}-random-{document['checkpoint']['sha256'][:8]}-{row['seed']}.gif"
        assert path.stat().st_size <= comparison_films.LARGEST
        assert 0 < row["steps"] <= comparison_films.LONGEST
        with Image.open(path) as film:
            assert film.n_frames > 1
    assert len(films) == 2
    compare([tmp_path / "out" / "success"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/gif;base64,") == 2
    assert (
        f"GoToObj, random, seed 1000000: {'success' if films['BabyAI-GoToObj-v0']['success'] else 'no success'}" in page
    )
    # Without films there are none in the page, whatever lies in the folder.
    plan.write_text(text)
    assert run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)["units"]["planned"] == 2
    compare([tmp_path / "out" / "success"], tmp_path / "report.html")
    assert "data:image/gif" not in (tmp_path / "report.html").read_text()
    plan.write_text(f"{text}films: bot")
    with pytest.raises(UserError, match="'bot' is none of the plan's agents; there are random"):
        run_suite("success", tmp_path / "out", plan=plan, checkpoint=checkpoint)


def test_a_film_shows_what_was_seen_and_imagined_and_stays_small(tmp_path, checkpoint, monkeypatch):
    player = Player(checkpoint)
    condition = Condition(LEVEL, AgentSpec("random"))
    with player.environment(condition) as env:
        played = comparison_films.play(player.agent(condition, env), env, player.model, 7)
        seen = [env.reset(seed=7)[0]["image"]]
        seen += [env.step(action)[0]["image"] for action in played["actions"]]
    np.testing.assert_array_equal(played["seen"], seen)
    state = player.model.rollout_state([comparison_films.Trajectory.start(env.reset(seed=7)[0])])
    np.testing.assert_array_equal(played["imagined"][0], seen[0])
    for action, imagined in zip(played["actions"], played["imagined"][1:], strict=True):
        state = state.step(np.array([action]))
        np.testing.assert_array_equal(imagined, state.images[0])
    comparison_films.write_small(tmp_path / "whole.gif", played)
    size = (tmp_path / "whole.gif").stat().st_size
    for limit in (size // 2, 6000):
        monkeypatch.setattr(comparison_films, "LARGEST", limit)
        comparison_films.write_small(tmp_path / "small.gif", played)
        assert (tmp_path / "small.gif").stat().st_size <= limit


@pytest.mark.parametrize("spec", [AgentSpec("random"), AgentSpec("policy", settings={"temperature": 1.0})])
def test_lanes_play_the_episodes_that_are_played_one_by_one(checkpoint, tmp_path, spec, monkeypatch):
    player, seeds = Player(checkpoint), list(range(3, 15))
    monkeypatch.setattr(play, "LANES", 8)
    condition = Condition(LEVEL, spec, imagined=True)
    ledger = Ledger(tmp_path, "fidelity")
    with progress("", total=12) as bar:
        player.play(condition, seeds, ledger, bar)
    with player.environment(condition) as env:
        agent = player.agent(condition, env)
        for seed in seeds:
            alone, lane = run_episode(agent, env, seed), ledger.values(player.unit(condition, seed))
            same = ("success", "length", "decisions", "episode_return", "forward_passes", "error")
            assert {name: lane[name] for name in same} == {name: getattr(alone, name) for name in same}
    assert len({play.episodes(player, condition, seeds, ledger)[lane]["length"] for lane in range(12)}) > 1


def test_lanes_that_fail_are_played_one_by_one(checkpoint, tmp_path, monkeypatch):
    player, seeds = Player(checkpoint), [3, 4, 5]
    condition, ledger = Condition(LEVEL, AgentSpec("random"), imagined=True), Ledger(tmp_path, "fidelity")

    def broken(*arguments):
        yield from itertools.islice(run_lanes(*arguments), 1)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(play, "run_lanes", broken)
    with progress("", total=3) as bar:
        player.play(condition, seeds, ledger, bar)
    assert not ledger.holes(player.unit(condition, seed) for seed in seeds)


def test_an_agent_that_raises_in_one_of_many_lanes_loses_that_episode_alone(checkpoint, tmp_path, monkeypatch):
    act, seeds = RandomAgent.act, [3, 4, 5]

    def raises(self, observation):
        if self.seed == 4:
            raise ValueError("broken wheel")
        return act(self, observation)

    reset = RandomAgent.reset
    monkeypatch.setattr(RandomAgent, "act", raises)
    monkeypatch.setattr(RandomAgent, "reset", lambda self, seed=None: setattr(self, "seed", seed) or reset(self, seed))
    player, ledger = Player(checkpoint), Ledger(tmp_path, "fidelity")
    condition = Condition(LEVEL, AgentSpec("random"), imagined=True)
    with progress("", total=3) as bar:
        player.play(condition, seeds, ledger, bar)
    errors = [item["error"] for item in play.episodes(player, condition, seeds, ledger)]
    assert errors == [None, "ValueError: broken wheel", None]


def test_imagination_draws_what_was_never_seen(checkpoint):
    player = Player(checkpoint)
    drawn, likeliest = (Condition(LEVEL, AgentSpec("random"), imagined=True, temperature=t) for t in (1.0, 0.0))
    assert player.unit(drawn, 0) != player.unit(likeliest, 0)
    for condition in (drawn, likeliest):
        with player.environment(condition) as env:
            assert env.unwrapped.temperature == condition.temperature
    assert next(pairs(FidelityPlan()))[1].temperature == 1.0


def test_levels_that_the_model_was_trained_on_are_not_measured_on(checkpoint, tmp_path):
    player = Player(checkpoint, tmp_path)
    assert player.fresh_data(LEVEL, 0).is_dir()
    player.model.facts["train_seeds"] = {LEVEL: [[5, 900]]}
    with pytest.raises(UserError, match="trained on"):
        player.fresh_data(LEVEL, 0)
