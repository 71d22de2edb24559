"""Arguments: three dataclasses, filled from a YAML and ``--group.key value``; unknown keys give a warning only."""

import argparse
import json
import os
import sys
import warnings
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml


@dataclass
class ModelArguments:
    config_path: str | None = None
    model_path: str | None = None
    tokenizer_path: str | None = None
    attn_implementation: str = "flash_attention_2"
    moe_implementation: str | None = None
    basic_modules: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.config_path = self.config_path or self.model_path
        self.tokenizer_path = self.tokenizer_path or self.config_path


@dataclass
class DataArguments:
    train_path: str
    train_size: int = 10_000_000
    data_type: Literal["plaintext", "conversation", "diffusion"] = "conversation"
    dataloader_type: str = "native"
    datasets_type: str = "mapping"
    text_keys: str | None = None
    max_seq_len: int = 2048
    num_workers: int = 2
    prefetch_factor: int | None = 2
    drop_last: bool = True
    pin_memory: bool = True

    def __post_init__(self):
        self.enable_multisource = self.train_path.endswith(".yaml")
        if self.num_workers == 0:
            self.prefetch_factor = None


@dataclass
class TrainingArguments:
    output_dir: str
    lr: float = 5e-5
    lr_min: float = 1e-7
    lr_start: float = 0.0
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "anyprecision_adamw"] = "adamw"
    max_grad_norm: float = 1.0
    micro_batch_size: int = 1
    global_batch_size: int | None = None
    num_train_epochs: int = 1
    rmpad: bool = True
    rmpad_with_pos_ids: bool = False
    dyn_bsz_margin: int = 0
    dyn_bsz_buffer_size: int = 200
    bsz_warmup_ratio: float = 0.0
    bsz_warmup_init_mbtoken: int = 200
    lr_warmup_ratio: float = 0.0
    lr_decay_style: str = "constant"
    lr_decay_ratio: float = 1.0
    enable_mixed_precision: bool = True
    enable_gradient_checkpointing: bool = True
    enable_reentrant: bool = False
    enable_full_shard: bool = True
    enable_forward_prefetch: bool = True
    enable_fsdp_offload: bool = False
    enable_activation_offload: bool = False
    activation_gpu_limit: float = 0.0
    init_device: Literal["cpu", "cuda", "meta", "npu"] = "cuda"
    broadcast_model_weights_from_rank0: bool = True
    enable_full_determinism: bool = False
    empty_cache_steps: int = 500
    data_parallel_mode: Literal["ddp", "fsdp1", "fsdp2"] = "ddp"
    data_parallel_replicate_size: int = -1
    data_parallel_shard_size: int = -1
    tensor_parallel_size: int = 1
    expert_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    ulysses_parallel_size: int = 1
    context_parallel_size: int = 1
    ckpt_manager: str = "dcp"
    load_checkpoint_path: str | None = None
    save_steps: int = 0
    save_epochs: int = 1
    save_hf_weights: bool = True
    seed: int = 42
    use_wandb: bool = False
    wandb_project: str = "VeOmni"
    wandb_name: str | None = None
    max_steps: int | None = None

    def __post_init__(self):
        self.local_rank, self.global_rank = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"])
        self.world_size = self.data_parallel_size = int(os.environ["WORLD_SIZE"])
        assert self.tensor_parallel_size == 1, "Tensor parallel size not supported yet."
        if self.data_parallel_mode == "fsdp2":
            assert self.init_device == "meta", "Please use init_device: meta for FSDP2 training"
        self.data_parallel_replicate_size, self.data_parallel_shard_size = 1, self.world_size
        share = self.micro_batch_size * self.data_parallel_size
        self.global_batch_size = self.global_batch_size or share
        if self.global_batch_size % share:
            raise ValueError(f"`global_batch_size` should be a multiple of {share}.")
        if self.global_batch_size > share and self.enable_fsdp_offload:
            raise ValueError("Gradient accumulation is not supported with FSDP offload.")
        self.dataloader_batch_size = self.global_batch_size // self.data_parallel_size
        self.save_checkpoint_path = os.path.join(self.output_dir, "checkpoints")
        self.model_assets_dir = os.path.join(self.output_dir, "model_assets")

    def compute_train_steps(self, max_seq_len, train_size, dataset_length):
        steps = int(dataset_length // self.dataloader_batch_size)
        self.train_steps = steps if self.max_steps is None else min(steps, self.max_steps)


def parse_args(root):
    """``script.py FILE.yaml --group.key value``; what the command line says wins."""
    parser = argparse.ArgumentParser()
    for group in fields(root):
        hints = get_type_hints(group.default_factory)
        for entry in fields(group.default_factory):
            kind = hints[entry.name]
            options: dict[str, Any] = {"type": lambda text, kind=kind: _convert(kind, text)}
            if get_origin(kind) is Literal:
                options = {"choices": get_args(kind), "type": str}
            default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
            options |= {"required": True} if default is MISSING else {"default": default}
            parser.add_argument(f"--{group.name}.{entry.name}", **options)
    given = sys.argv[1:]
    if given and given[0].endswith(".yaml"):
        document = yaml.safe_load(Path(given.pop(0)).read_text())
        for group, entries in document.items():
            for name, value in entries.items():
                if f"--{group}.{name}" not in given:
                    given += [f"--{group}.{name}", value if isinstance(value, str) else json.dumps(value)]
    parsed, unknown = parser.parse_known_args(given)
    if unknown:
        warnings.warn(f"Some specified arguments are not used by the ArgumentParser: {unknown}", stacklevel=1)
    values: dict[str, dict[str, Any]] = {}
    for key, value in vars(parsed).items():
        group, _, name = key.partition(".")
        values.setdefault(group, {})[name] = value
    return root(**{group.name: group.default_factory(**values[group.name]) for group in fields(root)})


def _convert(kind, text):
    if kind in (str, str | None):
        return text
    value = json.loads(text)
    return float(value) if kind is float else value


def save_args(args, folder):
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "veomni_cli.yaml").write_text(yaml.safe_dump(asdict(args)))
