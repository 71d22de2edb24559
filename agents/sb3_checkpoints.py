"""Checkpoints of a policy's training: all that decides how it goes on, as safetensors and JSON."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wmtoolkit.agents.sb3_files import put_weights, weights
from wmtoolkit.errors import UserError
from wmtoolkit.world.checkpoint import replace_folder

KEPT = 2
"""Newest checkpoints that are kept."""
_STATE, _NUMBERS = "state.safetensors", "state.json"
_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num", "exploration_rate")
"""Attributes of SB3's models, of those that have them, that are counted up while learning."""
_REPLAYED = ("actions", "rewards", "dones", "timeouts")


def step_folders(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _NUMBERS).is_file())


def save_training(folder: Path, learner: Any, numbers: dict[str, Any]) -> Path:
    """Write ``step-NNNNNNNNN`` under ``folder``, whole or not at all, and remove all but the last ``KEPT``.

    The environment and its random streams are no part of it: whoever resumes begins new episodes.
    """
    path = folder / f"step-{learner.num_timesteps:09d}"
    temporary = folder / f".{path.name}.tmp-{os.getpid()}"
    temporary.mkdir(parents=True, exist_ok=True)
    tensors = {f"policy.{name}": value for name, value in weights(learner.policy).items()}
    for index, entries in learner.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in entries.items()}
    tensors |= {f"replay.{name}": torch.from_numpy(value) for name, value in _replay(learner).items()}
    counters = {name: getattr(learner, name) for name in _COUNTERS if hasattr(learner, name)}
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / _STATE)
        (temporary / _NUMBERS).write_text(json.dumps({"counters": counters, **numbers}), encoding="utf-8")
        replace_folder(temporary, path)
    except OSError as error:
        raise UserError(f"checkpoint {path} could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in step_folders(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_training(path: Path, learner: Any) -> dict[str, Any]:
    """Read a checkpoint into a learner, in place; returns the numbers saved with it.

    Raises:
        UserError: if it is damaged or of another architecture.
    """
    try:
        numbers = json.loads((path / _NUMBERS).read_text(encoding="utf-8"))
        tensors = load_file(path / _STATE)
        put_weights(learner.policy, _under(tensors, "policy"))
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _under(tensors, "optimizer").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        optimizer = learner.policy.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for name, value in numbers["counters"].items():
            setattr(learner, name, value)
        _put_replay(learner, {name: value.numpy() for name, value in _under(tensors, "replay").items()})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"checkpoint {path} cannot be read ({error}); remove it to resume from the one before"
        ) from None
    return numbers


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _arrays(buffer: Any) -> dict[str, np.ndarray]:
    """The arrays of a replay buffer, as they are."""
    found = {name: getattr(buffer, name) for name in _REPLAYED}
    for part in ("observations", "next_observations"):
        found |= {f"{part}.{key}": values for key, values in getattr(buffer, part).items()}
    return found


def _replay(learner: Any) -> dict[str, np.ndarray]:
    """What a replay buffer holds, in the order of its places; nothing of a learner without one."""
    buffer = getattr(learner, "replay_buffer", None)
    if buffer is None:
        return {}
    filled = buffer.size()
    return {name: values[:filled] for name, values in _arrays(buffer).items()} | {"position": np.array(buffer.pos)}


def _put_replay(learner: Any, given: dict[str, np.ndarray]) -> None:
    if not given:
        return
    buffer = learner.replay_buffer
    for name, values in _arrays(buffer).items():
        values[: len(given[name])] = given[name]
    buffer.pos = int(given["position"])
    buffer.full = len(given["actions"]) == buffer.buffer_size
