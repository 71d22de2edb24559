"""The LLaDA2-MoE network for Transformers 5. Knows nothing of grids.

Importing this package registers it with ``AutoConfig`` and ``AutoModelForCausalLM``.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from wmtoolkit.llada2.cache import BlockCache
from wmtoolkit.llada2.configuration import LLaDA2MoeConfig
from wmtoolkit.llada2.masks import additive_mask, block_causal_mask, training_mask_2l
from wmtoolkit.llada2.modeling import LLaDA2MoeForCausalLM, LLaDA2MoeModel
from wmtoolkit.llada2.objective import add_noise, masked_cross_entropy

AutoConfig.register("llada2_moe", LLaDA2MoeConfig, exist_ok=True)
AutoModelForCausalLM.register(LLaDA2MoeConfig, LLaDA2MoeForCausalLM, exist_ok=True)

__all__ = [
    "BlockCache",
    "LLaDA2MoeConfig",
    "LLaDA2MoeForCausalLM",
    "LLaDA2MoeModel",
    "add_noise",
    "additive_mask",
    "block_causal_mask",
    "masked_cross_entropy",
    "training_mask_2l",
]
