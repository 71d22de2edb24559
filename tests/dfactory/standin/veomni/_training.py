"""Optimiser, schedule, checkpoints, devices and the meter."""

import contextlib
import logging
import math
import os
import random
import time
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist


def create_logger(name):
    logger = logging.getLogger(name)
    logger.info_rank0 = lambda text: logger.info(text) if dist.get_rank() == 0 else None
    return logger


def set_seed(seed, full_determinism):
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def empty_cache():
    pass


def get_device_type():
    return "cpu"


def get_nccl_backend():
    return "gloo"


def get_torch_device():
    return SimpleNamespace(set_device=lambda device: None)


def synchronize():
    pass


def init_parallel_state(
    *, dp_size, dp_replicate_size, dp_shard_size, tp_size, ep_size, pp_size, cp_size, ulysses_size, dp_mode
):
    assert dp_size == dp_replicate_size * dp_shard_size == dist.get_world_size()


def build_activation_offloading_context(enable_offload, enable_checkpointing, gpu_limit):
    return contextlib.nullcontext(), contextlib.nullcontext()


def build_optimizer(model, *, lr, betas, weight_decay, fused, optimizer_type):
    assert optimizer_type == "adamw"
    return torch.optim.AdamW(model.parameters(), lr=lr, betas=betas, weight_decay=weight_decay)


def build_lr_scheduler(
    optimizer, *, train_steps, lr, lr_min, lr_decay_style, lr_decay_ratio, lr_warmup_ratio, lr_start
):
    warmup = int(train_steps * lr_warmup_ratio)

    def factor(step):
        if step < warmup:
            return step / warmup
        if lr_decay_style != "cosine":
            return 1.0
        along = (step - warmup) / max(1, train_steps - warmup)
        return max(lr_min / lr, 0.5 * (1 + math.cos(math.pi * min(1.0, along))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


class EnvironMeter:
    def __init__(
        self, *, config, global_batch_size, rmpad, rmpad_with_pos_ids, empty_cache_steps, enable_multisource,
        dataloader, data_path,
    ):  # fmt: skip
        self.tokens, self.began = 0, time.time()

    def add(self, micro_batch):
        self.tokens += int(micro_batch["attention_mask"].sum())

    def step(self, delta_time, global_step):
        return {"consumed_tokens": self.tokens}

    def state_dict(self):
        return {"tokens": self.tokens}

    def load_state_dict(self, state):
        self.tokens = state["tokens"]


class Checkpointer:
    """One file a rank 0 holds, read back with ``weights_only``."""

    @staticmethod
    def _model(model):
        return getattr(model, "module", model)

    def save(self, path, state, global_steps):
        folder = os.path.join(path, f"global_step_{global_steps}")
        os.makedirs(folder, exist_ok=True)
        if dist.get_rank() == 0:
            document = {
                "model": self._model(state["model"]).network.state_dict(),
                "merged": self._model(state["model"]).state_dict(),
                "optimizer": state["optimizer"].state_dict(),
                "extra_state": state["extra_state"],
            }
            torch.save(document, os.path.join(folder, "dcp.pt"))

    def load(self, path, state):
        document = torch.load(os.path.join(path, "dcp.pt"), weights_only=True)
        self._model(state["model"]).network.load_state_dict(document["model"])
        state["optimizer"].load_state_dict(document["optimizer"])
        state["extra_state"] = document["extra_state"]


def build_checkpointer(*, dist_backend, ckpt_manager):
    assert (dist_backend, ckpt_manager) == ("fsdp2", "dcp")
    return Checkpointer()


def ckpt_to_state_dict(*, save_checkpoint_path, output_dir, ckpt_manager):
    return torch.load(os.path.join(save_checkpoint_path, "dcp.pt"), weights_only=True)["merged"]
