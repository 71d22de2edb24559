"""The LLaDA2-MoE network for Transformers 5. Knows nothing of grids.

Importing this package registers it with ``AutoConfig``, ``AutoModel`` and ``AutoModelForCausalLM``.
"""

from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from wmtoolkit.llada2.cache import BlockCache
from wmtoolkit.llada2.configuration import MODEL_TYPES, LLaDA2MoeConfig
from wmtoolkit.llada2.masks import additive_mask, block_causal_mask, training_mask_2l
from wmtoolkit.llada2.modeling import LLaDA2MoeForCausalLM, LLaDA2MoeModel
from wmtoolkit.llada2.objective import (
    add_noise,
    block_diffusion_loss,
    complement,
    draw_noise,
    masked_cross_entropy,
    weighted_cross_entropy,
)
from wmtoolkit.llada2.sampler import generate

for _model_type in MODEL_TYPES:  # AutoConfig.register would insist on one class a name
    CONFIG_MAPPING.register(_model_type, LLaDA2MoeConfig, exist_ok=True)
AutoModel.register(LLaDA2MoeConfig, LLaDA2MoeModel, exist_ok=True)
AutoModelForCausalLM.register(LLaDA2MoeConfig, LLaDA2MoeForCausalLM, exist_ok=True)

__all__ = [
    "BlockCache",
    "LLaDA2MoeConfig",
    "LLaDA2MoeForCausalLM",
    "LLaDA2MoeModel",
    "add_noise",
    "additive_mask",
    "block_causal_mask",
    "block_diffusion_loss",
    "complement",
    "draw_noise",
    "generate",
    "masked_cross_entropy",
    "training_mask_2l",
    "weighted_cross_entropy",
]
