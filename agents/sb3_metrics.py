"""What a policy's training writes down while it goes: JSON lines and TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter
from torch.utils.tensorboard import SummaryWriter


class Metrics(KVWriter):
    """SB3's log, and measurements, in ``metrics.jsonl`` and ``tensorboard/``.

    Args:
        out: the run folder.
        step: go on behind this step, dropping what a killed run wrote after it; -1 begins anew.
    """

    def __init__(self, out: Path, step: int) -> None:
        self._path = out / "metrics.jsonl"
        kept = [line for line in self.lines() if line["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Called by SB3's logger."""
        self.add(step, {key: float(value) for key, value in key_values.items() if not isinstance(value, str)})

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write down numbers of a step."""
        if not values:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def lines(self) -> list[dict[str, Any]]:
        """All that was written so far; a line cut off by a crash is left out."""
        found = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def close(self) -> None:
        self._file.close()
        self._board.close()
