"""wmtoolkit's LLaDA2 under the names of dFactory's merged model."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer

from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.llada2.layouts import from_fused


class ModelRegistry:
    paths: list[str] = []  # noqa: RUF012

    @classmethod
    def register_modeling_path(cls, path):
        cls.paths.append(path)


class MergedLLaDA2(nn.Module):
    """Merged expert tensors outside, the fused network inside; asked as dFactory's model is asked, and strictly."""

    _no_split_modules = LLaDA2MoeForCausalLM._no_split_modules

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.network = LLaDA2MoeForCausalLM(config)

    def state_dict(self, *args, **kwargs):
        return from_fused(dict(self.network.state_dict()), "merged")

    def forward(self, input_ids, attention_mask, position_ids, use_cache, output_router_logits):
        # labels= would be a shifted loss; in evaluation mode routed experts get no gradient
        assert self.training
        assert not use_cache
        assert not output_router_logits
        return self.network(input_ids, attention_mask=attention_mask, position_ids=position_ids)


def build_foundation_model(
    *, config_path, weights_path, torch_dtype, attn_implementation, moe_implementation, init_device
):
    assert ModelRegistry.paths == ["models.llada2_moe"]
    assert init_device == "meta"
    fields = json.loads(Path(config_path, "config.json").read_text())
    assert fields["model_type"] == "llada2_moe_veomni"
    config = LLaDA2MoeConfig.from_pretrained(config_path)
    config._attn_implementation = attn_implementation
    with torch.device("meta"):
        model = MergedLLaDA2(config)
    return model.to(getattr(torch, torch_dtype))


def build_parallelize_model(
    model, *, init_device, weights_path, enable_full_shard, enable_mixed_precision, enable_gradient_checkpointing,
    enable_fsdp_offload, basic_modules, enable_reentrant, enable_forward_prefetch, broadcast_model_weights_from_rank0,
):  # fmt: skip
    """Weights that are found are loaded, those that are not are random: the original's trap, kept."""
    torch.manual_seed(1234)
    model.to_empty(device="cpu")
    stored = {}
    for file in sorted(Path(weights_path).glob("*.safetensors")):
        stored |= load_file(file)
    network = model.network
    with torch.no_grad():
        for name, parameter in (*network.named_parameters(), *network.named_buffers()):
            prefix, _, last = name.rpartition(".")
            if last == "gate_up_proj":
                parts = [stored.get(f"{prefix}.{part}") for part in ("gate_proj", "up_proj")]
                value = None if None in parts else torch.cat(parts, dim=1)
            else:
                value = stored.get(name)
            parameter.copy_(torch.randn_like(parameter) * 0.02 if value is None else value)
    if enable_gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": enable_reentrant})
    assert basic_modules == ["LLaDA2MoeLayer"]
    return DistributedDataParallel(model) if dist.get_world_size() > 1 else model


def build_tokenizer(path):
    return AutoTokenizer.from_pretrained(path, padding_side="right")


def save_model_assets(folder, assets):
    os.makedirs(folder, exist_ok=True)
    for asset in assets:
        asset.save_pretrained(folder)


def save_model_weights(folder, state_dict, model_assets=None):
    """One file in bfloat16, the router's bias too, as the original does."""
    os.makedirs(folder, exist_ok=True)
    save_file(
        {name: value.to(torch.bfloat16).contiguous() for name, value in state_dict.items()},
        os.path.join(folder, "model.safetensors"),
        {"format": "pt"},
    )
    save_model_assets(folder, model_assets or [])
    config = Path(folder, "config.json")
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({**fields, "model_type": "llada2_moe_veomni"}))
