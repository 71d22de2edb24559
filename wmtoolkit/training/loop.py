"""The training loop, on Accelerate."""

from __future__ import annotations

import itertools
import json
import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from torch import nn

from wmtoolkit.data import open_store
from wmtoolkit.data.collection import collect
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.results import git_commit, versions, write_json
from wmtoolkit.interrupts import handling
from wmtoolkit.progress import progress
from wmtoolkit.training.batches import Sampler, draw_batch, drawn_ahead, full_size
from wmtoolkit.training.checkpoints import load_step, save_step, step_folders
from wmtoolkit.training.config import Config, write_config
from wmtoolkit.training.curriculum import curriculum, plot_curriculum
from wmtoolkit.training.log import Log, Throughput, check_trackers
from wmtoolkit.training.objective import KINDS, MaskedReconstruction, Weights, weigh
from wmtoolkit.training.optim import MatrixMuon, hidden_matrices, moving_average, schedule
from wmtoolkit.training.scale import lay_out, plain, rest, whole
from wmtoolkit.training.start import check_start, starting_network
from wmtoolkit.world import checkpoint, masks, windows
from wmtoolkit.world.batching import Batch
from wmtoolkit.world.likelihood import target_log_probs
from wmtoolkit.world.network import WorldNetwork, native_bf16
from wmtoolkit.world.tokenizer import BLOCK


def train(
    config: Config,
    out: Path,
    data: Sequence[str] = (),
    *,
    resume: bool = False,
    init: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Train a world model into a run directory.

    The run directory holds ``config.yaml``, ``dataset.json``, ``metrics.jsonl``, ``tensorboard/``,
    ``checkpoints/step-NNNNNNN/`` and ``checkpoint/``, the best by validation NLL; with scheduled masks also
    ``curriculum.svg``, a plot of them.

    Args:
        config: what to train and how.
        out: the run directory.
        data: datasets (Minari ids or folders); empty collects the config's own under ``out/data``.
        resume: go on from the newest checkpoint in ``out``; the result equals that of an uninterrupted run.
        init: checkpoint to start from instead of random weights.
        workers: processes for collecting.

    Returns:
        ``step``, ``best_validation_nll``, ``seconds``, ``checkpoint``.

    Raises:
        UserError: bad data, a run of another config or dataset, a loss that is not finite, a full disk.
        KeyboardInterrupt: after an interrupt, with a checkpoint saved.
    """
    check_trackers(config.logging.trackers)
    AcceleratorState._reset_state()  # or else a second training of this process could not have another precision
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=_precision(config),
        log_with=list(config.logging.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(out), logging_dir=str(out / "tensorboard")),
    )
    main = accelerator.is_main_process
    _check_size(config, accelerator.num_processes)
    if not resume:
        check_start(config, init)
    if main:
        out.mkdir(parents=True, exist_ok=True)
    paths = list(data) or _own_data(config, out, workers, accelerator)
    store = open_store(paths, "train")
    document = {"paths": paths, **store.document()}
    if main:
        _claim(out, config, document, resume)
    accelerator.wait_for_everyone()

    frames = windows.Frames.from_store(store, config.data.weights)
    validation = windows.Frames.from_store(open_store(paths, "validation"))
    torch.manual_seed(config.training.seed)
    found = step_folders(out / "checkpoints") if resume else []
    network, init = starting_network(config, init, found[-1] if found else None)
    lay_out(network, config.scale, accelerator.device, accelerator.mixed_precision == "bf16", init)
    module = MaskedReconstruction(network)
    network.bf16_inference = accelerator.mixed_precision == "bf16"
    average = moving_average(network, config.training.ema) if config.training.ema else None
    judged = network if average is None else cast(WorldNetwork, average.module)  # what is validated and kept
    if config.training.compile:
        network.llada2.model.compile(dynamic=False)  # batches are of two shapes
    optimizers = make_optimizers(network, config)
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.items()}
    numbers: dict[str, Any] = {"step": 0, "best": math.inf, "seconds": 0.0, "without_gain": 0}
    if found:
        numbers = load_step(found[-1], network, optimizers, average)
    wrapped = module if config.scale.sharded else accelerator.prepare(module)
    facts = {"levels": sorted(store.level_ids), "data": store.fingerprint, "config": config.name}
    log = Log(accelerator, out, config, int(numbers["step"]))
    low_precision = accelerator.mixed_precision == "bf16"
    speed = Throughput(network, accelerator.num_processes, torch.bfloat16 if low_precision else torch.float32)
    spent = float(numbers["seconds"])
    steps, began = config.training.steps, time.perf_counter()

    def save(step: int) -> None:
        """Validate and write a checkpoint: the main process's work, with which all help where weights are sharded."""
        seconds = spent + time.perf_counter() - began
        value = validation_nll(judged, validation, config.training.validation_windows)
        rest(network)
        log.write(step, {"validation_nll_per_step": value, "seconds": seconds})
        improved = value <= numbers["best"]
        numbers["without_gain"] = 0 if improved else numbers["without_gain"] + 1
        numbers["best"] = min(numbers["best"], value)
        state = {"best": numbers["best"], "seconds": seconds, "without_gain": numbers["without_gain"]}
        state["init"] = None if init is None else str(init.resolve())
        (out / "checkpoints").mkdir(exist_ok=True)
        keep = config.training.keep_last
        save_step(out / "checkpoints", step, network, optimizers, average, state, facts, keep=keep, main=main)
        if improved and (best := plain(judged, main)) is not None:
            checkpoint.save(best, out / "checkpoint", {**facts, "steps": step, "validation_nll_per_step": value})

    world = network.world

    def draw(step: int) -> Batch:
        return draw_batch(frames, make_sampler(config, step), world, config.training.seed, step)

    done = int(numbers["step"])
    batches = drawn_ahead(draw, range(done, steps), config.training.loaders)
    with _interruptible() as interrupted, progress("train", steps, done) as bar:
        for step in range(done, steps):
            options = config.training
            factor = schedule(options.schedule, step, steps, options.warmup, options.decay)
            for name, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = rates[name] * factor
            batch = next(batches)
            weights = weigh(batch, config.loss)
            if weights.total == 0:
                raise UserError(
                    f"nothing is asked in the batch of step {step + 1}: no hidden token has a weight in the loss; "
                    "raise the share of masks that hide something (masking.mixture) or the weights (loss.*)"
                )
            speed.add(batch)
            loss, parts = _backward(accelerator, wrapped, batch, weights, options.accumulation)
            norm = whole(accelerator.clip_grad_norm_(network.parameters(), options.gradient_clip))
            if not (torch.isfinite(loss) and torch.isfinite(torch.as_tensor(norm))):
                raise UserError(_not_finite(out, config, step, batch))
            for optimizer in optimizers.values():
                optimizer.step()
            network.zero_grad(set_to_none=True)
            if average is not None:
                average.update_parameters(network)
            done = step + 1
            if done % config.logging.every == 0 or done == steps:
                line = _gathered(accelerator, loss, parts)
                line |= {"learning_rate_factor": factor, "gradient_norm": float(norm), **speed.line()}
                log.write(done, line)
                bar.advance(0, f"loss {line['loss']:.4f}, {line['tokens_per_second']:,.0f} tokens/s")
            bar.advance()
            stop = accelerator.reduce(torch.tensor(float(interrupted())), "max").item() > 0
            if done % options.checkpoint_every == 0 or done == steps or stop:
                if main or config.scale.sharded:
                    save(done)
                accelerator.wait_for_everyone()
                patient = numbers["without_gain"] < options.patience or not options.patience
                if accelerator.reduce(torch.tensor(float(not patient)), "max").item() > 0:
                    break
            if stop and done < steps:
                del wrapped
                log.close()
                raise KeyboardInterrupt(
                    f"interrupted at step {done} of {steps}, which is saved; go on with: "
                    f"wmtool train --resume --out {out}"
                )
    del wrapped
    log.close()
    return {
        "step": done,
        "best_validation_nll": numbers["best"],
        "seconds": spent + time.perf_counter() - began,
        "checkpoint": str(out / "checkpoint"),
    }


def _check_size(config: Config, processes: int) -> None:
    """Every process must get a window of every batch, and of every part of it."""
    parts = config.training.accumulation
    size = config.training.batch_size
    if config.masking.full_share:
        size = min(size, full_size(size, config.world))
    if size < processes * parts:
        raise UserError(
            f"a batch of {size} windows cannot be divided among {processes} "
            f"processes in {parts} parts; raise training.batch_size, or lower world.span"
        )


def _backward(
    accelerator: Accelerator, module: nn.Module, batch: Batch, weights: Weights, parts: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Gradients of this process's share of a batch, in some parts; its loss, and (2,) sums and counts by kind."""
    size, count = len(batch.given), accelerator.num_processes
    edges = [size * (accelerator.process_index * parts + part) // (count * parts) for part in range(parts + 1)]
    loss = torch.zeros((), device=accelerator.device)
    sums: dict[str, torch.Tensor] = {}
    for low, high in itertools.pairwise(edges):
        # DDP averages gradients over processes, each of which holds a part of the sum: hence the factor.
        last = high == edges[-1]
        with nullcontext() if last else accelerator.no_sync(module):
            with accelerator.autocast():
                total, kinds = module(batch.rows(slice(low, high)), weights.rows(slice(low, high)))
                part_loss = total * (count / weights.total)
            accelerator.backward(part_loss)
        loss += part_loss.detach()
        for kind, value in kinds.items():
            sums[kind] = sums.get(kind, 0) + value
    return loss, sums


def make_sampler(config: Config, step: int = 0) -> Sampler:
    """The sampler that a config describes for a step."""
    masking = config.masking
    mixture, full_mixture, ratio = masking.mixture, masking.full_mixture, 1.0
    if masking.strategy == "scheduled":
        mixture, ratio = curriculum(masking, step / config.training.steps)
    elif masking.strategy != "mixture":
        mixture = full_mixture = {masking.strategy: 1.0}
    return Sampler(
        batch_size=config.training.batch_size,
        ending_share=masking.ending_share,
        full_share=masking.full_share,
        mixture=mixture,
        full_mixture=full_mixture,
        largest_ratio=ratio,
        behaviour_dropout=masking.behaviour_dropout,
        mission_share=masking.mission_share,
        event_share=masking.event_share,
        near_share=masking.near_share,
        lone_outcomes=masking.lone_outcomes,
        swap_share=masking.swap_share,
    )


def make_optimizers(network: WorldNetwork, config: Config) -> dict[str, torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for everything else; or AdamW alone."""
    if config.scale.optimizer == "adamw":
        trained = [value for value in network.parameters() if value.requires_grad]
        options = config.training
        return {"adamw": torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.weight_decay)}
    matrices = list(hidden_matrices(network))
    taken = {id(source) for source, _ in matrices}
    rest = [value for value in network.parameters() if value.requires_grad and id(value) not in taken]
    options = config.training
    return {
        "muon": MatrixMuon(matrices, lr=options.muon_learning_rate, weight_decay=options.weight_decay),
        "adamw": torch.optim.AdamW(
            rest, lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=options.weight_decay
        ),
    }


@torch.no_grad()
def validation_nll(network: WorldNetwork, frames: windows.Frames, count: int, chunk: int = 64) -> float:
    """Any-order bound on the NLL of a step, in nats, on ``count`` fixed steps with fixed masks; targets are hidden."""
    rng = np.random.default_rng(0)
    anywhere = np.flatnonzero(frames.outcomes != 0)
    chosen = rng.choice(anywhere, count)
    episode = np.searchsorted(frames.offsets, chosen, side="right") - 1
    drawn = masks.draw({"cell": 1.0}, (count, 1), rng)
    total, training = 0.0, network.training
    network.eval()
    for low in range(0, count, chunk):
        part = slice(low, low + chunk)
        window = windows.cut(frames, episode[part], chosen[part] - frames.offsets[episode[part]] - 1, 2, network.world)
        part_masks = masks.Masks(drawn.slots[part], drawn.cells[part], drawn.strategy[part])
        weight = BLOCK / part_masks.targets[:, 0].sum(-1, keepdims=True)
        total -= float((target_log_probs(network, window, part_masks) * weight).sum())
    network.train(training)
    return total / count


def _precision(config: Config) -> str:
    if config.training.mixed_precision != "auto":
        return {"bf16": "bf16", "float32": "no"}[config.training.mixed_precision]
    return "bf16" if native_bf16("cuda" if torch.cuda.is_available() else "cpu") else "no"


def _own_data(config: Config, out: Path, workers: int, accelerator: Accelerator) -> list[str]:
    """Collect the config's levels under the run directory, once."""
    paths = [out / "data" / level.rpartition(":")[2] for level in config.data.levels]
    if accelerator.is_main_process:
        for level, path in zip(config.data.levels, paths, strict=True):
            collect(
                level,
                config.data.episodes,
                policy=config.data.policy,
                max_steps=config.data.max_steps or None,
                seed=config.data.seed,
                workers=workers,
                out=path,
                resume=True,
            )
    accelerator.wait_for_everyone()
    return [str(path) for path in paths]


def _claim(out: Path, config: Config, document: dict[str, Any], resume: bool) -> None:
    """Write down what the run is, or check that a resumed run is the same."""
    record = out / "dataset.json"
    if resume and record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        if before.get("fingerprint") != document["fingerprint"]:
            raise UserError(f"{record}: the data has changed since the run began; start a new run in another --out")
    else:
        write_json(record, document)
        write_json(out / "versions.json", {"versions": versions(), "git": git_commit()})
    write_config(config, out / "config.yaml")
    if config.masking.strategy == "scheduled":
        plot_curriculum(config.masking, out / "curriculum.svg")


def _gathered(accelerator: Accelerator, loss: torch.Tensor, parts: dict[str, torch.Tensor]) -> dict[str, float]:
    """Loss, and cross-entropy by kind in nats a token, over all processes."""
    zero = torch.zeros(2, device=loss.device)
    stacked = torch.stack([parts.get(kind, zero) for kind in KINDS])
    sums = accelerator.reduce(stacked, "sum")
    line = {"loss": float(accelerator.reduce(loss.detach(), "mean"))}
    for kind, (total, count) in zip(KINDS, sums.tolist(), strict=True):
        if count:
            line[f"loss/{kind}"] = total / count
    return line


def _not_finite(out: Path, config: Config, step: int, batch: Batch) -> str:
    """Keep the batch for whoever looks into it, and say so."""
    write_json(out / "not_finite.json", {"seed": config.training.seed, "step": step, "config": asdict(config)})
    np.savez(out / "not_finite.npz", tokens=batch.tokens.ids, given=batch.given, target=batch.target, valid=batch.valid)
    return (
        f"the loss is not finite at step {step + 1}; the batch is in {out / 'not_finite.npz'} and the last checkpoint "
        "is intact: resume with a lower learning rate, e.g. --set training.muon_learning_rate=0.01"
    )


@contextmanager
def _interruptible() -> Iterator[Any]:
    """Let SIGINT and SIGTERM finish the step first; a second SIGINT stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt("interrupted twice; the last checkpoint is intact")
        asked.append(number)

    with handling([signal.SIGINT, signal.SIGTERM], ask):
        yield lambda: bool(asked)
