"""Configuration of LLaDA2-MoE under the field names of the original ``config.json``."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

MODEL_TYPES = ("llada2_moe", "llada2_moe_veomni")
"""The hub's name and dFactory's. The name never tells the layout of the experts: only the keys of the weights do."""


class LLaDA2MoeConfig(PreTrainedConfig):
    """Architecture of a LLaDA2-MoE network (LLaDA2.0 technical report, inclusionAI 2025).

    Defaults are those of the original configuration class; released checkpoints state every field. Fields that the
    original network carries and never reads (``use_qk_norm``, ``rotary_dim``, ``score_function``, ...) are kept as
    they come and ignored.

    Args:
        head_dim: width of one attention head; ``hidden_size / num_attention_heads`` when not given.
        partial_rotary_factor: share of a head's channels that rotate (the first ones).
        first_k_dense_replace: number of leading layers with a dense MLP instead of experts.
        n_group, topk_group: experts are chosen from the best ``topk_group`` of ``n_group`` contiguous groups.
        routed_scaling_factor: factor on the normalised weights of the chosen experts.
        rope_axes: number of position axes (our addition; 1 is LLaDA2's own). With A axes, ``position_ids`` is
            (A, batch, length) and rotary pair j turns with axis j mod A, so equal axes give LLaDA2's own rotation.
    """

    model_type = "llada2_moe"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - Transformers' convention

    def __init__(
        self,
        vocab_size: int = 30592,
        hidden_size: int = 1024,
        intermediate_size: int | None = None,
        num_hidden_layers: int = 24,
        num_attention_heads: int = 16,
        num_key_value_heads: int = 0,
        hidden_act: str = "silu",
        use_qkv_bias: bool = False,
        use_bias: bool = True,
        rms_norm_eps: float = 1e-5,
        tie_word_embeddings: bool = False,
        attention_dropout: float = 0.1,
        initializer_range: float = 0.02,
        max_position_embeddings: int = 16384,
        rope_theta: float = 10000.0,
        use_cache: bool = True,
        rope_scaling: dict[str, Any] | None = None,
        pad_token_id: int | None = 126081,
        num_experts: int = 16,
        num_shared_experts: int | None = 0,
        num_experts_per_tok: int = 2,
        n_group: int = 8,
        topk_group: int = 4,
        routed_scaling_factor: float = 2.5,
        moe_intermediate_size: int | None = None,
        first_k_dense_replace: int = 0,
        head_dim: int | None = None,
        output_router_logits: bool = False,
        partial_rotary_factor: float = 0.5,
        rope_axes: int = 1,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.hidden_act = hidden_act
        self.use_qkv_bias = use_qkv_bias
        self.use_bias = use_bias
        self.rms_norm_eps = rms_norm_eps
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.max_position_embeddings = max_position_embeddings
        self.rope_theta = rope_theta
        self.use_cache = use_cache
        self.rope_scaling = rope_scaling
        self.num_experts = num_experts
        self.num_shared_experts = num_shared_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.n_group = n_group
        self.topk_group = topk_group
        self.routed_scaling_factor = routed_scaling_factor
        self.moe_intermediate_size = moe_intermediate_size
        self.first_k_dense_replace = first_k_dense_replace
        self.head_dim = head_dim or hidden_size // num_attention_heads
        self.output_router_logits = output_router_logits
        self.partial_rotary_factor = partial_rotary_factor
        self.rope_axes = rope_axes
        super().__init__(pad_token_id=pad_token_id, tie_word_embeddings=tie_word_embeddings, **kwargs)
