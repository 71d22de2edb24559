"""World models for environments: loaded once, shared by all that name the same checkpoint."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from wmtoolkit.errors import UserError
from wmtoolkit.world.model import AnyOrderWorldModel

_LOADED: WeakValueDictionary[tuple[str, int, str, str], AnyOrderWorldModel] = WeakValueDictionary()


def load_world_model(
    checkpoint: str | os.PathLike[str] | AnyOrderWorldModel | None,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> AnyOrderWorldModel:
    """The world model that ``checkpoint`` means.

    Args:
        checkpoint: a folder, a loaded model (returned as it is), or None for the packaged one. A folder that has not
            changed since is not loaded twice while an environment holds it.
        device: where to load.
        precision: of the passes, ``"auto"``, ``"float32"`` or ``"bf16"``, see ``AnyOrderWorldModel.from_pretrained``.

    Raises:
        UserError: for a missing or broken checkpoint, an unknown precision.
    """
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        if not hasattr(checkpoint, "rollout_state"):
            raise UserError(f"checkpoint must be a folder or an AnyOrderWorldModel, not {type(checkpoint).__name__}")
        return checkpoint
    path = None if checkpoint is None else Path(checkpoint)
    weights = path / "model.safetensors" if path else None
    changed = weights.stat().st_mtime_ns if weights and weights.exists() else 0
    key = (str(path.resolve()) if path else "", changed, str(device), precision)
    model = _LOADED.get(key)
    if model is None:
        model = AnyOrderWorldModel.from_pretrained(path, device=device, precision=precision)
        _LOADED[key] = model
    return model


def warn_of_unknown_level(world_model: AnyOrderWorldModel, level: str) -> None:
    """Warn the caller's caller if the model says what levels it was trained on and ``level`` is none of them."""
    if world_model.levels and level not in world_model.levels:
        known = ", ".join(world_model.levels)
        warnings.warn(f"the world model was not trained on {level}, only on {known}: do not trust it", stacklevel=3)
