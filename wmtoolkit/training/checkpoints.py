"""Training checkpoints: model and optimiser, written whole or not at all, the newest few kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from wmtoolkit.errors import UserError
from wmtoolkit.training.scale import like, plain, put, whole
from wmtoolkit.world import checkpoint
from wmtoolkit.world.network import WorldNetwork

_STATE = "training_state.safetensors"
_NUMBERS = "training_state.json"


def step_folders(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / _NUMBERS).is_file())


def save_step(
    folder: Path,
    step: int,
    network: WorldNetwork,
    optimizers: dict[str, torch.optim.Optimizer],
    average: AveragedModel | None,
    numbers: dict[str, Any],
    facts: dict[str, Any],
    keep: int,
    main: bool = True,
) -> Path:
    """Write ``step-NNNNNNN`` under ``folder`` and remove all but the last ``keep``.

    Where weights are sharded, every process must call it; only the ``main`` one writes. Of a network with adapters
    only what is trained is written: the rest is as it was.

    Args:
        average: the moving average of the weights, if there is one.
        numbers: JSON-able state beside the step, e.g. the best validation NLL so far.

    Raises:
        UserError: if it cannot be written, e.g. on a full disk; what was there before is untouched.
    """
    path = folder / f"step-{step:07d}"
    temporary = folder / f".{path.name}.tmp-{os.getpid()}"
    tensors, rest = _flatten(optimizers)
    tensors |= _averaged(average)
    adapted = _adapted(network)
    whole_network = None if adapted else plain(network, main)
    if not main:
        return path
    try:
        if whole_network is not None:
            checkpoint.save(whole_network, temporary, {**facts, "steps": step})
        temporary.mkdir(parents=True, exist_ok=True)
        tensors |= {name: value.contiguous() for name, value in adapted.items()}
        save_file(tensors, temporary / _STATE)
        if average is not None:
            numbers = {**numbers, "averaged": int(average.n_averaged)}
        (temporary / _NUMBERS).write_text(json.dumps({"step": step, **numbers, "optimizers": rest}), encoding="utf-8")
        for name in (_STATE, _NUMBERS):
            with (temporary / name).open("rb") as handle:
                os.fsync(handle.fileno())
        checkpoint.replace_folder(temporary, path)
    except OSError as error:
        raise UserError(
            f"checkpoint {path} could not be written ({error.strerror or error}); the last good one is intact"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in step_folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def load_step(
    path: Path,
    network: WorldNetwork,
    optimizers: dict[str, torch.optim.Optimizer],
    average: AveragedModel | None = None,
) -> dict[str, Any]:
    """Read a checkpoint into a network, its optimisers and its average, in place; returns the numbers saved with it."""
    adapted = _adapted(network)
    loaded = None if adapted else checkpoint.load(path)[0]
    try:
        numbers = json.loads((path / _NUMBERS).read_text(encoding="utf-8"))
        tensors = load_file(path / _STATE)
        with torch.no_grad():
            for name, value in adapted.items():
                value.copy_(tensors[name])
            if loaded is not None:
                source = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
                for name, value in (*network.named_parameters(), *network.named_buffers()):
                    put(value, source[name])
        for name, optimizer in optimizers.items():
            _restore(optimizer, tensors, numbers["optimizers"][name], name)
        for name, value in _averaged(average).items():
            value.copy_(tensors[name])
        if average is not None:
            average.n_averaged.fill_(numbers["averaged"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"training checkpoint {path} cannot be read ({error}); remove it to resume from the one before"
        ) from error
    return numbers


def _adapted(network: WorldNetwork) -> dict[str, torch.Tensor]:
    """What is trained of a network with adapters, not copied; nothing of a network without."""
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    if not any("lora_" in name for name in trained):
        return {}
    return {f"adapted.{name}": value.detach() for name, value in trained.items()}


def _averaged(average: AveragedModel | None) -> dict[str, torch.Tensor]:
    """The averaged parameters, as they are, not copied; composed tables follow from them."""
    if average is None:
        return {}
    trained = ((name, value) for name, value in average.module.named_parameters() if value.requires_grad)
    return {f"average.{name}": value.detach() for name, value in trained}


def _flatten(optimizers: dict[str, torch.optim.Optimizer]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Optimiser states as named tensors and, for what is no tensor, JSON."""
    tensors: dict[str, torch.Tensor] = {}
    rest: dict[str, Any] = {}
    for name, optimizer in optimizers.items():
        state = optimizer.state_dict()["state"]
        rest[name] = {}
        for index, entries in state.items():
            for key, value in entries.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"{name}.{index}.{key}"] = whole(value).contiguous()
                else:
                    rest[name][f"{index}.{key}"] = value
    return tensors, rest


def _restore(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], rest: dict[str, Any], name: str
) -> None:
    state: dict[int, dict[str, Any]] = {}
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for key, value in tensors.items():
        if key.startswith(f"{name}."):
            _, index, entry = key.split(".", 2)
            parameter = parameters[int(index)]
            state.setdefault(int(index), {})[entry] = like(value, parameter) if value.dim() else value
    for key, value in rest.items():
        index, entry = key.split(".", 1)
        state.setdefault(int(index), {})[entry] = value
    document = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": document["param_groups"]})
