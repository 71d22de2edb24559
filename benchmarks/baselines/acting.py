"""Baselines as agents of suites: fitted on a config's own data once, and kept beside the suites."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from wmtoolkit.agents import Agent, make_agent
from wmtoolkit.benchmarks.baselines import fitting
from wmtoolkit.benchmarks.baselines.autoregressive import LeftToRight
from wmtoolkit.benchmarks.baselines.convolutional import CloningAgent, load_cloning, save_cloning
from wmtoolkit.benchmarks.fresh import check_fresh, own_data
from wmtoolkit.benchmarks.plans import AgentSpec, fingerprint, seeded
from wmtoolkit.errors import UserError
from wmtoolkit.training.config import Config, load_config
from wmtoolkit.world.model import AnyOrderWorldModel
from wmtoolkit.world.network import WorldNetwork

CLONING, AUTOREGRESSIVE = "cloning", "autoregressive"
_OF_TRAINING = ("config", "set", "seed")
FITTED = (CLONING, AUTOREGRESSIVE)
"""Names of these agents. Their settings: ``config``, on whose data and budget they are fitted, and entries to ``set``
in it, ``seed``, of the training; the rest are the agent's own."""


def config_of(settings: Mapping[str, Any]) -> Config:
    """The config that an agent's settings name: entry by entry that of the baselines' run with this seed."""
    return _config(settings.get("config", "ablation/base"), tuple(settings.get("set", [])), settings.get("seed", 0))


@cache
def _config(name: str, changes: tuple[str, ...], seed: int) -> Config:
    return load_config(name, seeded(changes, seed))


def check_unfitted(seed: int, count: int, levels: Collection[str], agents: Iterable[AgentSpec]) -> None:
    """Refuse level seeds that one of the agents is fitted on; see ``check_fresh``."""
    check_fresh(seed, count, levels, [config_of(item.settings) for item in agents if item.agent in FITTED])


def place(name: str, config: Config, folder: Path) -> Path:
    """Where a fitted baseline is kept below the suites' folder."""
    return folder / "models" / f"{name}-{fingerprint(config)}{'.safetensors' if name == CLONING else ''}"


def fitted_agent(name: str, settings: Mapping[str, Any], folder: Path) -> Agent:
    """An agent of ``FITTED``: read from the suites' ``folder``, or fitted and kept there first.

    Raises:
        UserError: an unknown option, or a config that cannot be read.
    """
    own = {key: value for key, value in settings.items() if key not in _OF_TRAINING}
    if unknown := own.keys() - {"temperature"}:
        raise UserError(
            f"agent {name!r} has no option {min(unknown)!r}; its options: {', '.join(_OF_TRAINING)}, temperature"
        )
    config = config_of(settings)
    path = place(name, config, folder)
    if not path.exists():
        frames = fitting.training_frames(own_data(config, folder / "data"))
        if name == CLONING:
            save_cloning(fitting.fit_cloning(config, frames), path)
        else:
            save_autoregressive(fitting.fit_autoregressive(config, frames), path)
    if name == CLONING:
        return CloningAgent(load_cloning(path), **own)
    return left_to_right(AnyOrderWorldModel.from_pretrained(path).network, **own)


def left_to_right(network: WorldNetwork, **settings: Any) -> Agent:
    """Acts as the autoregressive model holds that the bot would."""
    return make_agent("policy", world_model=LeftToRight(network), **settings)


def save_autoregressive(network: WorldNetwork, path: Path) -> None:
    """Write a network's weights and config as a checkpoint folder; only ``fitted_agent`` reads it as what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    AnyOrderWorldModel(network).save_pretrained(path)
