"""Dyna: real episodes of the present policy, a better world model of them, and short imagined rollouts to learn from.

Sutton's loop (1991), with imagination that branches off real moments and stays short (Janner et al. 2019), and that is
cut where the model is unsure (``envs.pessimism``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wmtoolkit.agents.sb3_agent import SB3Agent
from wmtoolkit.agents.sb3_randomness import level_seed
from wmtoolkit.data import SplitRule, collect, load_trajectories, open_store
from wmtoolkit.envs.pessimism import Trust
from wmtoolkit.envs.sb3 import make_sb3_vec_env
from wmtoolkit.errors import UserError
from wmtoolkit.training.config import Config, LoggingConfig, ModelConfig
from wmtoolkit.training.loop import train
from wmtoolkit.world.model import AnyOrderWorldModel

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

SPLIT = SplitRule((0.8, 0.2, 0.0))
"""All real episodes count, those that only validate the world model too."""
_DONE = "done.json"


@dataclass(frozen=True)
class DynaPlan:
    """What a round of Dyna does before it imagines.

    Attributes:
        real_episodes: played by the present policy, whose actions are drawn.
        model_steps: of the world model's training on all real episodes so far; 0: the model stays as it is.
        batch_size: windows of each of these steps.
        rate: the world model's learning rates, as a share of those of a training from scratch.
        scratch: begin with random weights of the checkpoint's architecture: nothing is known but the real episodes.
        horizon: imagined steps behind a real moment.
        outcome_confidence, frame_log_prob, orders: see ``Trust``; frame_log_prob 0 takes any frame.
    """

    real_episodes: int = 100
    model_steps: int = 100
    batch_size: int = 16
    rate: float = 0.3
    scratch: bool = False
    horizon: int = 10
    outcome_confidence: float = 0.8
    frame_log_prob: float = 0.0
    orders: int = 1

    def __post_init__(self) -> None:
        for name, least in (("real_episodes", 1), ("model_steps", 0), ("batch_size", 1), ("horizon", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 < self.rate <= 1:
            raise UserError(f"rate is {self.rate}; it must be above 0 and at most 1")
        if not self.frame_log_prob <= 0:
            raise UserError(f"frame_log_prob is {self.frame_log_prob}; it must be at most 0: it is a log-probability")
        if self.scratch and not self.model_steps:
            raise UserError("scratch=true needs a world model that is trained: model_steps must be at least 1")
        self.trust()

    def trust(self) -> Trust:
        """What is believed of imagination."""
        least = self.frame_log_prob or -float("inf")
        return Trust(self.outcome_confidence, least, self.orders)


SETTINGS = tuple(entry.name for entry in fields(DynaPlan) if entry.name != "batch_size")
"""Settings by the names that users give; the batch size of the policy's algorithm has that name already."""


class Dyna:
    """What a run has really seen, and the world model it made of it, in one folder a round.

    Args:
        plan: what each round does.
        level: id of the level.
        folder: of the run.
        model: the first world model.
        seed: of the run.
        max_steps: limit of an episode; None: the level's own.
        step: rounds that began after this step are dropped, to be done again; -1: all of them.
    """

    def __init__(
        self,
        plan: DynaPlan,
        level: str,
        folder: Path,
        model: AnyOrderWorldModel,
        *,
        seed: int,
        max_steps: int | None = None,
        step: int = -1,
    ) -> None:
        self._plan, self._level, self._folder, self._seed = plan, level, folder, seed
        self._max_steps, self._model = max_steps, model
        self._rounds: list[Path] = []
        for path in sorted(folder.glob("round-*")):
            if int(path.name.removeprefix("round-")) <= step and (path / _DONE).is_file():
                self._rounds.append(path)
            else:
                shutil.rmtree(path)
        if self._rounds and (self._rounds[-1] / "model").is_dir():
            self._model = AnyOrderWorldModel.from_pretrained(self._rounds[-1] / "model" / "checkpoint")

    @property
    def began(self) -> int:
        """Step at which the newest round began; -1 if there was none."""
        return int(self._rounds[-1].name.removeprefix("round-")) if self._rounds else -1

    def counts(self) -> dict[str, int]:
        """How many real episodes and steps were played, in all rounds."""
        rounds = [json.loads((path / _DONE).read_text(encoding="utf-8")) for path in self._rounds]
        return {name: sum(counts[name] for counts in rounds) for name in ("real_episodes", "real_steps")}

    def advance(self, step: int, policy: Any) -> None:
        """Play real episodes with the policy and improve the world model."""
        path, seed = self._folder / f"round-{step:09d}", level_seed(self._seed, step)
        data = collect(
            self._level,
            self._plan.real_episodes,
            policy="present-policy",
            seed=seed,
            out=path / "data",
            split=SPLIT,
            max_steps=self._max_steps,
            make_agent=lambda name, env: SB3Agent(policy, sampled=True),
        )
        store = open_store([data])
        counts = {"real_episodes": len(store), "real_steps": store.num_steps}
        if self._plan.model_steps:
            datasets = [str(one / "data") for one in (*self._rounds, path)]
            first = self._plan.scratch and not self._rounds
            config = model_training(self._model, self._plan, seed % 2**31)
            result = train(config, path / "model", datasets, init=None if first else self._model.path)
            self._model = AnyOrderWorldModel.from_pretrained(result["checkpoint"])
        (path / _DONE).write_text(json.dumps(counts), encoding="utf-8")
        self._rounds.append(path)

    def imagination(self, num_envs: int, temperature: float) -> VecEnv:
        """Imagination that branches off any moment of any real episode so far."""
        return make_sb3_vec_env(
            self._level,
            num_envs,
            checkpoint=self._model,
            start="branch",
            dataset=[episode for path in self._rounds for episode in load_trajectories(path / "data")],
            temperature=temperature,
            max_steps=self._max_steps,
            max_episode_steps=self._plan.horizon,
            trust=self._plan.trust(),
        ).venv  # unmonitored: the learner's own monitor goes on around it


def model_training(model: AnyOrderWorldModel, plan: DynaPlan, seed: int) -> Config:
    """The config of a few more steps of a world model's training: its own architecture and front-end."""
    network = model.network
    names = [entry.name for entry in fields(ModelConfig) if entry.name != "attention"]
    architecture = ModelConfig(**{name: getattr(network.llada2.config, name) for name in names})
    config = Config(name="dyna", model=architecture, world=network.world, logging=LoggingConfig(trackers=[]))
    options = config.training
    return replace(
        config,
        training=replace(
            options,
            steps=plan.model_steps,
            batch_size=plan.batch_size,
            checkpoint_every=plan.model_steps,
            keep_last=1,
            validation_windows=256,
            learning_rate=options.learning_rate * plan.rate,
            muon_learning_rate=options.muon_learning_rate * plan.rate,
            seed=seed,
        ),
    )


def resolved_dyna(changes: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of Dyna, with ``changes`` to the defaults.

    Raises:
        UserError: for an unknown setting or a value of another kind or out of range.
    """
    settings = asdict(DynaPlan())
    for key, value in changes.items():
        if key not in settings:
            raise UserError(f"dyna has no setting {key!r}; its settings: {', '.join(SETTINGS)}")
        kind = type(settings[key])
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, int | float if kind is float else kind):
            raise UserError(f"setting {key} is {value!r}; it must be {_KINDS[kind]}")
        settings[key] = kind(value)
    return asdict(DynaPlan(**settings))


_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
