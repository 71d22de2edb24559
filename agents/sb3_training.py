"""Training a Stable-Baselines3 policy in imagination, in the real level or by Dyna, in rounds that can be resumed.

A round ends after ``every`` steps: the policy is measured in the real level and everything is saved. The next one
begins new episodes and takes its randomness from (seed, step) alone, so that a resumed run goes on exactly as the
uninterrupted one did.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv

from wmtoolkit.agents.cloning import clone, lessons
from wmtoolkit.agents.dyna import Dyna, DynaPlan
from wmtoolkit.agents.policy_plan import CONFIG, PolicyTraining, check_overwritten
from wmtoolkit.agents.sb3_algorithms import make_learner
from wmtoolkit.agents.sb3_checkpoints import load_training, save_training, step_folders
from wmtoolkit.agents.sb3_evaluation import RealEvaluation
from wmtoolkit.agents.sb3_files import save_policy
from wmtoolkit.agents.sb3_metrics import Metrics
from wmtoolkit.agents.sb3_randomness import level_seed, own_randomness, seed_everything
from wmtoolkit.envs.imagination_vector import ImaginationVectorEnv
from wmtoolkit.envs.sb3 import make_sb3_vec_env
from wmtoolkit.envs.starts import LOOKS
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.intervals import wilson
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.progress import Bar, progress
from wmtoolkit.world.checkpoint import checkpoint_hash
from wmtoolkit.world.model import AnyOrderWorldModel


def train_policy(
    plan: PolicyTraining, out: Path, *, resume: bool = False, overwrite: bool = False, write_zip: bool = False
) -> dict[str, Any]:
    """Train a policy into a run folder.

    The folder holds ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``results.json`` and
    ``policy/``, the newest policy, for ``make_agent("sb3:...")``.

    Args:
        plan: what is trained.
        out: the run folder.
        resume: go on from the newest checkpoint in ``out``.
        overwrite: remove the run in ``out`` once everything is made that the new one needs; not if it is resumed.
        write_zip: write SB3's own ``policy.zip`` too, at the end.

    Returns:
        The document of ``results.json``, with a summary in ``text``.

    Raises:
        UserError: an unknown level or a broken checkpoint; a run that was begun with another model; ``out`` holds
            something that is not a run and is not overwritten.
        KeyboardInterrupt: saying what is saved.
    """
    model, identity = (None, None) if plan.mode == "real" and not plan.clone else _world_model(plan.checkpoint)
    if overwrite and not resume:
        check_overwritten(out, None if model is None else model.path)
    found = step_folders(out / "checkpoints") if resume else []
    with own_randomness(plan.seed), closing(RealEvaluation(plan.level, plan.episodes, **_limit(plan))) as measure:
        run = _Run(plan, out, model, identity, measure, found[-1] if found else None, overwrite and not resume)
        try:
            run.learn()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted at step {run.learner.num_timesteps} of {plan.steps}; "
                f"{'nothing' if run.saved < 0 else f'step {run.saved}'} is saved, "
                f"{'begin anew' if run.saved < 0 else 'go on'} with: wmtool train-policy --resume --out {out}"
            ) from None
        finally:
            run.metrics.close()
        if write_zip:
            run.learner.save(out / "policy.zip", exclude=["env", "logger"])
        document = run.document()
    write_json(out / "results.json", document)
    return {**document, "text": _summary(plan, out, document)}


class _Run:
    """A training under way.

    Attributes:
        saved: step of the newest checkpoint; -1 if there is none.
        counts: real and imagined episodes and steps so far, and seconds.
    """

    def __init__(
        self,
        plan: PolicyTraining,
        out: Path,
        model: AnyOrderWorldModel | None,
        identity: dict[str, Any] | None,
        measure: RealEvaluation,
        checkpoint: Path | None,
        overwrite: bool,
    ) -> None:
        self.plan, self.out, self.identity, self._measure = plan, out, identity, measure
        self.counts: dict[str, Any] = dict.fromkeys(("real_episodes", "real_steps", "real_resets"), 0)
        self.counts |= {"imagined_episodes": 0, "imagined_steps": 0, "seconds": 0.0}
        self.saved, self._began = -1, time.perf_counter()
        self._env = _training_env(plan, model)
        self.learner: Any = make_learner(plan.algo, self._env, plan.settings, plan.seed)
        if checkpoint is not None:
            numbers = load_training(checkpoint, self.learner)
            _same_model(checkpoint, numbers["world_model"], identity)
            self.counts, self.saved = numbers["counts"], self.learner.num_timesteps
            self._began -= self.counts["seconds"]
        if overwrite and out.exists():
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        self._dyna = None
        if plan.mode == "dyna" and model is not None:
            options: Any = {"seed": plan.seed, "max_steps": plan.max_steps, "step": self.saved}
            self._dyna = Dyna(DynaPlan(**plan.dyna), plan.level, out / "dyna", model, **options)
        write_json(out / CONFIG, asdict(plan))
        self.metrics = Metrics(out, max(self.saved, 0) if checkpoint else -1)
        self.learner.set_logger(Logger(None, [self.metrics]))
        if checkpoint is None and plan.clone and model is not None:
            self._clone(model)

    def learn(self) -> None:
        """Learn to the last step, with a round at the end of which everything is saved."""
        learner, plan = self.learner, self.plan
        left = plan.steps - learner.num_timesteps
        if left > 0:
            with progress("train-policy", total=plan.steps, done=learner.num_timesteps) as bar:
                learner._last_obs = ()  # not None: SB3 need not reset, for each round begins with a reset of its own
                learner.learn(left, callback=_Rounds(self, bar), log_interval=1, reset_num_timesteps=False)
        if self.saved < learner.num_timesteps:
            self.end_round(last=True)

    def end_round(self, last: bool = False) -> None:
        """Measure the policy in the real level, let Dyna play and learn if another round follows, save everything."""
        step, rng = self.learner.num_timesteps, np.random.default_rng([self.plan.seed, self.learner.num_timesteps])
        success, length = self._measure(self.learner.policy)
        line = {"success_rate": float(success.mean()), "mean_episode_length": float(length.mean())}
        if self.plan.algo != "dqn":
            success, length = self._measure(self.learner.policy, rng)
            line |= {"sampled_success_rate": float(success.mean()), "sampled_mean_episode_length": float(length.mean())}
        if self._dyna is not None:
            if not last:
                self._dyna.advance(step, self.learner.policy)
            known = self._dyna.counts()
            self.counts["real_resets"] += known["real_episodes"] - self.counts["real_episodes"]
            self.counts |= known
        self.counts["seconds"] = time.perf_counter() - self._began
        self.metrics.add(step, {**line, **self.counts})
        facts = {"level": self.plan.level, "mode": self.plan.mode, "steps": step, "world_model": self.identity}
        save_policy(self.learner.policy, self.out / "policy", self.plan.algo, self.plan.settings, {**facts, **line})
        save_training(
            self.out / "checkpoints", self.learner, {"counts": self.counts, "world_model": self.identity, "last": line}
        )
        self.saved = step

    @property
    def ended(self) -> bool:
        """Whether the newest checkpoint is of a run that was at its end, so that Dyna did not play and learn there."""
        return self._dyna is not None and self._dyna.began < self.saved

    def begin_round(self) -> None:
        """New episodes and new random streams, which follow from the seed and the step alone."""
        learner, seed = self.learner, level_seed(self.plan.seed, self.learner.num_timesteps)
        seed_everything(seed)
        if self._dyna is not None:
            learner.env.venv = self._dyna.imagination(learner.n_envs, self.plan.temperature)
        learner.action_space.seed(seed)
        learner.env.seed(seed)
        learner._last_obs = learner.env.reset()
        learner._last_episode_starts = np.ones(learner.n_envs, bool)
        learner.ep_info_buffer.clear()
        if self.plan.mode != "dyna":
            self._count_resets(learner.n_envs)

    def count(self, dones: np.ndarray) -> None:
        """Count one step of every lane."""
        kind = "real" if self.plan.mode == "real" else "imagined"
        self.counts[f"{kind}_steps"] += len(dones)
        self.counts[f"{kind}_episodes"] += int(dones.sum())
        if self.plan.mode != "dyna":
            self._count_resets(int(dones.sum()))

    def _count_resets(self, number: int) -> None:
        """Count resets of the real level, and the real steps of the looks around that begin imagined episodes."""
        self.counts["real_resets"] += number
        self.counts["real_steps"] += LOOKS * number * (self.plan.start == "look_around")

    def document(self) -> dict[str, Any]:
        """``results.json``: the last measurement, with what it took, and the curve."""
        measured = {line["step"]: line for line in self.metrics.lines() if "success_rate" in line}
        curve = list(measured.values())  # of a step that was the end and is no more, the newer one
        last, count = curve[-1], self.plan.episodes
        metrics: dict[str, Any] = {}
        for name in ("success_rate", "sampled_success_rate"):
            if name in last:
                low, high = wilson(round(last[name] * count), count)
                metrics[name] = {"value": last[name], "ci95": [low, high], "n": count}
        metrics["mean_episode_length"] = {"value": last["mean_episode_length"], "ci95": None, "n": count}
        for name, value in self.counts.items():
            metrics[name] = {"value": value, "ci95": None, "n": 1}
        return results_document(
            "train-policy", asdict(self.plan), metrics, curve, seed=self.plan.seed, checkpoint=self.identity
        )

    def _clone(self, model: AnyOrderWorldModel) -> None:
        plan, seed = self.plan, level_seed(self.plan.seed, -1)
        options: dict[str, Any] = {"temperature": plan.temperature, "start": plan.start, **_limit(plan)}
        env = ImaginationVectorEnv(plan.num_envs, plan.level, model, **options)
        taught = lessons(env, plan.clone, seed)
        history = clone(self.learner.policy, taught, seed)
        self.metrics.add(0, {"clone/cross_entropy": history[-1], "clone/first_cross_entropy": history[0]})
        self.counts["imagined_steps"] += taught.starts.size
        self.counts["imagined_episodes"] += taught.episodes
        self._count_resets(plan.num_envs + taught.episodes)


class _Rounds(BaseCallback):
    """Ends a round and begins the next where SB3 begins to collect, ``every`` steps after the last."""

    def __init__(self, run: _Run, bar: Bar) -> None:
        super().__init__()
        self._run, self._bar, self._resumed = run, bar, run.saved >= 0

    def _on_rollout_start(self) -> None:
        run, resumed = self._run, self._resumed
        self._resumed = False
        if resumed:
            due = run.ended
        elif run.saved >= 0 and self.num_timesteps < run.saved + run.plan.every:
            return
        else:
            due = True
        if due:
            run.end_round()
        run.begin_round()

    def _on_step(self) -> bool:
        dones = np.asarray(self.locals["dones"])
        self._run.count(dones)
        rewards = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self._bar.advance(len(dones), info=f"return {np.mean(rewards):.3f}" if rewards else None)
        return True


def cost(plan: PolicyTraining, resumed: Path | None = None) -> dict[str, Any]:
    """The resolved plan, and the hours it would take, going by some steps of it with untrained weights; those that are
    left behind the newest checkpoint in the folder of a ``resumed`` run."""
    found = step_folders(resumed / "checkpoints") if resumed else []
    left = plan.steps - int(found[-1].name.removeprefix("step-")) if found else plan.steps + plan.clone
    model = None if plan.mode == "real" else _world_model(plan.checkpoint)[0]
    settings = {**plan.settings, **({"learning_starts": 0} if "learning_starts" in plan.settings else {})}
    with own_randomness(plan.seed):
        learner = make_learner(plan.algo, _training_env(plan, model), settings, plan.seed)
        learner.set_logger(Logger(None, []))
        began = time.perf_counter()
        learner.learn(min(plan.steps, 512))
        seconds = (time.perf_counter() - began) / learner.num_timesteps
    hours = seconds * max(left, 0) / 3600
    weights = sum(value.numel() for value in learner.policy.parameters())
    text = json.dumps(asdict(plan), indent=2)
    text += f"\n{weights:,} parameters, {1 / seconds:,.0f} steps/s, about {hours:.2f} hours here, measurements aside"
    text += ", and so are Dyna's real episodes and its training of the world model" if plan.mode == "dyna" else ""
    return {"config": asdict(plan), "parameters": weights, "expected_hours": hours, "text": text}


def _training_env(plan: PolicyTraining, model: AnyOrderWorldModel | None) -> VecEnv:
    options: dict[str, Any] = dict(_limit(plan))
    if model is not None and plan.mode != "real":
        options |= {"temperature": plan.temperature, "checkpoint": model, "start": plan.start}
    return make_sb3_vec_env(plan.level, plan.num_envs, imagined=plan.mode != "real", **options)


def _limit(plan: PolicyTraining) -> dict[str, Any]:
    return {} if plan.max_steps is None else {"max_steps": plan.max_steps}


def _world_model(checkpoint: str | None) -> tuple[AnyOrderWorldModel, dict[str, Any]]:
    """A world model and what identifies it."""
    model = AnyOrderWorldModel.from_pretrained(checkpoint)
    assert model.path is not None
    return model, {"path": checkpoint or "packaged", "sha256": checkpoint_hash(model.path)}


def _same_model(where: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> None:
    if (before or {}).get("sha256") != (now or {}).get("sha256"):
        raise UserError(f"{where}: the world model has changed since the run began; start a new run in another --out")


def _summary(plan: PolicyTraining, out: Path, document: Mapping[str, Any]) -> str:
    metrics, lines = document["metrics"], [f"{plan.algo} of {plan.level}, {plan.mode}, {plan.steps:,} steps"]
    for name, what in (("success_rate", "likeliest actions"), ("sampled_success_rate", "drawn actions")):
        if name in metrics:
            low, high = metrics[name]["ci95"]
            lines.append(f"  success  {metrics[name]['value']:.1%}  ({low:.1%} to {high:.1%}), {what}, real level")
    counted = ("real_episodes", "real_resets", "real_steps", "imagined_episodes")
    lines.append("  took     " + ", ".join(f"{metrics[name]['value']:,} {name.replace('_', ' ')}" for name in counted))
    lines.append(f"wrote {out / 'policy'}; play it with: wmtool rollout --agent sb3:{out} --level {plan.level}")
    return "\n".join(lines)
