"""A stand-in for the parts of VeOmni v0.1.2 that our dFactory task touches, on CPU, written from their description.

Same names, arguments and meaning: three groups of arguments from YAML and command line, a mapping dataset over JSONL, a
seeded distributed sampler, a loader that gives lists of micro-batches, DDP in place of FSDP, distributed checkpoints,
weights saved in bfloat16. The model is wmtoolkit's own LLaDA2, under dFactory's merged names.
"""

import sys
from types import ModuleType

from . import _arguments, _data, _model, _training

_MODULES = {
    "checkpoint": (_training, "build_checkpointer ckpt_to_state_dict"),
    "data": (_data, "build_dataloader build_mapping_dataset"),
    "distributed": (_training, ""),
    "distributed.offloading": (_training, "build_activation_offloading_context"),
    "distributed.parallel_state": (_training, "init_parallel_state"),
    "distributed.torch_parallelize": (_model, "build_parallelize_model"),
    "models": (_model, "build_foundation_model build_tokenizer save_model_assets save_model_weights"),
    "models.registry": (_model, "ModelRegistry"),
    "optim": (_training, "build_lr_scheduler build_optimizer"),
    "utils": (_training, ""),
    "utils.helper": (_training, "create_logger set_seed empty_cache EnvironMeter"),
    "utils.arguments": (_arguments, "DataArguments ModelArguments TrainingArguments parse_args save_args"),
    "utils.device": (_training, "get_device_type get_nccl_backend get_torch_device synchronize"),
}
for _name, (_source, _members) in _MODULES.items():
    _module = sys.modules[f"{__name__}.{_name}"] = ModuleType(f"{__name__}.{_name}")
    for _member in _members.split():
        setattr(_module, _member, getattr(_source, _member))
    _parent, _, _last = f"{__name__}.{_name}".rpartition(".")
    setattr(sys.modules[_parent], _last, _module)
