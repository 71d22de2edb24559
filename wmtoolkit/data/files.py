"""Files and folders that are written whole or not at all, and one collector at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wmtoolkit.errors import UserError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes ``path`` when the block ends without an error.

    An existing ``path`` is replaced if it is empty or ``overwrite`` is set, and stays as it is until the last moment.
    What killed processes left behind of this ``path`` is cleared away, so one process at a time may write it.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    for leftover in (*path.parent.glob(f".{path.name}.tmp-*"), *path.parent.glob(f".{path.name}.old-*")):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if overwrite and path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing (disk full, no permission) into a ``UserError`` that names the path."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); whatever was finished is kept: "
            "make room or choose another --out, and go on with --resume"
        ) from error


@contextlib.contextmanager
def only_one(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file ``path``; the system gives it back even if the process is killed.

    Args:
        path: of the lock file; its folder is there.
        wait: wait for another process that holds it, or refuse.

    Raises:
        UserError: another process holds it, and ``wait`` is off.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(
                f"{path.parent}: another process is writing here; wait for it or choose another --out"
            ) from None
        yield


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; ``UserError`` names the file if it is missing, cut off or something else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} does not hold a JSON object")
    return document


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
