"""Trained policies on disk: weights as safetensors, everything else as JSON. Nothing in them is ever run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wmtoolkit.agents.sb3_algorithms import ALGORITHMS, algorithm, make_policy, network_settings
from wmtoolkit.envs.missions import token_space
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.checkpoint import replace_folder
from wmtoolkit.world.tokenizer import MAX_WORDS

FORMAT = 1
DOCUMENT, WEIGHTS = "policy.json", "policy.safetensors"
ACTIONS = spaces.Discrete(len(grid.ACTIONS))


def save_policy(
    policy: Any, path: Path, algo: str, settings: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> None:
    """Write a policy's folder whole or not at all; an existing one is replaced.

    Args:
        policy: of SB3.
        path: the folder.
        algo: name in ``ALGORITHMS``.
        settings: of the algorithm; those of the architecture are kept.
        facts: JSON-able, kept beside: the level it was trained on, steps, world model.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_file(weights(policy), temporary / WEIGHTS)
        document = {
            "format": FORMAT,
            "algo": algo,
            "network": network_settings(settings),
            "spaces": described(policy.observation_space, policy.action_space),
            **(facts or {}),
        }
        (temporary / DOCUMENT).write_text(json.dumps(document, indent=2), encoding="utf-8")
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_policy(path: Path) -> tuple[Any, dict[str, Any]]:
    """A policy and its document, from its folder or from the run's.

    Raises:
        UserError: if it is missing, damaged, or made for other observations or actions.
    """
    path = path / "policy" if (path / "policy" / DOCUMENT).is_file() else path
    if not path.is_dir():
        raise UserError(f"there is no policy folder {path}; train one with wmtool train-policy")
    if not (path / DOCUMENT).is_file():
        raise UserError(f"{path} is not a trained policy: it has no {DOCUMENT}")
    try:
        document = json.loads((path / DOCUMENT).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise UserError(f"{path / DOCUMENT} is of another version than {FORMAT}; use the toolkit that wrote it")
        network = {key: int(value) for key, value in document["network"].items()}
        algo, given = str(document["algo"]), dict(document["spaces"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / DOCUMENT} cannot be read ({type(error).__name__}: {error})") from None
    algorithm(algo)
    check_spaces(given, str(path))
    policy = make_policy(algo, {**ALGORITHMS[algo].settings, **network}, token_space(MAX_WORDS), ACTIONS)
    try:
        put_weights(policy, load_file(path / WEIGHTS))
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"{path / WEIGHTS} cannot be read or does not fit its {DOCUMENT}: {error}") from None
    return policy, document


def load_zip(path: Path, algo: str, trust: bool) -> Any:
    """The policy of a file that SB3 saved. Reading it runs code that is in it.

    Raises:
        UserError: without ``trust``; if it is missing or no such file; if it was made for another algorithm or spaces.
    """
    if not trust:
        raise UserError(f"{path}: reading a .zip of Stable-Baselines3 runs code in it; if you made it, add --trust")
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    kind = algorithm(algo)
    try:
        policy = kind.cls.load(path, device="cpu").policy
    except Exception as error:  # it may hold anything, and SB3 checks little
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as a {kind.name} model ({type(error).__name__}: {said})") from None
    check_spaces(described(policy.observation_space, policy.action_space), str(path))
    return policy


def described(observation_space: spaces.Space, action_space: spaces.Space) -> dict[str, str]:
    """Spaces in words, part by part."""
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
    return {**{f"observation {key}".strip(): str(part) for key, part in parts.items()}, "actions": str(action_space)}


def check_spaces(given: Mapping[str, str], where: str) -> None:
    """Raise ``UserError``, which names the first difference, unless these are the spaces of tokenized levels."""
    wanted = described(token_space(MAX_WORDS), ACTIONS)
    for part in [*wanted, *given]:
        if given.get(part) != wanted.get(part):
            raise UserError(
                f"{where} is a policy for other spaces: {part} is {given.get(part, 'missing')} there, "
                f"{wanted.get(part, 'unknown')} in the levels here"
            )


def weights(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters by name, each once however many modules share it."""
    return {name: value.detach().cpu().contiguous() for name, value in policy.named_parameters()}


def put_weights(policy: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> None:
    """Copy parameters into a policy.

    Raises:
        KeyError: for a missing or an unknown one; RuntimeError for one of another shape.
    """
    own = dict(policy.named_parameters())
    different = set(own) ^ set(given)
    if different:
        raise KeyError(f"{min(different)} is {'missing' if min(different) in own else 'unknown'}")
    with torch.no_grad():
        for name, value in own.items():
            if given[name].shape != value.shape:
                raise RuntimeError(f"{name} is {tuple(given[name].shape)}, not {tuple(value.shape)}")
            value.copy_(given[name])
