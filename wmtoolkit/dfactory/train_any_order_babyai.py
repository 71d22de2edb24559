"""dFactory task: any-order masked diffusion of BabyAI trajectories on LLaDA2.0 (mini, flash).

From the root of a dFactory checkout, into which an export of wmtoolkit was copied:

    PYTHONPATH=$(pwd)/VeOmni:$PYTHONPATH sh train.sh tasks/train_any_order_babyai.py \
        configs/sft/llada2_mini_any_order_babyai.yaml --train.lr 1e-5

It follows the block-diffusion task of dFactory: the same three groups of arguments, the same data contract, the same
checkpoints. What differs: masks ask for any part of a time step, padding takes no part, the loss is normalised over the
whole global batch, and whatever would train silently wrong is refused at the start.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from any_order.arguments import (
    Arguments,
    check,
    check_keys,
    check_sequences,
    check_space,
    check_weights,
    refusing,
)
from any_order.layout import KINDS, Layout
from any_order.masks import FULL_MIXTURE, MIXTURE
from any_order.step import backward, clip
from any_order.transform import WEIGHTS, AnyOrderTransform
from tqdm import trange
from veomni.checkpoint import build_checkpointer, ckpt_to_state_dict
from veomni.data import build_dataloader, build_mapping_dataset
from veomni.distributed.offloading import build_activation_offloading_context
from veomni.distributed.parallel_state import init_parallel_state
from veomni.distributed.torch_parallelize import build_parallelize_model
from veomni.models import build_foundation_model, build_tokenizer, save_model_assets, save_model_weights
from veomni.models.registry import ModelRegistry
from veomni.optim import build_lr_scheduler, build_optimizer
from veomni.utils import helper
from veomni.utils.arguments import parse_args, save_args
from veomni.utils.device import get_device_type, get_nccl_backend, get_torch_device, synchronize

ModelRegistry.register_modeling_path("models.llada2_moe")
logger = helper.create_logger(__name__)


def main() -> None:
    with refusing():
        check_keys(sys.argv)
    dist.init_process_group(backend=get_nccl_backend())
    try:
        with refusing():
            args = parse_args(Arguments)
            layout = check(args)
        train(args, layout)
    finally:
        dist.destroy_process_group()


def train(args: Arguments, layout: Layout) -> None:
    options = args.train
    logger.info_rank0(json.dumps(asdict(args), indent=2))
    get_torch_device().set_device(f"{get_device_type()}:{options.local_rank}")
    helper.set_seed(options.seed, options.enable_full_determinism)
    if options.global_rank == 0:
        save_args(args, options.output_dir)
    checkpointer = build_checkpointer(dist_backend=options.data_parallel_mode, ckpt_manager=options.ckpt_manager)
    init_parallel_state(
        dp_size=options.data_parallel_size,
        dp_replicate_size=options.data_parallel_replicate_size,
        dp_shard_size=options.data_parallel_shard_size,
        tp_size=options.tensor_parallel_size,
        ep_size=options.expert_parallel_size,
        pp_size=options.pipeline_parallel_size,
        cp_size=options.context_parallel_size,
        ulysses_size=options.ulysses_parallel_size,
        dp_mode=options.data_parallel_mode,
    )
    tokenizer = build_tokenizer(args.model.tokenizer_path)
    with refusing():
        transform = build_transform(args, layout)
        loader = build_loader(args, transform)
        model, model_config = build_model(args)
    optimizer = build_optimizer(
        model,
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        weight_decay=options.weight_decay,
        fused=True,
        optimizer_type=options.optimizer,
    )
    scheduler = build_lr_scheduler(
        optimizer,
        train_steps=options.train_steps * options.num_train_epochs,
        lr=options.lr,
        lr_min=options.lr_min,
        lr_decay_style=options.lr_decay_style,
        lr_decay_ratio=options.lr_decay_ratio,
        lr_warmup_ratio=options.lr_warmup_ratio,
        lr_start=options.lr_start,
    )
    assets = [model_config, tokenizer]
    if options.global_rank == 0:
        save_model_assets(options.model_assets_dir, assets)
    meter = helper.EnvironMeter(
        config=model_config,
        global_batch_size=options.global_batch_size,
        rmpad=options.rmpad,
        rmpad_with_pos_ids=options.rmpad_with_pos_ids,
        empty_cache_steps=options.empty_cache_steps,
        enable_multisource=args.data.enable_multisource,
        dataloader=loader,
        data_path=args.data.train_path,
    )
    global_step = resume(args, checkpointer, model, optimizer, scheduler, loader, meter)

    def save() -> str:
        """Write a distributed checkpoint; returns its folder."""
        helper.empty_cache()
        state = {
            "model": model,
            "optimizer": optimizer,
            "extra_state": {
                "global_step": global_step,
                "lr_scheduler": scheduler.state_dict(),
                "train_dataloader": loader.state_dict(),
                "environ_meter": meter.state_dict(),
                "torch_rng_state": torch.get_rng_state(),
            },
        }
        checkpointer.save(options.save_checkpoint_path, state, global_steps=global_step)
        dist.barrier()
        return os.path.join(options.save_checkpoint_path, f"global_step_{global_step}")

    contexts = build_activation_offloading_context(
        options.enable_activation_offload, options.enable_gradient_checkpointing, options.activation_gpu_limit
    )
    helper.empty_cache()
    model.train()  # in evaluation mode routed experts get no gradient
    choices = layout.choices().to(get_device_type())
    metrics = Metrics(args)
    saved = ""
    for epoch in range(global_step // options.train_steps, options.num_train_epochs):
        transform.epoch = epoch  # before the loader's workers are forked
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(epoch)
        batches: Iterator[list[dict[str, Any]]] = iter(loader)
        done = global_step % options.train_steps
        bar = trange(options.train_steps, desc=f"epoch {epoch + 1}", initial=done, disable=options.local_rank != 0)
        for _ in range(done, options.train_steps):
            micro_batches = next(batches, None)
            if micro_batches is None:
                break
            global_step += 1
            synchronize()
            began = time.time()
            for batch in micro_batches:
                meter.add(batch)
            loss, kinds = backward(
                model, micro_batches, layout, choices, block_diffusion=options.block_diffusion_mode, contexts=contexts
            )
            norm = clip(model, options.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            synchronize()
            costs = meter.step(time.time() - began, global_step=global_step)
            metrics.write(global_step, loss, kinds, norm, max(scheduler.get_last_lr()), costs)
            bar.set_postfix_str(f"loss {loss:.4f}, norm {norm:.2f}")
            bar.update()
            if options.save_steps and global_step % options.save_steps == 0:
                saved = save()
        bar.close()
        if options.save_epochs and (epoch + 1) % options.save_epochs == 0:
            saved = save()
    synchronize()
    helper.empty_cache()
    if options.global_rank == 0 and options.save_hf_weights and saved:
        save_hf(args, saved, assets)
    dist.barrier()


def build_transform(args: Arguments, layout: Layout) -> AnyOrderTransform:
    data, options = args.data, args.train
    return AnyOrderTransform(
        layout,
        data.max_seq_len,
        seed=options.seed,
        mixture=data.mask_mixture or MIXTURE,
        full_mixture=data.full_mask_mixture or FULL_MIXTURE,
        full_share=data.full_attention_share if options.block_diffusion_mode else 1.0,
        weights={**WEIGHTS, **data.loss_weights},
        noise_range=(data.noise_range_low, data.noise_range_high),
        behaviour_dropout=data.behaviour_dropout,
    )


def build_loader(args: Arguments, transform: AnyOrderTransform) -> Any:
    data, options = args.data, args.train
    if data.datasets_type == "local":
        from dataset import build_local_dataset  # dFactory's own, beside this file

        dataset = build_local_dataset(data.train_path, transform=transform)
    else:
        dataset = build_mapping_dataset(data.train_path, transform=transform)
    check_sequences(dataset, args)
    options.compute_train_steps(data.max_seq_len, data.train_size, len(dataset) / options.data_parallel_size)
    return build_dataloader(
        dataset=dataset,
        micro_batch_size=options.micro_batch_size,
        global_batch_size=options.global_batch_size,
        dataloader_batch_size=options.dataloader_batch_size,
        seed=options.seed,
        max_seq_len=data.max_seq_len,
        train_steps=options.train_steps,
        rmpad=options.rmpad,
        rmpad_with_pos_ids=options.rmpad_with_pos_ids,
        bsz_warmup_ratio=options.bsz_warmup_ratio,
        bsz_warmup_init_mbtoken=options.bsz_warmup_init_mbtoken,
        dyn_bsz_margin=options.dyn_bsz_margin,
        dyn_bsz_buffer_size=options.dyn_bsz_buffer_size,
        num_workers=data.num_workers,
        drop_last=data.drop_last,
        pin_memory=data.pin_memory,
        prefetch_factor=data.prefetch_factor,
    )


def build_model(args: Arguments) -> tuple[torch.nn.Module, Any]:
    options = args.train
    model = build_foundation_model(
        config_path=args.model.config_path,
        weights_path=args.model.model_path,
        torch_dtype="float32" if options.enable_mixed_precision else "bfloat16",
        attn_implementation=args.model.attn_implementation,
        moe_implementation=args.model.moe_implementation,
        init_device=options.init_device,
    )
    config = model.config
    check_weights(model, args.model.model_path)
    check_space(model, options)
    parallel = build_parallelize_model(
        model,
        init_device=options.init_device,
        weights_path=args.model.model_path,
        enable_full_shard=options.enable_full_shard,
        enable_mixed_precision=options.enable_mixed_precision,
        enable_gradient_checkpointing=options.enable_gradient_checkpointing,
        enable_fsdp_offload=options.enable_fsdp_offload,
        basic_modules=model._no_split_modules + args.model.basic_modules,
        enable_reentrant=options.enable_reentrant,
        enable_forward_prefetch=options.enable_forward_prefetch,
        broadcast_model_weights_from_rank0=options.broadcast_model_weights_from_rank0,
    )
    return parallel, config


def resume(
    args: Arguments, checkpointer: Any, model: Any, optimizer: Any, scheduler: Any, loader: Any, meter: Any
) -> int:
    """Load ``train.load_checkpoint_path`` if there is one; returns the step to go on from."""
    path = args.train.load_checkpoint_path
    if not path:
        return 0
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "extra_state": {}}
    checkpointer.load(path, state)
    extra = state["extra_state"]
    scheduler.load_state_dict(extra["lr_scheduler"])
    loader.load_state_dict(extra["train_dataloader"])
    meter.load_state_dict(extra["environ_meter"])
    torch.set_rng_state(extra["torch_rng_state"])
    if extra["global_step"] % args.train.train_steps == 0:
        iter(loader)  # at an epoch's end: clears the loader's state
    dist.barrier()
    return int(extra["global_step"])


class Metrics:
    """``metrics.jsonl`` in the output folder, and W&B if asked for; of rank 0."""

    def __init__(self, args: Arguments) -> None:
        self.main, self.wandb = args.train.global_rank == 0, None
        self.path = Path(args.train.output_dir, "metrics.jsonl")
        if self.main and args.train.use_wandb:
            import wandb

            wandb.init(project=args.train.wandb_project, name=args.train.wandb_name, config=asdict(args))
            self.wandb = wandb

    def write(
        self, step: int, loss: float, kinds: torch.Tensor, norm: float, rate: float, costs: dict[str, Any]
    ) -> None:
        line = {**costs, "loss": loss, "gradient_norm": norm, "learning_rate": rate}
        for kind, (total, count) in zip(KINDS, kinds.tolist(), strict=True):
            if count:
                line[f"loss/{kind}"] = total / count
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **line}) + "\n")
            if self.wandb is not None:
                self.wandb.log(line, step=step)


def save_hf(args: Arguments, saved: str, assets: list[Any]) -> None:
    """The checkpoint as safetensors with merged experts, and what wmtoolkit needs to read it back."""
    folder = os.path.join(saved, "hf_ckpt")
    state = ckpt_to_state_dict(
        save_checkpoint_path=saved, output_dir=args.train.output_dir, ckpt_manager=args.train.ckpt_manager
    )
    save_model_weights(folder, state, model_assets=assets)
    shutil.copy(Path(args.data.layout_path).with_name("world.json"), folder)
    logger.info_rank0(f"saved {folder}; next: wmtool convert --mode split -i {folder} -o DIR")


if __name__ == "__main__":
    main()
