"""Between the hub's separate experts and dFactory's merged ones, byte by byte, without loading the model."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any, Literal

import torch

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import INDEX_FILE, PICKLES, SINGLE_FILE, Checkpoint, open_checkpoint
from wmtoolkit.llada2.layouts import (
    MERGED_KEY,
    PROJECTIONS,
    SEPARATE_KEY,
    Layout,
    layout_of,
    merged_key,
    separate_key,
    sparse_layers,
)
from wmtoolkit.llada2.safetensors_files import TORCH_TYPES, StoredTensor, TensorToWrite, write_file
from wmtoolkit.progress import progress

TARGETS: dict[str, Layout] = {"merge": "merged", "split": "separate"}
DTYPES = {str(kind).removeprefix("torch."): kind for kind in TORCH_TYPES.values()}
_WEIGHT_FILES = (".safetensors", *PICKLES, ".gguf", ".h5", ".msgpack", ".onnx")


def convert(
    mode: Literal["merge", "split"],
    input_path: str | os.PathLike,
    output_path: str | os.PathLike,
    *,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
) -> dict[str, Any]:
    """Write a checkpoint in the other layout.

    Streams: memory stays at a few megabytes whatever the model's size. The output folder appears whole or not at
    all. Values are copied bit by bit unless ``dtype`` asks for another type; ``expert_bias`` always keeps its own.
    Config, tokenizer and the other small files are copied.

    Args:
        mode: ``merge`` for dFactory, ``split`` for the hub and everything else.
        output_path: a folder that does not exist yet, or is empty.
        dtype: ``bfloat16``, ``float16``, ``float32`` or ``float64``; None keeps each tensor's type.
        max_shard_size: bytes, or ``"5GB"``, ``"300MB"``; weights beyond it go to further files, listed in an index.

    Returns:
        {"mode", "output_path", "tensors", "bytes", "files"}

    Raises:
        UserError: if the input is not a sound checkpoint of the other layout, the output is in the way, or the disk
            is too small.
    """
    if mode not in TARGETS:
        raise UserError(f"mode is {mode!r}; it can be merge or split")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; it can be {', '.join(DTYPES)}")
    source, target = Path(input_path), Path(output_path)
    check_new(target, "--output-path")
    checkpoint = open_checkpoint(source)
    experts = any(map(layout_of, checkpoint.tensors))
    if checkpoint.layout == TARGETS[mode] or not experts:
        held = f"{checkpoint.layout} experts already" if experts else "no experts"
        raise UserError(f"{source} holds {held}: nothing to {mode}")

    tensors = list((_merged if mode == "merge" else _separate)(checkpoint))
    if dtype is not None:
        tensors = [_cast(tensor, DTYPES[dtype]) for tensor in tensors]
    changes = {} if dtype is None else {"torch_dtype": dtype}
    return {"mode": mode, **write_checkpoint(source, target, tensors, changes, max_shard_size=max_shard_size)}


def check_new(folder: Path, option: str) -> None:
    """Refuse a folder to be made that already holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; give {option} a new folder")


def write_checkpoint(
    source: Path,
    target: Path,
    tensors: list[TensorToWrite],
    changes: Mapping[str, Any],
    *,
    files: Mapping[str, str] | None = None,
    max_shard_size: int | str = "5GB",
) -> dict[str, Any]:
    """Write a checkpoint folder, whole or not at all, with all that lies beside the weights of another.

    It grows as a hidden folder beside ``target``; what a killed process left there is removed first.

    Args:
        changes: fields of ``config.json`` to set.
        files: further text files, by name.

    Returns:
        {"output_path", "tensors", "bytes", "files"}

    Raises:
        UserError: if the disk is too small, or another process is writing the same folder.
    """
    total = sum(tensor.size for tensor in tensors)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(target)
    free = shutil.disk_usage(target.parent).free
    if free < total:
        raise UserError(f"{target} needs {total:,} bytes, and its disk has {free:,} left; free some or go elsewhere")
    partial = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    partial.mkdir()
    try:
        _copy_small_files(source, partial, changes)
        for name, text in (files or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        weights = _write(partial, tensors, _bytes(max_shard_size), total)
        if target.exists():
            target.rmdir()
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return {"output_path": str(target), "tensors": len(tensors), "bytes": total, "files": weights}


def _clear_leftovers(target: Path) -> None:
    """Remove the half-written folders of processes that are no more."""
    for folder in target.parent.glob(f".{escape(target.name)}.tmp-*"):
        owner = folder.name.rpartition("-")[2]
        if owner.isdigit() and int(owner) != os.getpid() and _runs(int(owner)):
            raise UserError(f"{target} is being written by process {owner}; wait for it, or end it and delete {folder}")
        shutil.rmtree(folder)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    return True


def _merged(checkpoint: Checkpoint) -> Iterator[TensorToWrite]:
    """The output of merge: each layer's experts one after another under one key, everything else as it is."""
    tensors = checkpoint.tensors
    for layer in sparse_layers(checkpoint.config):
        for projection in PROJECTIONS:
            keys = [separate_key(layer, expert, projection) for expert in range(checkpoint.config.num_experts)]
            first = tensors[keys[0]]
            for key in keys:
                if tensors[key].dtype != first.dtype:
                    raise UserError(f"{tensors[key].file}: {key} is {tensors[key].dtype}, but expert 0 {first.dtype}")
            pieces = _one_after_another([tensors[key] for key in keys])
            yield TensorToWrite(merged_key(layer, projection), first.dtype, (len(keys), *first.shape), pieces)
    yield from (_as_it_is(key, tensors[key]) for key in tensors if not SEPARATE_KEY.fullmatch(key))


def _separate(checkpoint: Checkpoint) -> Iterator[TensorToWrite]:
    """The output of split: each slice of a merged tensor under its expert's own key, everything else as it is."""
    for key, stored in checkpoint.tensors.items():
        match = MERGED_KEY.fullmatch(key)
        if not match:
            yield _as_it_is(key, stored)
            continue
        experts, *shape = stored.shape
        size = stored.size // experts
        for expert in range(experts):
            name = separate_key(int(match[2]), expert, match[3])
            yield TensorToWrite(name, stored.dtype, tuple(shape), stored.read(expert * size, size))


def _as_it_is(key: str, stored: StoredTensor) -> TensorToWrite:
    return TensorToWrite(key, stored.dtype, stored.shape, stored.read())


def _one_after_another(tensors: list[StoredTensor]) -> Iterator[bytes]:
    for tensor in tensors:
        yield from tensor.read()


def _cast(tensor: TensorToWrite, dtype: torch.dtype) -> TensorToWrite:
    if tensor.key.endswith(".expert_bias") or tensor.dtype == dtype:
        return tensor

    def pieces() -> Iterator[bytes]:
        for piece in tensor.pieces:  # pieces are whole numbers of elements: their size is a multiple of 8 bytes
            values = torch.frombuffer(bytearray(piece), dtype=tensor.dtype)
            if values.isfinite().all() and not values.to(dtype).isfinite().all():
                raise UserError(f"{tensor.key} holds values too large for {dtype}; give another dtype")
            yield values.to(dtype).view(torch.uint8).numpy().tobytes()

    return TensorToWrite(tensor.key, dtype, tensor.shape, pieces())


def _write(folder: Path, tensors: list[TensorToWrite], limit: int, total: int) -> list[str]:
    """Write one file, or shards with an index; returns their names."""
    shards: list[list[TensorToWrite]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    with progress("converting (MB)", total // 1_000_000) as bar:
        for name, shard in zip(names, shards, strict=True):
            for written in write_file(folder / name, shard):
                bar.advance(written / 1_000_000, name)
    if len(shards) > 1:
        weight_map = {tensor.key: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return names


def _copy_small_files(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Config, tokenizer and whatever else lies beside the weights."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix not in _WEIGHT_FILES and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)
    if changes:
        config = json.loads((target / "config.json").read_text(encoding="utf-8"))
        if "dtype" in config and "torch_dtype" in changes:  # as newer Transformers call it
            config["dtype"] = changes["torch_dtype"]
            changes = {name: value for name, value in changes.items() if name != "torch_dtype"}
        config |= changes
        (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _bytes(size: int | str) -> int:
    """5GB -> 5_000_000_000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", str(size).strip(), re.IGNORECASE)
    if not match or float(match[1]) <= 0:
        raise UserError(f"max_shard_size is {size!r}; write it like 5GB or 300MB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))
