"""Run folders: which config and data a run has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from wmtoolkit.errors import UserError
from wmtoolkit.training.config import Config, load_config


def prepare_run(
    out: Path, name: str, overrides: Sequence[str], data: Sequence[str], *, resume: bool, overwrite: bool
) -> tuple[Config, list[str]]:
    """Config and data of a new run, or those that a run to be resumed was begun with.

    Raises:
        UserError: nothing to resume is in ``out``, or the config is wrong.
    """
    if resume and (out / "config.yaml").is_file():
        paths = list(data)
        if not paths and (out / "dataset.json").is_file():
            paths = json.loads((out / "dataset.json").read_text(encoding="utf-8"))["paths"]
        return load_config(str(out / "config.yaml"), overrides), paths
    config = load_config(name, overrides)
    if overwrite and out.exists():
        if any(out.iterdir()) and not (out / "config.yaml").is_file():
            raise UserError(f"--out {out} holds something that is not a run; it is not overwritten")
        shutil.rmtree(out)
    return config, list(data)
