"""Dyna end to end, tiny: real episodes are counted, the model learns from them, the policy from imagination."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.data import load_trajectories
from wmtoolkit.errors import UserError

pytest.importorskip("stable_baselines3")

from wmtoolkit.agents.dyna import Dyna, DynaPlan, model_training
from wmtoolkit.agents.policy_plan import PolicyTraining, make_plan, prepare
from wmtoolkit.agents.sb3_algorithms import ALGORITHMS, make_policy
from wmtoolkit.agents.sb3_files import ACTIONS
from wmtoolkit.agents.sb3_training import train_policy
from wmtoolkit.envs.missions import token_space

LEVEL = "BabyAI-GoToLocal-v0"
SETTINGS = {"n_steps": 8, "batch_size": 16, "n_epochs": 1, "channels": 4, "features_dim": 16, "hidden_size": 8}
DYNA = {"real_episodes": 8, "model_steps": 2, "batch_size": 4, "horizon": 3, "outcome_confidence": 0.3}


def test_dyna_plays_learns_and_imagines_and_resumes_exactly(checkpoint, tmp_path):
    plan = PolicyTraining(
        level=LEVEL, mode="dyna", checkpoint=str(checkpoint), steps=64, num_envs=4, every=32, episodes=4, max_steps=6,
        settings=SETTINGS, dyna=DYNA,
    )  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    document = train_policy(plan, whole)
    counts = {name: entry["value"] for name, entry in document["metrics"].items()}
    rounds = sorted((whole / "dyna").iterdir())
    assert [path.name for path in rounds] == ["round-000000000", "round-000000032"]  # none after the last step
    episodes = [load_trajectories(path / "data") for path in rounds]
    assert counts["real_episodes"] == 16 == sum(map(len, episodes))
    assert counts["real_steps"] == sum(len(episode) for part in episodes for episode in part)
    assert counts["imagined_steps"] == 64
    assert counts["imagined_episodes"] >= 4 * 64 // (4 * 3) - 8  # no imagined episode is longer than the horizon
    assert {episode.behaviour for part in episodes for episode in part} == {"agent"}
    seeds = {episode.seed for part in episodes for episode in part}
    assert len(seeds) == 16
    assert min(seeds) >= 2**31  # never a level of the measurements
    start, first, second = (
        AnyOrderWorldModel.from_pretrained(path).network.state_dict()
        for path in (checkpoint, *(path / "model" / "checkpoint" for path in rounds))
    )
    assert any(not torch.equal(start[name], first[name]) for name in start)
    assert any(not torch.equal(first[name], second[name]) for name in start)

    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-000000064")
    shutil.copytree(cut / "dyna" / "round-000000000", cut / "dyna" / "round-000000099")  # of a round that was killed
    again = train_policy(prepare(cut, {}, resume=True), cut, resume=True)
    assert [{**row, "seconds": 0} for row in again["rows"]] == [{**row, "seconds": 0} for row in document["rows"]]
    one, other = (load_file(run / "policy" / "policy.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(path.name for path in (cut / "dyna").iterdir()) == [path.name for path in rounds]
    assert json.loads((cut / "policy" / "policy.json").read_text())["mode"] == "dyna"


def test_a_finished_run_that_is_given_more_steps_is_that_of_so_many_steps(checkpoint, tmp_path):
    """The round that the last step of the shorter run left out is made up for; cloning's resets stay counted."""

    def plan(steps):
        return PolicyTraining(
            level=LEVEL, mode="dyna", checkpoint=str(checkpoint), steps=steps, num_envs=4, every=32, episodes=4,
            max_steps=6, clone=32, settings=SETTINGS, dyna={**DYNA, "real_episodes": 5, "model_steps": 0},
        )  # fmt: skip

    whole, longer = tmp_path / "whole", tmp_path / "longer"
    document = train_policy(plan(64), whole)
    first = train_policy(plan(32), longer)
    assert [row["real_episodes"] for row in first["rows"]] == [5, 5]
    again = train_policy(prepare(longer, {"steps": 64}, resume=True), longer, resume=True)
    assert [row["real_episodes"] for row in again["rows"]] == [5, 10, 10]
    assert [{**row, "seconds": 0} for row in again["rows"]] == [{**row, "seconds": 0} for row in document["rows"]]
    one, other = (load_file(run / "policy" / "policy.safetensors") for run in (whole, longer))
    assert all(torch.equal(one[name], other[name]) for name in one)
    clone = again["rows"][0]["real_resets"] - 5
    assert clone >= 4
    assert again["metrics"]["real_resets"]["value"] == clone + 10


def test_imagination_ends_and_rewards_by_the_runs_own_limit(checkpoint, tmp_path):
    plan, model = DynaPlan(real_episodes=4, model_steps=0), AnyOrderWorldModel.from_pretrained(checkpoint)
    dyna = Dyna(plan, LEVEL, tmp_path, model, seed=0, max_steps=5)
    policy = make_policy("ppo", ALGORITHMS["ppo"].settings | SETTINGS, token_space(), ACTIONS)
    dyna.advance(0, policy)
    assert (dyna.began, dyna.counts()["real_episodes"]) == (0, 4)
    lanes = dyna.imagination(3, 1.0)
    lanes.reset()
    assert lanes.env.unwrapped._limits.tolist() == [5, 5, 5]


def test_nothing_known_but_the_real_episodes_means_nothing():
    with pytest.raises(UserError, match=r"scratch=true needs .* model_steps must be at least 1"):
        make_plan({"mode": "dyna"}, ["scratch=true", "model_steps=0"])
    with pytest.raises(UserError, match="with scratch=true nothing is known: leave out one"):
        make_plan({"mode": "dyna", "clone": 100}, ["scratch=true"])


def test_the_models_own_architecture_is_trained_on(world_model):
    config = model_training(world_model, DynaPlan(rate=0.5, model_steps=7), seed=3)
    assert config.model.hidden_size == world_model.network.llada2.config.hidden_size
    assert config.world == world_model.network.world
    assert (config.training.steps, config.training.seed) == (7, 3)
    assert config.training.muon_learning_rate == pytest.approx(0.01)


def test_dynas_settings_are_told_from_the_algorithms():
    plan = make_plan({"mode": "dyna"}, ["horizon=4", "batch_size=64", "scratch=true"])
    assert (plan.dyna["horizon"], plan.dyna["scratch"], plan.settings["batch_size"]) == (4, True, 64)
    with pytest.raises(UserError, match="needs --dyna"):
        make_plan({}, ["horizon=4"])
    with pytest.raises(UserError, match="horizon is 0"):
        make_plan({"mode": "dyna"}, ["horizon=0"])
    with pytest.raises(UserError, match=r"frame_log_prob is 5\.0; it must be at most 0"):
        make_plan({"mode": "dyna"}, ["frame_log_prob=5"])
    with pytest.raises(UserError, match="real_episodes is 'many'; it must be a whole number"):
        make_plan({"mode": "dyna"}, ["real_episodes=many"])
