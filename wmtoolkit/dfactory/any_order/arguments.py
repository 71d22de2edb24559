"""Arguments of the task, in dFactory's three groups, and all that is refused before anything long starts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from safetensors import safe_open
from veomni.utils.arguments import DataArguments, ModelArguments, TrainingArguments

from .layout import Layout

MODEL_TYPE = "llada2_moe_veomni"
"""The config's name for merged experts: dFactory chooses the layout of the experts by it."""


@dataclass
class AnyOrderModelArguments(ModelArguments):
    attn_implementation: Literal["eager", "sdpa", "flex_attention"] = field(
        default="sdpa", metadata={"help": "Only sdpa reads the mask as it is meant."}
    )


@dataclass
class AnyOrderDataArguments(DataArguments):
    data_type: Literal["tokenid"] = field(default="tokenid", metadata={"help": "Sequences of ids of equal length."})
    datasets_type: Literal["mapping", "local"] = field(default="mapping", metadata={"help": "JSONL, or Arrow on disk."})
    text_keys: str = field(default="input_ids", metadata={"help": "Key of the ids."})
    layout_path: str = field(
        default="./data/any_order_babyai/world_layout.json", metadata={"help": "Where the world's tokens lie."}
    )
    noise_range_low: float = field(default=0.0, metadata={"help": "Smallest ratio of the any-order masks."})
    noise_range_high: float = field(default=1.0, metadata={"help": "Largest ratio of the any-order masks."})
    mask_mixture: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Share of each mask under block diffusion; empty: the usual ones."}
    )
    full_mask_mixture: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Share of each mask under full attention; empty: the usual ones."}
    )
    loss_weights: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Weight of each kind of token; empty: the usual ones. All 1: plain."}
    )
    full_attention_share: float = field(
        default=0.15, metadata={"help": "Share of the sequences under full attention, with block_diffusion_mode."}
    )
    behaviour_dropout: float = field(default=0.1, metadata={"help": "Share of sequences that do not say who acted."})


@dataclass
class AnyOrderTrainingArguments(TrainingArguments):
    beta1: float = field(default=0.9, metadata={"help": "AdamW's beta1."})
    beta2: float = field(default=0.999, metadata={"help": "AdamW's beta2."})
    block_diffusion_mode: bool = field(
        default=True, metadata={"help": "True: 2L layout, block by block. False: full attention over the noisy ids."}
    )
    block_size: int = field(default=64, metadata={"help": "Tokens of a block: one time step."})
    same_token_labels: bool = field(default=True, metadata={"help": "Must be true: a diffusion model is not shifted."})

    def __post_init__(self) -> None:
        """VeOmni refuses these too, but does not say what to change."""
        if self.tensor_parallel_size != 1:
            raise ValueError(f"train.tensor_parallel_size is {self.tensor_parallel_size}; VeOmni can do 1 alone")
        if self.data_parallel_mode == "fsdp2" and self.init_device != "meta":
            raise ValueError(f"train.init_device is {self.init_device}; fsdp2 needs meta")
        ranks = int(os.environ["WORLD_SIZE"])
        share = ranks * self.micro_batch_size
        total = share if self.global_batch_size is None else self.global_batch_size
        sizes = f"train.global_batch_size {total} on {ranks} ranks with train.micro_batch_size {self.micro_batch_size}"
        if total % share:
            nearest = max(1, round(total / share)) * share
            raise ValueError(f"{sizes}: it must be a multiple of {share}; add --train.global_batch_size {nearest}")
        if total > share and self.enable_fsdp_offload:
            raise ValueError(
                f"{sizes} needs gradient accumulation, which CPU offload forbids; add --train.global_batch_size "
                f"{share}, or --train.enable_fsdp_offload false"
            )
        super().__post_init__()


@dataclass
class Arguments:
    model: AnyOrderModelArguments = field(default_factory=AnyOrderModelArguments)
    data: AnyOrderDataArguments = field(default_factory=AnyOrderDataArguments)
    train: AnyOrderTrainingArguments = field(default_factory=AnyOrderTrainingArguments)


@contextmanager
def refusing() -> Iterator[None]:
    """End the program with one line where a setting, a file or VeOmni itself says no."""
    try:
        yield
    except (ValueError, AssertionError, OSError) as error:
        raise SystemExit(f"train_any_order_babyai: {' '.join(str(error).split())}") from None


def check_keys(argv: list[str]) -> None:
    """VeOmni ignores keys it does not know, so a typing error would train something else: refuse it."""
    groups: dict[str, Any] = {group.name: group.default_factory for group in fields(Arguments)}
    known = {f"{name}.{entry.name}" for name, kind in groups.items() for entry in fields(kind)}
    given = [option.partition("=")[0].removeprefix("--") for option in argv[1:] if option.startswith("--")]
    if len(argv) > 1 and argv[1].endswith((".yaml", ".yml", ".json")):
        document = yaml.safe_load(Path(argv[1]).read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not all(isinstance(entries, dict) for entries in document.values()):
            raise ValueError(f"{argv[1]} has no groups model, data and train")
        given += [f"{group}.{name}" for group, entries in document.items() for name in entries]
    unknown = sorted(set(given) - known - {"help"})
    if unknown:
        raise ValueError(f"unknown key {unknown[0]}; --help lists those that are known")


def check(args: Arguments) -> Layout:
    """Refuse what would fail late or train wrong without a word."""
    train, model, data = args.train, args.model, args.data
    for option, paths, what in (
        ("model.model_path", model.model_path or "", "folder of the merged checkpoint"),
        ("model.tokenizer_path", model.tokenizer_path or "", "folder of the merged checkpoint"),
        ("data.train_path", data.train_path, "exported train.jsonl"),
    ):
        for path in paths.split(","):
            if not path or not ("://" in path or Path(path).exists()):
                raise ValueError(f"{option} {path!r} is not there; add --{option} with the {what}")
    layout = Layout.read(data.layout_path)
    config = json.loads(Path(model.config_path or "", "config.json").read_text(encoding="utf-8"))
    rules = [
        (train.same_token_labels, "train.same_token_labels must be true: LLaDA2 predicts in place, not the next token"),
        (
            train.block_size == layout.block_size,
            f"train.block_size is {train.block_size}, the data has blocks of {layout.block_size}: set it to that",
        ),
        (
            model.attn_implementation == "sdpa",
            f"model.attn_implementation is {model.attn_implementation}; only sdpa reads the mask as it is meant",
        ),
        (
            not (train.rmpad or train.rmpad_with_pos_ids),
            "train.rmpad and train.rmpad_with_pos_ids must be false: the mask is dense",
        ),
        (
            train.ulysses_parallel_size == train.context_parallel_size == 1,
            "train.ulysses_parallel_size and train.context_parallel_size must be 1: a dense mask is not split",
        ),
        (
            config.get("model_type") == MODEL_TYPE,
            f"{model.config_path}: model_type is {config.get('model_type')}, not {MODEL_TYPE}: use the exported one",
        ),
        (
            config.get("vocab_size") == layout.vocab_size,
            f"{model.config_path}: vocab_size is {config.get('vocab_size')}, the data needs {layout.vocab_size}: "
            "the vocabulary was not grown",
        ),
        (
            0 <= data.noise_range_low <= data.noise_range_high <= 1,
            "data.noise_range_low and data.noise_range_high must be a range in 0..1",
        ),
        (
            0 <= data.full_attention_share <= 1 and 0 <= data.behaviour_dropout <= 1,
            "data.full_attention_share and data.behaviour_dropout must be shares from 0 to 1",
        ),
    ]
    for holds, complaint in rules:
        if not holds:
            raise ValueError(complaint)
    return layout


def check_sequences(dataset: Any, args: Arguments) -> None:
    """A number of sequences that fills a batch, each of this length and layout: of a hundred all over the data."""
    count, batch = len(dataset), args.train.global_batch_size
    if count < batch:
        raise ValueError(
            f"{args.data.train_path} has {count} sequences, train.global_batch_size is {batch}: export more data"
        )
    for index in range(0, count, max(1, count // 100)):
        dataset[index]  # transforms it, which says what is wrong with it
    dataset[count - 1]


def check_weights(model: torch.nn.Module, folder: str) -> None:
    """VeOmni fills weights it does not find with random numbers and only logs it: refuse them instead."""
    stored: set[str] = set()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            stored.update(tensors.keys())
    missing = sorted(set(model.state_dict()) - stored)
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights that would be random, the first {missing[0]}; give a checkpoint "
            "with merged experts (wmtool convert --mode merge)"
        )


def check_space(model: torch.nn.Module, train: AnyOrderTrainingArguments) -> None:
    """A disk that is full at the first checkpoint would cost the training: weights and two moments, each time."""
    if "://" in train.output_dir:
        return
    saves = (train.num_train_epochs // train.save_epochs if train.save_epochs else 0) + (
        train.num_train_epochs * train.train_steps // train.save_steps if train.save_steps else 0
    )
    each = 3 * (4 if train.enable_mixed_precision else 2)
    count = sum(value.numel() for value in model.parameters())
    wanted = count * (saves * each + 2 * bool(saves and train.save_hf_weights))
    place = Path(train.output_dir).absolute()
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    if free < wanted:
        raise ValueError(
            f"train.output_dir {train.output_dir}: {saves} checkpoints take {wanted / 1e9:,.1f} GB, its disk has "
            f"{free / 1e9:,.1f} GB left; go elsewhere, or save less often (train.save_steps, train.save_epochs)"
        )
