"""Safetensors files without their weights: headers read and checked, files written tensor by tensor.

The format: a 64-bit little-endian length, a JSON header of that length, then the tensors' bytes without a gap.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from wmtoolkit.errors import UserError

TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Types a LLaDA2 checkpoint may hold."""
TYPE_NAMES = {kind: name for name, kind in TORCH_TYPES.items()}

_LENGTH_BYTES = 8
_MAX_HEADER = 100_000_000
_CHUNK = 1 << 24


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: file, type, shape, and its bytes' place in the file."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    size: int

    def load(self, slice_index: int = 0, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """The tensor, or its ``slice_index``-th part of ``shape``, in memory of its own."""
        shape = self.shape if shape is None else shape
        size = math.prod(shape) * self.dtype.itemsize
        if size == 0:
            return torch.empty(shape, dtype=self.dtype)
        raw = bytearray().join(self.read(slice_index * size, size))
        return torch.frombuffer(raw, dtype=self.dtype).view(shape)

    def read(self, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        """The tensor's bytes (or ``size`` of them from ``start``) in pieces of bounded size."""
        left = self.size - start if size is None else size
        with self.file.open("rb") as stream:
            stream.seek(self.offset + start)
            while left:
                piece = stream.read(min(left, _CHUNK))
                if not piece:
                    raise UserError(f"{self.file} became shorter while it was read; is it still being written?")
                left -= len(piece)
                yield piece


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Keys of a safetensors file; reads no weights.

    Raises:
        UserError: naming the file if it is truncated or otherwise not what its header says.
    """

    def broken(why: str) -> UserError:
        return UserError(f"{file} is damaged ({why}); download or save it again")

    length = file.stat().st_size
    with file.open("rb") as stream:
        header_size = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if header_size > min(length - _LENGTH_BYTES, _MAX_HEADER):
            raise broken("its header is cut off")
        try:
            header = json.loads(stream.read(header_size))
        except ValueError:
            raise broken("its header is not JSON") from None
    if not isinstance(header, dict):
        raise broken("its header is not a JSON object")
    tensors, data = {}, _LENGTH_BYTES + header_size
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        try:
            name, shape, (start, stop) = (
                str(entry["dtype"]),
                tuple(map(int, entry["shape"])),
                map(int, entry["data_offsets"]),
            )
        except (TypeError, KeyError, ValueError):
            raise broken(f"entry of {key} is incomplete") from None
        if name not in TORCH_TYPES:
            raise UserError(f"{file}: {key} is of type {name}; a LLaDA2 checkpoint holds floating-point weights")
        kind = TORCH_TYPES[name]
        size = math.prod(shape) * kind.itemsize
        if start < 0 or min(shape, default=0) < 0 or stop - start != size:
            raise broken(f"size of {key} does not fit its shape {list(shape)}")
        if data + stop > length:
            raise broken(f"cut off within {key}: {length:,} bytes instead of {data + stop:,} or more")
        tensors[key] = StoredTensor(file, kind, shape, data + start, size)
    end = data
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        if tensor.offset != end:
            raise broken(f"{key} overlaps another tensor, or leaves a gap before it")
        end += tensor.size
    if end != length:
        raise broken(f"{length - end:,} bytes follow the last tensor")
    return tensors


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor to be written, its bytes produced only when its turn has come."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[bytes]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_file(file: Path, tensors: list[TensorToWrite]) -> Iterator[int]:
    """Write the tensors one after another; yields the number of bytes of each piece as it is written."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.key] = {
            "dtype": TYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.size],
        }
        offset += tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data start on a multiple of 8, as the format's readers expect
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for tensor in tensors:
            for piece in tensor.pieces:
                stream.write(piece)
                yield len(piece)
        stream.flush()
        os.fsync(stream.fileno())
