"""Training beyond one processor: sharded weights, recomputed activations, adapters; and plain weights out of all that.

PyTorch's FSDP2 is called directly: Accelerate's plug-in is for accelerators only, and this runs on CPUs as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import network_tensors, open_checkpoint
from wmtoolkit.training.scale_config import ScaleConfig
from wmtoolkit.world.network import WorldNetwork

LORA_TARGETS = ("query_key_value", "dense", "gate_proj", "up_proj", "down_proj")
"""Linear layers that get adapters: attention, dense and shared MLPs. Routed experts and router stay as they are."""


def lay_out(network: WorldNetwork, scale: ScaleConfig, device: torch.device, bf16: bool, init: Path | None) -> None:
    """Bring a network onto its device as the config says, in place.

    Args:
        bf16: compute in bfloat16 (what is sharded stays float32 and is gathered in bfloat16).
        init: checkpoint that the weights are read from, if the network is on the meta device.

    Raises:
        UserError: if adapters are asked for and peft is not installed, or sharding without several processes' group.
    """
    if scale.activation_checkpointing:
        enable = getattr(network.llada2, "activation_checkpointing_enable", None)  # its name from Transformers 6 on
        (enable or network.llada2.gradient_checkpointing_enable)({"use_reentrant": False})
    if scale.lora_rank:
        _add_adapters(network, scale)
    if not scale.sharded:
        network.to(device)
        return
    if not dist.is_initialized():
        raise UserError("scale.sharding=fsdp2 needs a group of processes: torchrun --nproc-per-node N -m wmtoolkit.cli")
    on_meta = network.llada2.lm_head.weight.is_meta
    if not on_meta:
        network.to(device)
    shard(network, device, bf16=bf16, offload=scale.offload)
    if on_meta:
        assert init is not None
        _materialize(network, init, torch.device("cpu") if scale.offload else device, device)


def shard(network: WorldNetwork, device: torch.device, *, bf16: bool = False, offload: bool = False) -> None:
    """Leave each process of the group a part of every parameter: a layer is gathered when it is at work (FSDP2)."""
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else None
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "mp_policy": precision or MixedPrecisionPolicy(),
        "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
    }
    for layer in network.llada2.model.layers:
        fully_shard(layer, **options)
    fully_shard(network, **options)


def _add_adapters(network: WorldNetwork, scale: ScaleConfig) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("scale.lora_rank needs peft: pip install 'wmtoolkit[lora]'") from None
    trained = {name for name, value in network.named_parameters() if value.requires_grad and "." not in name}
    options: dict[str, Any] = {
        "r": scale.lora_rank,
        "lora_alpha": scale.lora_alpha,
        "lora_dropout": scale.lora_dropout,
        "target_modules": list(LORA_TARGETS),
    }
    inject_adapter_in_model(LoraConfig(**options), network.llada2)
    for name, value in network.named_parameters():
        value.requires_grad_(name in trained or "lora_" in name)
        if "lora_" in name:
            value.data = value.data.float()


@torch.no_grad()
def _materialize(network: WorldNetwork, init: Path, weights: torch.device, buffers: torch.device) -> None:
    """Read the weights of a sharded network on the meta device, tensor by tensor; each process keeps its own part."""
    network._apply(lambda value: torch.empty_like(value, device=weights) if value.is_meta else value)
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(buffers))
    tensors = network_tensors(open_checkpoint(init))
    for name, value in (*network.llada2.named_parameters(), *network.llada2.named_buffers()):
        put(value, tensors[name][:].to(value.dtype))
    own = network._rows.cpu()[network._new.cpu()]
    put(network.input_rows, tensors["model.word_embeddings.weight"][:][own].float())
    put(network.output_rows, tensors["lm_head.weight"][:][own].float())


def put(target: torch.Tensor, source: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be sharded: each process takes its part."""
    target.copy_(like(source, target))


def like(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A whole tensor, laid out over the processes as another is."""
    if not isinstance(target, DTensor):
        return source
    mesh = target.device_mesh
    whole = source.to(mesh.device_type)
    return distribute_tensor(whole, mesh, target.placements, src_data_rank=None).to(target.device)


def whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor put together from its parts; every process must ask."""
    if not isinstance(value, DTensor):
        return value
    return cast(DTensor, value.to(value.device_mesh.device_type)).full_tensor()


def rest(network: nn.Module) -> None:
    """Free what a pass without gradients has gathered."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def plain(network: WorldNetwork, main: bool) -> WorldNetwork | None:
    """The network as one process would have trained it: put together, adapters added to their weights.

    Every process must ask; only the main one gets it.
    """
    adapters = {name: module for name, module in network.named_modules() if hasattr(module, "lora_A")}
    if not adapters and not any(isinstance(module, FSDPModule) for module in network.modules()):
        return network if main else None
    state = {}
    for name, value in network.state_dict().items():
        value = whole(value)
        if not main:
            continue
        owner, _, last = name.rpartition(".")
        if ".lora_" in name:
            continue
        if owner.endswith(".base_layer"):
            owner = owner.removesuffix(".base_layer")
            if last == "weight":
                delta = cast(Any, adapters[owner]).get_delta_weight("default").to(value.device)
                value = (value.float() + delta.float()).to(value.dtype)
        state[f"{owner}.{last}" if owner else last] = value.cpu()
    if not main:
        return None
    with torch.device("meta"):
        skeleton = WorldNetwork(cast(Any, network.llada2.config), network.world)
    skeleton.load_state_dict(state, assign=True)
    return skeleton
