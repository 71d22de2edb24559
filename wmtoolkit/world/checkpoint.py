"""World-model checkpoints on disk: a plain LLaDA2 folder, and the front-end beside it.

``config.json`` and ``model.safetensors`` are LLaDA2's own (composed tables written out), so other tools read them;
``world.json`` and ``world.safetensors`` hold the front-end; ``manifest.json`` the size and hash of every file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.vocabulary import TextWorldConfig, world_config

FORMAT = 1
_FRONT_END = "llada2."
_FRONT, _MANIFEST = "world.safetensors", "manifest.json"


def save(network: WorldNetwork, path: Path, facts: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder whole or not at all; an existing one is replaced.

    Args:
        facts: JSON-able, kept in ``world.json``: levels trained on, steps, data fingerprint.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        network.write_tables()
        network.llada2.save_pretrained(temporary)
        front = {name: value for name, value in network.state_dict().items() if not name.startswith(_FRONT_END)}
        save_file({name: value.contiguous() for name, value in front.items()}, temporary / _FRONT)
        document = {
            "format": FORMAT,
            "vocabulary": network.tokenizer.fingerprint,
            "world": asdict(network.world),
            **(facts or {}),
        }
        (temporary / "world.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
        files = {file.name: _described(file) for file in sorted(temporary.iterdir())}
        (temporary / _MANIFEST).write_text(json.dumps(files, indent=2), encoding="utf-8")
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put a finished folder in the place of another; a crash in between leaves one of the two under ``path``'s name
    or the old one under ``.old``."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    shutil.rmtree(old, ignore_errors=True)


def load(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[WorldNetwork, dict[str, Any]]:
    """Read a checkpoint folder back, in evaluation mode, with the document of its ``world.json``.

    Args:
        dtype: of LLaDA2's weights; the front-end's stay float32.

    Raises:
        UserError: if the folder is missing, not a world model's, of another version or vocabulary, or damaged.
    """
    path = Path(path)
    document = describe(path)
    try:
        world = world_config(document["world"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path / 'world.json'}: {error}") from error
    if (path / _MANIFEST).exists() or not isinstance(world, TextWorldConfig):  # dFactory writes none
        _verify(path)
    try:
        network = WorldNetwork(LLaDA2MoeForCausalLM.from_pretrained(path, dtype=dtype), world)
        if isinstance(world, TextWorldConfig) and not (path / _FRONT).exists():
            front = {"input_rows": network.input_rows.detach(), "output_rows": network.output_rows.detach()}
        else:
            front = load_file(path / _FRONT)
        outcome = network.load_state_dict(front, strict=False)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from error
    missing = [name for name in outcome.missing_keys if not name.startswith(_FRONT_END)]
    if missing or outcome.unexpected_keys:
        raise UserError(f"{path / _FRONT}: missing {missing}, unexpected {outcome.unexpected_keys}")
    return network.to(device).eval(), document


def describe(path: Path) -> dict[str, Any]:
    """The document of a checkpoint's ``world.json``, checked for version and vocabulary."""
    from wmtoolkit.world.tokenizer import WorldTokenizer

    if not path.is_dir():
        raise UserError(f"there is no checkpoint folder {path}")
    file = path / "world.json"
    if not file.is_file():
        raise UserError(f"{path} is not a world-model checkpoint: it has no world.json")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{file} is of another version than {FORMAT}; use the toolkit that wrote it")
    if document.get("vocabulary") != WorldTokenizer().fingerprint:
        raise UserError(f"{file}: the checkpoint was trained with another vocabulary than this toolkit's")
    return document


def checkpoint_hash(path: Path) -> str:
    """sha256 over a checkpoint's manifest, which names the hash of each file (made on the spot if there is none)."""
    path = Path(path)
    if (path / _MANIFEST).is_file():
        return hashlib.sha256((path / _MANIFEST).read_bytes()).hexdigest()
    files = {file.name: _described(file) for file in sorted(path.iterdir()) if file.is_file()}
    return hashlib.sha256(json.dumps(files, indent=2).encode()).hexdigest()


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _verify(path: Path) -> None:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"checkpoint {path}: manifest.json cannot be read ({error}); copy the folder again") from None
    for name, expected in manifest.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"checkpoint {path}: {name} is missing; copy the folder again")
        if _described(file) != expected:
            raise UserError(f"checkpoint {path}: {name} is truncated or changed; copy the folder again")
