"""What a run writes down while it goes: metrics as JSON lines, Accelerate's trackers, and how fast it is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.llada2.scale import forward_flops
from wmtoolkit.training.config import Config
from wmtoolkit.world.batching import Batch
from wmtoolkit.world.network import WorldNetwork


class Log:
    """metrics.jsonl and Accelerate's trackers, from the main process only."""

    def __init__(self, accelerator: Accelerator, out: Path, config: Config, step: int) -> None:
        self.accelerator, self.path = accelerator, out / "metrics.jsonl"
        if accelerator.is_main_process:
            self._cut(step)
            self.file = self.path.open("a", encoding="utf-8")
        flat = {key: value for key, value in _flat(asdict(config)) if isinstance(value, int | float | str | bool)}
        if config.logging.trackers:
            accelerator.init_trackers("wmtoolkit", config=flat, init_kwargs={"wandb": {"dir": str(out)}})

    def _cut(self, step: int) -> None:
        """Drop what a killed run wrote after its last checkpoint: it comes again."""
        if not self.path.is_file():
            return
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                kept = json.loads(line)["step"] <= step
            except (ValueError, KeyError, TypeError):
                continue
            if kept:
                lines.append(line + "\n")
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(lines), encoding="utf-8")
        os.replace(temporary, self.path)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        self.accelerator.log(values, step=step)

    def close(self) -> None:
        """End the training; the caller has let go of what ``accelerator.prepare`` wrapped.

        A wrapper that outlives the process group is the last to hold it, and destroys it under Python's lock, for which
        the group's own thread may be waiting to let go of its last tensors: the process would never exit.
        """
        self.accelerator.free_memory()
        self.accelerator.end_training()
        if self.accelerator.is_main_process:
            self.file.close()


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_trackers(names: Sequence[str]) -> None:
    """``UserError`` for a tracker that Accelerate does not know or whose package is not installed."""
    known = {str(kind) for kind in LoggerType} - {"all"}
    installed = {str(kind) for kind in get_available_trackers()}
    for name in names:
        if name not in known:
            raise UserError(f"logging.trackers: unknown tracker {name!r}; known are {', '.join(sorted(known))}")
        if name not in installed:
            raise UserError(f"logging.trackers: {name} is not installed; run: pip install {name}")


class Throughput:
    """Tokens a second and model FLOPs utilisation: the FLOPs of forward and backward passes over what a plain matrix
    product of the same type reaches on the device (PaLM, arXiv:2204.02311, appendix B, with the peak measured)."""

    def __init__(self, network: WorldNetwork, processes: int, dtype: torch.dtype) -> None:
        self.config = cast(LLaDA2MoeConfig, network.llada2.config)
        self.peak = processes * _matmul_flops(network.device, dtype)
        self.tokens, self.flops, self.began = 0, 0.0, time.perf_counter()

    def add(self, batch: Batch) -> None:
        """Count the batch of one step, of all processes."""
        rows, length = batch.tokens.ids.shape
        self.tokens += rows * length
        self.flops += 3 * forward_flops(self.config, rows * length, length)

    def line(self) -> dict[str, float]:
        """Since the process began."""
        seconds = time.perf_counter() - self.began
        return {"tokens_per_second": self.tokens / seconds, "mfu": self.flops / seconds / self.peak}


def _matmul_flops(device: torch.device, dtype: torch.dtype, size: int = 1024) -> float:
    """FLOPs a second of a square matrix product, the best of a few."""
    left = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
