"""Policies trained by Stable-Baselines3: learned, measured, saved without pickles, resumed exactly."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from wmtoolkit.errors import UserError

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

from wmtoolkit.agents import make_agent
from wmtoolkit.agents.cloning import clone, lessons
from wmtoolkit.agents.policy_plan import PolicyTraining, prepare
from wmtoolkit.agents.sb3_agent import SB3Agent
from wmtoolkit.agents.sb3_algorithms import ALGORITHMS, choose, make_policy, resolved
from wmtoolkit.agents.sb3_evaluation import FIRST_SEED, RealEvaluation
from wmtoolkit.agents.sb3_files import ACTIONS, load_policy, save_policy
from wmtoolkit.agents.sb3_training import _Run, cost, train_policy
from wmtoolkit.envs import ImaginationVectorEnv, starts
from wmtoolkit.envs.missions import action_masks, token_space
from wmtoolkit.envs.sb3 import make_sb3_vec_env

LEVEL, SHORT = "BabyAI-GoToLocal-v0", "BabyAI-GoToObjS4-v0"
SMALL = {"channels": 4, "features_dim": 16, "hidden_size": 8, "batch_size": 16}
ON_POLICY = {**SMALL, "n_steps": 8, "n_epochs": 2}
SETTINGS = {
    "ppo": ON_POLICY,
    "recurrent-ppo": {**ON_POLICY, "lstm_hidden_size": 8},
    "maskable-ppo": ON_POLICY,
    "dqn": {**SMALL, "buffer_size": 48, "learning_starts": 16, "target_update_interval": 24},
}


def plan(algo="ppo", **changes):
    given = {"level": LEVEL, "steps": 64, "num_envs": 4, "every": 32, "episodes": 4, "max_steps": 6}
    return PolicyTraining(algo, settings=SETTINGS[algo], **{**given, **changes})


def policy_of(algo, seed=0):
    torch.manual_seed(seed)
    return make_policy(algo, ALGORITHMS[algo].settings | SETTINGS[algo], token_space(), ACTIONS)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_run_learns_measures_and_resumes_exactly(algo, checkpoint, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    document = train_policy(plan(algo, checkpoint=str(checkpoint)), whole)
    curve = document["rows"]
    assert [row["step"] for row in curve] == [0, 32, 64]
    assert all(0 <= row["success_rate"] <= 1 and 1 <= row["mean_episode_length"] <= 6 for row in curve)
    assert document["metrics"]["imagined_steps"]["value"] == 64
    assert document["metrics"]["real_episodes"]["value"] == 0
    assert document["metrics"]["real_resets"]["value"] >= 12
    assert document["checkpoint"]["sha256"]
    assert list((whole / "tensorboard").iterdir())
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "step-000000064")  # as if killed in the last round
    shutil.rmtree(cut / "policy")
    resumed = train_policy(prepare(cut, {}, resume=True), cut, resume=True)
    for one, other in zip(curve, resumed["rows"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    before = load_file(whole / "checkpoints" / "step-000000032" / "state.safetensors")
    first, second = (load_file(run / "checkpoints" / "step-000000064" / "state.safetensors") for run in (whole, cut))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], before[name]) for name in first if name.startswith("policy."))


def test_a_real_run_counts_its_episodes(tmp_path):
    document = train_policy(plan(mode="real", max_steps=4), tmp_path / "run")
    counts = {name: entry["value"] for name, entry in document["metrics"].items()}
    assert document["checkpoint"] is None
    assert counts["real_steps"] == 64
    # Two rounds of 8 steps in 4 lanes: at least two episodes of at most 4 steps a lane and round.
    assert counts["real_episodes"] >= 16
    assert counts["imagined_episodes"] == 0
    assert load_policy(tmp_path / "run")[1]["mode"] == "real"


def test_the_callers_random_streams_are_left_alone(tmp_path):
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    expected = random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    train_policy(plan(mode="real", steps=32), tmp_path / "run")
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == expected  # noqa: NPY002


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_a_policy_is_saved_whole_and_acts_as_before(algo, tmp_path):
    policy = policy_of(algo)
    save_policy(policy, tmp_path / "policy", algo, SETTINGS[algo], {"level": LEVEL})
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == ["policy.json", "policy.safetensors"]
    loaded, document = load_policy(tmp_path)  # the run's folder will do
    assert (document["algo"], document["level"]) == (algo, LEVEL)
    rng = np.random.default_rng(0)
    state = other_state = None
    for start in (True, False):
        seen = {
            "direction": rng.integers(0, 4, 5),
            "image": rng.integers(0, 3, (5, 147)).astype(np.uint8),
            "mission": np.tile(np.arange(51, dtype=np.uint8) % 5, (5, 1)),
        }
        actions, shares, state = choose(policy, seen, state, np.full(5, start))
        again, other, other_state = choose(loaded, seen, other_state, np.full(5, start))
        np.testing.assert_array_equal(shares, other)
        np.testing.assert_array_equal(actions, again)
    if algo == "maskable-ppo":
        assert (shares[:, 6] < 1e-6).all()


def test_the_measurement_is_that_of_episodes_played_one_by_one():
    from wmtoolkit.benchmarks.rollouts import run_episodes

    policy = policy_of("recurrent-ppo", seed=3)
    success, length = RealEvaluation(SHORT, 6)(policy)
    played = run_episodes(lambda env: SB3Agent(policy), SHORT, range(FIRST_SEED, FIRST_SEED + 6))
    assert [episode.success for episode in played] == success.tolist()
    assert [episode.length for episode in played] == length.tolist()


def test_a_saved_agent_draws_by_its_seed(tmp_path):
    save_policy(policy_of("ppo"), tmp_path / "policy", "ppo", SETTINGS["ppo"])
    agent = make_agent(f"sb3:{tmp_path}", sampled=True)
    observation = {"image": np.zeros((7, 7, 3), np.uint8), "direction": 1, "mission": "go to the red ball"}

    def actions(seed):
        agent.reset(seed)
        return [agent.act(observation) for _ in range(30)]

    assert actions(1) == actions(1)
    assert len(set(actions(1))) > 1
    assert actions(1) != actions(2)
    assert agent.diagnostics["probabilities"].sum() == pytest.approx(1)
    with pytest.raises(UserError, match="no option 'temperature'"):
        make_agent(f"sb3:{tmp_path}", temperature=1)


@pytest.mark.parametrize("algo", ["ppo", "recurrent-ppo", "maskable-ppo"])
def test_a_policy_learns_to_act_as_the_world_model_would(algo, world_model):
    env = ImaginationVectorEnv(8, LEVEL, world_model, temperature=1.0, max_steps=16)
    taught = lessons(env, 128, seed=0)
    assert taught.shares.shape == (16, 8, 7)
    assert taught.starts[0].all()
    policy = policy_of(algo)
    history = clone(policy, taught, seed=0)
    floor = -(taught.shares * np.log(np.maximum(taught.shares, 1e-12))).sum(-1).mean()
    assert floor < history[-1] < history[0]
    flat = {key: values.swapaxes(0, 1).reshape(128, *values.shape[2:]) for key, values in taught.observations.items()}
    if algo != "recurrent-ppo":
        shares = choose(policy, flat, None, np.zeros(128, bool))[1].reshape(8, 16, 7).swapaxes(0, 1)
        even = np.abs(taught.shares - 1 / 7).sum(-1).mean()
        assert np.abs(taught.shares - shares).sum(-1).mean() < even


def test_a_zip_runs_code_and_is_refused_without_trust(tmp_path):
    run = tmp_path / "run"
    train_policy(plan(mode="real", steps=32), run, write_zip=True)
    name = f"sb3:{run / 'policy.zip'}"
    with pytest.raises(UserError, match="runs code in it; if you made it, add --trust"):
        make_agent(name)
    trusted, saved = make_agent(name, trust=True), make_agent(f"sb3:{run}")
    observation = {"image": np.ones((7, 7, 3), np.uint8), "direction": 0, "mission": "go to the red ball"}
    for agent in (trusted, saved):
        agent.reset(0)
        agent.act(observation)
    np.testing.assert_allclose(trusted.diagnostics["probabilities"], saved.diagnostics["probabilities"], atol=1e-6)
    (tmp_path / "other.zip").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as a PPO model"):
        make_agent(f"sb3:{tmp_path / 'other.zip'}", trust=True)


def test_a_damaged_or_foreign_policy_is_told_in_one_line(tmp_path):
    path = tmp_path / "policy"
    with pytest.raises(UserError, match="no policy folder"):
        make_agent(f"sb3:{path}")
    save_policy(policy_of("ppo"), path, "ppo", SETTINGS["ppo"])
    document = json.loads((path / "policy.json").read_text())

    def changed(**changes):
        (path / "policy.json").write_text(json.dumps({**document, **changes}))
        with pytest.raises(UserError) as error:
            make_agent(f"sb3:{path}")
        return str(error.value)

    spaces = {**document["spaces"], "observation image": "Box(0, 10, (75,), uint8)"}
    assert "other spaces: observation image is Box(0, 10, (75,), uint8) there" in changed(spaces=spaces)
    assert "other spaces: actions is Discrete(4) there" in changed(
        spaces={**document["spaces"], "actions": "Discrete(4)"}
    )
    assert "version" in changed(format=2)
    assert "unknown algorithm 'a2c'; known are ppo" in changed(algo="a2c")
    assert "is (" in changed(network={**document["network"], "channels": 8})
    assert "cannot be read" in changed(network=3)
    (path / "policy.json").write_text(json.dumps(document))
    tensors = load_file(path / "policy.safetensors")
    name = tensors.popitem()[0]
    save_file(tensors, path / "policy.safetensors")
    with pytest.raises(UserError, match=f"{name} is missing"):
        make_agent(f"sb3:{path}")
    (path / "policy.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match=r"policy\.safetensors cannot be read"):
        make_agent(f"sb3:{path}")


def test_mistakes_in_a_plan_are_named():
    with pytest.raises(UserError, match=r"unknown algorithm 'poo'.*did you mean 'ppo'"):
        PolicyTraining("poo")
    with pytest.raises(UserError, match="ppo has no setting 'lr'; its settings: learning_rate"):
        resolved("ppo", {"lr": 1})
    with pytest.raises(UserError, match=r"n_steps is 2\.5; it must be a whole number"):
        resolved("ppo", {"n_steps": 2.5})
    with pytest.raises(UserError, match="steps is 0"):
        plan(steps=0)
    with pytest.raises(UserError, match="nothing to clone into"):
        plan("dqn", clone=100)
    for name, wrong in (("clone", -5), ("temperature", -1.0), ("seed", -1), ("max_steps", 0)):
        with pytest.raises(UserError, match=f"{name} is {wrong}; it must be at least"):
            plan(**{name: wrong})
    for algo, name in (("ppo", "gamma"), ("ppo", "gae_lambda"), ("dqn", "exploration_final_eps")):
        with pytest.raises(UserError, match=f"{name} is 7; it must be at most 1"):
            resolved(algo, {name: 7})
    with pytest.raises(UserError, match="gamma is nan"):
        resolved("ppo", {"gamma": float("nan")})
    with pytest.raises(UserError, match="clip_range is inf"):
        resolved("ppo", {"clip_range": float("inf")})
    last_of_one = {"num_envs": 1, "settings": {"n_steps": 17, "batch_size": 16}}
    for algo in ("maskable-ppo", "recurrent-ppo"):
        with pytest.raises(UserError, match="of 17 steps it leaves a last batch of one"):
            PolicyTraining(algo=algo, **last_of_one)
    PolicyTraining(algo="ppo", **last_of_one)  # SB3's own does not normalise there
    for algo in ("ppo", "recurrent-ppo", "maskable-ppo"):
        with pytest.raises(UserError, match="batch_size is 1; it must be at least 2"):
            PolicyTraining(algo, settings={"batch_size": 1})
        with pytest.raises(UserError, match="n_steps is 1 in a single lane"):
            PolicyTraining(algo, num_envs=1, settings={"n_steps": 1})


def test_drawn_actions_of_dqn_explore():
    policy = policy_of("dqn")
    env = make_sb3_vec_env(LEVEL, 1)
    seen = {key: np.repeat(value, 4000, axis=0) for key, value in env.reset().items()}
    starts = np.zeros(4000, bool)
    best, shares, _ = choose(policy, seen, None, starts)
    assert len(set(best)) == 1
    assert shares[0].max() == 1
    drawn, shares, _ = choose(policy, seen, None, starts, np.random.default_rng(0))
    assert shares[0].sum() == pytest.approx(1)
    assert (drawn == best[0]).mean() == pytest.approx(0.95 + 0.05 / 7, abs=0.01)
    assert len(set(drawn)) == 7


def test_a_run_is_resumed_as_it_was_begun(checkpoint, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match="no policy training to resume"):
        prepare(run, {}, resume=True)
    begun = plan(checkpoint=str(checkpoint), steps=32)
    train_policy(begun, run)
    with pytest.raises(UserError, match="begun with algo 'ppo': it cannot go on with 'dqn'"):
        prepare(run, {"algo": "dqn"}, resume=True)
    with pytest.raises(UserError, match="begun with 32 steps: give more, not 16"):
        prepare(run, {"steps": 16}, resume=True)
    longer = prepare(run, {"steps": 64}, resume=True)
    assert longer == replace(begun, steps=64)
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest))  # the same model, written otherwise
    with pytest.raises(UserError, match="world model has changed"):
        train_policy(replace(longer, checkpoint=str(other)), run, resume=True)
    assert [row["step"] for row in train_policy(longer, run, resume=True)["rows"]] == [0, 32, 64]


def test_a_run_is_overwritten_only_by_one_that_can_begin(checkpoint, tmp_path):
    run = tmp_path / "run"
    train_policy(plan(mode="real", steps=32), run)
    shutil.copytree(checkpoint, run / "model")
    before = sorted(path for path in run.rglob("*"))
    for changes, said in (
        ({"level": "BabyAI-Typo-v0"}, "unknown level"),
        ({"checkpoint": str(tmp_path / "none")}, "none"),
        ({"checkpoint": str(run / "model")}, "holds the world model"),
    ):
        with pytest.raises(UserError, match=said):
            train_policy(plan(**changes), run, overwrite=True)
        assert sorted(path for path in run.rglob("*")) == before
    document = train_policy(plan(mode="real", steps=32, seed=1), run, overwrite=True)
    assert [row["step"] for row in document["rows"]] == [0, 32]
    assert not (run / "model").exists()


def test_an_interrupt_says_what_is_saved(tmp_path, monkeypatch):
    def interrupted(self, last=False):
        if self.learner.num_timesteps == at:
            raise KeyboardInterrupt
        end_round(self, last)

    end_round = _Run.end_round
    monkeypatch.setattr(_Run, "end_round", interrupted)
    for at, said in ((0, "step 0 of 64; nothing is saved, begin anew with"), (32, "32 of 64; step 0 is saved, go on")):
        with pytest.raises(KeyboardInterrupt, match=said):
            train_policy(plan(mode="real"), tmp_path / "run", resume=at > 0)


@pytest.mark.parametrize("mode", ["imagined", "real"])
def test_imagined_steps_of_cloning_are_counted(mode, checkpoint, tmp_path):
    """48 steps in 4 lanes, none longer than 6: each lane ends at least 2 episodes, and begins 3 or more."""
    plain, cloned = (
        train_policy(plan(mode=mode, checkpoint=str(checkpoint), steps=32, clone=steps), tmp_path / f"{steps}")
        for steps in (0, 48)
    )
    counts = [{name: entry["value"] for name, entry in one["metrics"].items()} for one in (plain, cloned)]
    imagined = 32 if mode == "imagined" else 0
    assert [one["imagined_steps"] for one in counts] == [imagined, imagined + 48]
    assert [one["real_steps"] for one in counts] == [32 - imagined] * 2
    first = cloned["rows"][0]
    assert first["imagined_steps"] == 48
    assert first["imagined_episodes"] >= 8
    assert first["real_resets"] == first["imagined_episodes"] + 4


def test_the_teacher_is_not_told_of_a_look_around(world_model):
    env = ImaginationVectorEnv(3, LEVEL, world_model, "look_around", temperature=1.0)
    taught = lessons(env, 6, seed=4)
    env = ImaginationVectorEnv(3, LEVEL, world_model, "look_around", temperature=1.0)
    env.reset(seed=4)
    views = env.trajectories
    assert [len(view) for view in views] == [0, 0, 0]
    told = world_model.rollout_state(views).policy()
    seen = env.save().state.policy()
    masked = np.where(action_masks(), told, 0)
    np.testing.assert_allclose(taught.shares[0], masked / masked.sum(axis=1, keepdims=True), atol=1e-6)
    assert not np.allclose(seen, told, atol=1e-4)


def test_looks_around_are_counted_as_real_steps(checkpoint, tmp_path, monkeypatch):
    looks, looked = [], starts._look_around
    monkeypatch.setattr(starts, "_look_around", lambda *given: looks.append(1) or looked(*given))
    given = {"checkpoint": str(checkpoint), "start": "look_around", "clone": 48, "steps": 32}
    document = train_policy(plan(**given), tmp_path / "run")
    for row in document["rows"]:
        assert row["real_steps"] == 4 * row["real_resets"] > 0
    assert document["metrics"]["real_resets"]["value"] == len(looks)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    del stored["start"]  # as of a run from before there were any
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    assert prepare(tmp_path / "run", {"start": "level"}, resume=True).start == "level"
    for wrong in ({"start": "look_around", "mode": "real"}, {"start": "branch"}):
        with pytest.raises(UserError, match="start"):
            plan(**wrong)


def test_the_cost_of_dqn_is_that_of_learning(monkeypatch):
    updates = []
    monkeypatch.setattr(
        ALGORITHMS["dqn"].cls, "train", lambda self, gradient_steps, **_: updates.append(gradient_steps)
    )
    cost(PolicyTraining("dqn", level=LEVEL, mode="real", num_envs=4, settings=SMALL))
    assert sum(updates) >= 2 * 512 // 4 - 2


def test_the_cost_is_measured_beforehand(checkpoint):
    document = cost(plan(checkpoint=str(checkpoint), steps=64))
    assert document["expected_hours"] > 0
    assert document["parameters"] == sum(value.numel() for value in policy_of("ppo").parameters())


def test_without_stable_baselines_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from wmtoolkit.cli.main import main\n"
        "main(['train-policy', '--out', 'nowhere'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "wmtool: Stable-Baselines3 is not installed: pip install 'wmtoolkit[sb3]'"
