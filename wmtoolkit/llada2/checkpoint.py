"""LLaDA2 checkpoint folders: found, checked key by key from their headers, read lazily.

Everything a loader could trip over is reported before a weight is read, in one line that names file and key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.configuration import LLaDA2MoeConfig
from wmtoolkit.llada2.layouts import (
    MERGED_KEY,
    SEPARATE_KEY,
    Layout,
    expected_tensors,
    fused_sources,
    layout_of,
)
from wmtoolkit.llada2.safetensors_files import StoredTensor, read_header

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint: its tensors, by key, lie on disk as ``config`` and ``layout`` demand."""

    folder: Path
    config: LLaDA2MoeConfig
    layout: Layout
    tensors: dict[str, StoredTensor]


def open_checkpoint(folder: str | os.PathLike, config: LLaDA2MoeConfig | None = None) -> Checkpoint:
    """Find and check a checkpoint folder of either layout, one file or shards with an index. Reads headers only.

    Args:
        config: architecture to check against; ``config.json`` of the folder if not given.

    Raises:
        UserError: naming the file and the key that is missing, unexpected, of the wrong shape, or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds config.json and {SINGLE_FILE}")
    config = buildable_config(folder, config)
    headers = {file: read_header(file) for file in sorted(folder.glob("*.safetensors"))}
    if not headers:
        raise _no_weights(folder)
    layout = _one_layout(headers)
    tensors = _tensors_of_model(folder, headers)
    _check_against(config, layout, tensors, folder)
    return Checkpoint(folder, config, layout, tensors)


def buildable_config(folder: Path, config: LLaDA2MoeConfig | None = None) -> LLaDA2MoeConfig:
    """The folder's ``config.json`` (or ``config``, made from it), sure to describe a network."""
    config = config or LLaDA2MoeConfig.from_pretrained(folder)
    try:
        config.check_buildable()
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    return config


def _no_weights(folder: Path) -> UserError:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        return UserError(
            f"{folder / pickles[0]} is a pickle, which may run code when it is loaded, and is refused; "
            "get the checkpoint as safetensors"
        )
    return UserError(f"{folder} holds no {SINGLE_FILE}; download or save the checkpoint again")


def _one_layout(headers: dict[Path, dict[str, StoredTensor]]) -> Layout:
    """The layout of the expert keys; both in one folder would leave open which experts count."""
    seen: dict[Layout, str] = {}
    for file, tensors in headers.items():
        for key in tensors:
            layout = layout_of(key)
            if layout is not None:
                seen.setdefault(layout, f"{file}: {key}")
    if len(seen) == 2:
        raise UserError(
            f"both expert layouts in one folder: {seen['separate']} is separate, {seen['merged']} is merged; "
            "remove the files of one"
        )
    return next(iter(seen), "separate")


def _tensors_of_model(folder: Path, headers: dict[Path, dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    """The tensors of ``model.safetensors``, or of the shards exactly as the index lists them."""
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    shards = {file for file in headers if file.name.startswith("model-")}
    if not index.exists():
        if single in headers and not shards:
            return headers[single]
        if single in headers:
            raise UserError(f"{min(shards)} is a shard beside {SINGLE_FILE}; remove what is left from another save")
        if shards:
            raise UserError(f"{folder} holds shards but no {INDEX_FILE}; download or save the checkpoint again")
        raise _no_weights(folder)
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        listed = {str(key): folder / Path(name).name for key, name in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index} is no index of shards (no weight_map); download or save it again") from None
    for key, file in listed.items():
        if file not in headers:
            raise UserError(f"{index} places {key} in {file.name}, which is missing; download or save it again")
        if key not in headers[file]:
            raise UserError(f"{index} places {key} in {file.name}, which does not hold it; the index is stale")
    for file in sorted({*shards, *listed.values(), *({single} & headers.keys())}):
        for key in headers[file]:
            if listed.get(key) != file:
                raise UserError(f"{file}: {key} is not listed in {INDEX_FILE}; remove what is left from another save")
    return {key: headers[file][key] for key, file in listed.items()}


def _check_against(config: LLaDA2MoeConfig, layout: Layout, tensors: dict[str, StoredTensor], folder: Path) -> None:
    """Exactly the expected keys, each in the expected shape."""
    expected = expected_tensors(config, layout)
    _check_experts(config, tensors)
    for key, shape in expected.items():
        if key not in tensors:
            raise UserError(f"{_place(key, tensors, folder)}: {key} is missing; the checkpoint is incomplete")
        stored = tensors[key]
        if stored.shape != shape:
            hint = ""
            if key in ("model.word_embeddings.weight", "lm_head.weight") and stored.shape[1:] == shape[1:]:
                hint = f" (vocab_size in config.json is {config.vocab_size})"
            raise UserError(f"{stored.file}: {key} has shape {list(stored.shape)}, not {list(shape)}{hint}")
    for key, stored in tensors.items():
        tied = config.tie_word_embeddings and key == "lm_head.weight"
        if key not in expected and not tied and not key.endswith(".rotary_emb.inv_freq"):
            raise UserError(f"{stored.file}: {key} is no weight of the model that config.json describes")


def _check_experts(config: LLaDA2MoeConfig, tensors: dict[str, StoredTensor]) -> None:
    """Say a wrong number of experts as such, rather than as a missing key or a shape."""
    count: dict[str, int] = {}
    for key, stored in tensors.items():
        if match := SEPARATE_KEY.fullmatch(key):
            count[match[1]] = max(count.get(match[1], 0), int(match[3]) + 1)
        elif (match := MERGED_KEY.fullmatch(key)) and stored.shape:
            count[match[1]] = stored.shape[0]
    for prefix, experts in count.items():
        if experts != config.num_experts:
            key = next(key for key in tensors if key.startswith(prefix + "."))
            raise UserError(
                f"{tensors[key].file}: {key} is of {experts} experts, but num_experts in config.json is "
                f"{config.num_experts}"
            )


def _place(key: str, tensors: dict[str, StoredTensor], folder: Path) -> Path:
    """File where a missing key should be: that of its layer's other tensors."""
    layer = ".".join(key.split(".")[:3])
    near = next((stored.file for other, stored in tensors.items() if other.startswith(layer + ".")), None)
    files = {stored.file for stored in tensors.values()}
    return near or (files.pop() if len(files) == 1 else folder / INDEX_FILE)


class LazyTensor:
    """A tensor of the network that is read, and put together from its parts, when it is sliced."""

    def __init__(self, load: Callable[[], torch.Tensor]) -> None:
        self._load = load

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._load()[index]


def network_tensors(checkpoint: Checkpoint) -> dict[str, LazyTensor]:
    """The network's own state dict, fused and lazy, from a checkpoint of either layout.

    The tensors own their memory: files may be replaced while a network loaded from them lives.
    """
    tensors = checkpoint.tensors
    plain = {
        key: LazyTensor(tensors[key].load)
        for key in expected_tensors(checkpoint.config, checkpoint.layout)
        if layout_of(key) is None
    }
    fused = {
        key: LazyTensor(partial(_fuse, tensors, matrices))
        for key, matrices in fused_sources(checkpoint.config, checkpoint.layout).items()
    }
    return {**plain, **fused}


def _fuse(tensors: dict[str, StoredTensor], matrices: list[list[tuple[str, int]]]) -> torch.Tensor:
    """Read the parts of each expert into their place: (experts, parts x rows, columns)."""
    first = tensors[matrices[0][0][0]]
    rows, columns = first.shape[-2:]
    fused = torch.empty(len(matrices), len(matrices[0]), rows, columns, dtype=first.dtype)
    for expert, parts in enumerate(matrices):
        for part, (key, index) in enumerate(parts):
            fused[expert, part] = tensors[key].load(index, (rows, columns))
    return fused.flatten(1, 2)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Transformers draws bars even for a model that loads in milliseconds."""
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
