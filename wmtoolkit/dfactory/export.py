"""A folder to be copied into a dFactory checkout: task, configs and data, checked against the checkpoint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from wmtoolkit.data import open_store
from wmtoolkit.data.files import whole_folder
from wmtoolkit.dfactory.readme import VEOMNI, readme
from wmtoolkit.dfactory.sequences import layout_document, sequences
from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import open_checkpoint
from wmtoolkit.llada2.convert import check_new
from wmtoolkit.llada2.released import RELEASED
from wmtoolkit.llada2.scale import count_parameters
from wmtoolkit.progress import progress
from wmtoolkit.world import checkpoint as world_checkpoint
from wmtoolkit.world.config import BEYOND_LLADA2
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig, world_config

TASK = "train_any_order_babyai.py"
_PARTS = ("__init__", "arguments", "layout", "masks", "transform", "step")
_DATA = Path("data/any_order_babyai")


def export(
    data: Sequence[str],
    checkpoint: Path,
    out: Path,
    *,
    split: str = "train",
    max_seq_len: int = 2048,
    block_size: int | None = None,
    ranks: int | None = None,
    micro_batch_size: int = 1,
    global_batch_size: int | None = None,
    offload: bool = True,
    recent: int = 8,
    span: int = 12,
    dfactory: Path | None = None,
) -> dict[str, Any]:
    """Lay out everything that a dFactory checkout needs to train on trajectories; the checkpoint stays where it is.

    Args:
        data: datasets (Minari ids or folders).
        checkpoint: a LLaDA2 with the world's tokens in its vocabulary and merged experts.
        out: a folder to be made, whole or not at all.
        max_seq_len: tokens of a sequence; whole blocks.
        block_size: tokens of a block, to be checked; that of the grown vocabulary if not given.
        ranks: GPUs (default: 8 for the 16B model and smaller ones, 16 for larger).
        global_batch_size: sequences a step (default: one micro-batch a rank).
        offload: keep parameters and optimiser on the CPU, which forbids gradient accumulation.
        recent, span: what the model that is read back remembers: frames of a rollout, and of an infilled plan.
        dfactory: a checkout whose versions are checked.

    Returns:
        {"out", "sequences", "tokens", "episodes", "train": settings of the YAML}

    Raises:
        UserError: naming what does not fit and what to change.
    """
    check_new(out, "--out")
    text, model, config = _check_checkpoint(checkpoint)
    if ranks is None:
        ranks = 16 if model == "flash" else 8
    _check_lengths(text, max_seq_len, block_size)
    batch = _check_ranks(ranks, micro_batch_size, global_batch_size, offload)
    if recent < 1 or span < 2:
        raise UserError(f"recent is {recent} and span {span}; they must be at least 1 and 2")
    if dfactory is not None:
        check_checkout(dfactory)
    store = open_store(list(data), split)
    _check_space(out, store.num_frames * text.block_length * 7)

    name = f"llada2_{model}"
    settings = {
        "config_path": f"./configs/model_configs/{name}_world",
        "model_path": str(checkpoint.resolve()),
        "tokenizer_path": str(checkpoint.resolve()),
        "max_seq_len": max_seq_len,
        "global_batch_size": batch,
        "micro_batch_size": micro_batch_size,
        "enable_fsdp_offload": str(offload).lower(),
        "block_size": text.block_length,
    }
    package = files("wmtoolkit.dfactory")
    with whole_folder(out) as folder:
        tasks = folder / "tasks"
        (tasks / "any_order").mkdir(parents=True)
        for file in (TASK, *(f"any_order/{part}.py" for part in _PARTS)):
            (tasks / file).write_text((package / file).read_text(encoding="utf-8"), encoding="utf-8")
        yaml = filled((package / f"{name}_any_order_babyai.yaml").read_text(encoding="utf-8"), settings)
        _write(folder / "configs" / "sft" / f"{name}_any_order_babyai.yaml", yaml)
        _write(folder / "configs" / "model_configs" / f"{name}_world" / "config.json", json.dumps(config, indent=2))
        count = _write_sequences(folder / _DATA / "train.jsonl", store, text, max_seq_len)
        if count < batch:
            raise UserError(f"the data makes {count} sequences, fewer than a batch of {batch}; give more --data")
        _write(folder / _DATA / "world_layout.json", json.dumps(layout_document(text, span), indent=2))
        world = world_checkpoint.describe(checkpoint)
        seen = max_seq_len // text.block_length - 2  # frames that training shows before another
        world["world"] |= {"recent": min(recent, seen), "span": min(span, seen + 1)}
        world |= {"levels": sorted(store.level_ids), "data": store.fingerprint}
        _write(folder / _DATA / "world.json", json.dumps(world, indent=2))
        parameters = count_parameters(open_checkpoint(checkpoint).config)["total"]
        _write(folder / "README_any_order_babyai.md", readme(name, ranks, parameters, settings))
    tokens = count * max_seq_len
    return {"out": str(out), "sequences": count, "tokens": tokens, "episodes": len(store), "train": settings}


def filled(yaml: str, settings: dict[str, Any]) -> str:
    """A YAML with the values of some keys replaced; comments stay, in their columns."""
    lines = yaml.split("\n")
    for key, value in settings.items():
        (place,) = [number for number, line in enumerate(lines) if line.startswith(f"  {key}: ")]
        plain = re.fullmatch(r"[\w./-]+", str(value))
        line = f"  {key}: {value if plain else json.dumps(str(value))}"
        _, mark, comment = lines[place].partition("#")
        column = lines[place].index("#") if mark else 0
        lines[place] = f"{line:{column - 1}} #{comment}" if mark else line
    return "\n".join(lines)


def check_checkout(folder: Path) -> None:
    """Refuse a dFactory checkout of other versions than the task is written for."""
    update = f"git -C {folder} submodule update --init"
    if not (folder / "tasks" / "train_llada2_bd.py").is_file():
        raise UserError(f"--dfactory {folder} is no dFactory checkout: it has no tasks/train_llada2_bd.py")
    veomni = folder / "VeOmni"
    if (veomni / "veomni" / "arguments").is_dir():
        raise UserError(f"{veomni} is newer than dFactory's submodule (v0.1.2, {VEOMNI}); get that one: {update}")
    if not (veomni / "veomni" / "utils" / "arguments.py").is_file():
        raise UserError(f"{veomni} is not there; fetch dFactory's submodule: {update}")
    done = subprocess.run(["git", "-C", str(veomni), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    commit = done.stdout.strip()
    if done.returncode == 0 and not commit.startswith(VEOMNI):
        raise UserError(f"{veomni} is at {commit[:7]}, the task is written for {VEOMNI} (v0.1.2); get it: {update}")


def _check_checkpoint(folder: Path) -> tuple[TextVocabulary, str, dict[str, Any]]:
    """Its vocabulary, whether it is nearer to mini or to flash, and its config as dFactory wants it."""
    checkpoint = open_checkpoint(folder)
    if checkpoint.layout != "merged":
        raise UserError(
            f"{folder} holds separate experts, dFactory trains merged ones; "
            f"wmtool convert --mode merge -i {folder} -o {folder.name}-merged"
        )
    if not (folder / "world.json").is_file():
        raise UserError(
            f"{folder}: the vocabulary was not grown by the world's tokens; "
            f"wmtool export --target grown --checkpoint {folder} --out {folder.name}-world"
        )
    try:
        world = world_config(world_checkpoint.describe(folder)["world"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / 'world.json'}: {error}") from error
    if not isinstance(world, TextWorldConfig):
        raise UserError(f"{folder} is a world model with a vocabulary of its own; dFactory trains a grown text LLaDA2")
    features = [name for name in BEYOND_LLADA2 if getattr(world, name)]
    if features:
        raise UserError(f"{folder} was trained with world.{features[0]}, which dFactory's LLaDA2 does not have")
    if world.text.size != checkpoint.config.vocab_size:
        raise UserError(
            f"{folder}: world.json is for {world.text.size} tokens, vocab_size in config.json is "
            f"{checkpoint.config.vocab_size}; grow the text checkpoint again"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = "flash" if checkpoint.config.hidden_size >= RELEASED["flash"]["hidden_size"] else "mini"
    return world.text, model, {**config, "model_type": "llada2_moe_veomni"}


def _check_lengths(text: TextVocabulary, max_seq_len: int, block_size: int | None) -> None:
    size = text.block_length
    if block_size not in (None, size):
        raise UserError(
            f"--block-size is {block_size}, a time step of this checkpoint's vocabulary takes {size} tokens"
        )
    if max_seq_len % size or max_seq_len < 3 * size:
        nearest = max(3, round(max_seq_len / size)) * size
        raise UserError(
            f"--max-seq-len {max_seq_len} must be three or more whole blocks of {size} tokens; {nearest} is the nearest"
        )


def _check_ranks(ranks: int, micro: int, total: int | None, offload: bool) -> int:
    """The global batch size, checked as VeOmni will check it."""
    if ranks < 1 or micro < 1:
        raise UserError(f"--ranks {ranks} and --micro-batch-size {micro} must be at least 1")
    total = ranks * micro if total is None else total
    if total < 1 or total % (ranks * micro):
        raise UserError(
            f"--global-batch-size {total} is no multiple of {ranks} ranks x {micro} sequences; take {ranks * micro} or "
            "a multiple of it"
        )
    if offload and total != ranks * micro:
        raise UserError(
            f"--global-batch-size {total} on {ranks} ranks x {micro} needs gradient accumulation, which CPU offload "
            f"forbids; take {ranks * micro}, or --no-offload"
        )
    return total


def _check_space(out: Path, wanted: int) -> None:
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted:
        raise UserError(f"--out {out} needs about {wanted:,} bytes, and its disk has {free:,} left; go elsewhere")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _write_sequences(file: Path, store: Any, text: TextVocabulary, length: int) -> int:
    """One JSON line a sequence; returns their number."""
    file.parent.mkdir(parents=True)
    count = 0
    with file.open("w", encoding="utf-8") as lines, progress("exporting episodes", len(store)) as bar:
        for episode in range(len(store)):
            for sequence in sequences(store.trajectory(episode), text, length):
                lines.write(json.dumps({"id": count, **sequence}) + "\n")
                count += 1
            bar.advance()
    return count
