"""LLaDA2 checkpoints from the Hugging Face hub."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import PICKLES, no_progress_bars, open_checkpoint
from wmtoolkit.progress import ENABLED

# What the hub's client raises when there is no connection: an error of its HTTP library, or of the system.
_UNREACHABLE: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__,)
_LEFT_ON_HUB = (*PICKLES, ".gguf", ".h5", ".msgpack", ".onnx")


def download(
    repo_id: str, local_dir: str | os.PathLike, *, revision: str | None = None, endpoint: str | None = None
) -> dict[str, Any]:
    """Fetch a checkpoint into a folder and check it; what is already there is not fetched again.

    Args:
        repo_id: name on the hub, as ``inclusionAI/LLaDA2.0-mini``.
        revision: branch, tag or commit; the main branch if not given.
        endpoint: another hub's address.

    Returns:
        {"repo_id", "revision" (the commit), "local_dir", "bytes", "layout"}

    Raises:
        UserError: if the hub cannot be reached or has no such repository, the disk is too small, or what came is not
            a sound LLaDA2 checkpoint.
    """
    folder = Path(local_dir)
    with _explained(repo_id, revision):
        info = HfApi(endpoint=endpoint).model_info(repo_id, revision=revision, files_metadata=True)
        files = [file for file in info.siblings or [] if not file.rfilename.endswith(_LEFT_ON_HUB)]
        if not any(file.rfilename.endswith(".safetensors") for file in files):
            raise UserError(f"{repo_id} has no safetensors on the hub; weights as pickles are not fetched")
        _check_space(folder, sum(file.size or 0 for file in files if not _is_there(folder / file.rfilename, file.size)))
        with nullcontext() if ENABLED.get() else no_progress_bars():
            snapshot_download(
                repo_id,
                revision=info.sha,
                local_dir=folder,
                ignore_patterns=[f"*{ending}" for ending in _LEFT_ON_HUB],
                endpoint=endpoint,
            )
    return {
        "repo_id": repo_id,
        "revision": info.sha,
        "local_dir": str(folder),
        "bytes": sum(file.size or 0 for file in files),
        "layout": open_checkpoint(folder).layout,
    }


def local_folder(path: str | os.PathLike, **hub: Any) -> Path:
    """A checkpoint's folder: ``path`` itself, or where the hub's repository of that name is cached.

    Args:
        hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``.
    """
    if Path(path).is_dir():
        return Path(path)
    with _explained(str(path), hub.get("revision")), no_progress_bars():
        return Path(snapshot_download(str(path), allow_patterns=["*.json", "*.safetensors"], **hub))


@contextmanager
def _explained(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's exceptions into one line each."""
    try:
        yield
    except HFValidationError:
        raise UserError(f"{repo_id} is neither a folder nor the name (owner/name) of a hub repository") from None
    except GatedRepoError:
        raise UserError(f"{repo_id} wants you to accept its terms on the hub and to log in: hf auth login") from None
    except RevisionNotFoundError:
        raise UserError(f"{repo_id} has no revision {revision}; see its branches and tags on the hub") from None
    except RepositoryNotFoundError:
        raise UserError(f"{repo_id} is no folder here and not on the hub (or private: hf auth login)") from None
    except _UNREACHABLE as error:
        if isinstance(error, OSError) and error.filename:  # the disk's fault, not the net's
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{repo_id} is no folder here, and the hub cannot be reached ({reason}); run the same again where there "
            "is a connection (it goes on where it stopped), or copy the folder from a machine that has one"
        ) from None


def _is_there(file: Path, size: int | None) -> bool:
    return file.is_file() and file.stat().st_size == size


def _check_space(folder: Path, wanted: int) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise UserError(f"{folder} needs {wanted:,} bytes, and its disk has {free:,} left; free some or go elsewhere")
