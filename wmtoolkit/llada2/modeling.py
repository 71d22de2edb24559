"""LLaDA2-MoE for Transformers 5: the original's computation under the original's parameter names.

Pre-norm transformer without a causal mask of its own; fused query-key-value projection, RMS-normed heads, partial
rotary positions, sigmoid router with group-limited choice, one shared expert (LLaDA2.0 technical report).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.utils import can_return_tuple

from wmtoolkit.llada2.attention import LLaDA2MoeAttention, LLaDA2MoeRMSNorm
from wmtoolkit.llada2.cache import BlockCache
from wmtoolkit.llada2.configuration import LLaDA2MoeConfig
from wmtoolkit.llada2.experts import SORTED_MM
from wmtoolkit.llada2.masks import additive_mask
from wmtoolkit.llada2.objective import masked_cross_entropy
from wmtoolkit.llada2.pretrained import CheckpointedModel
from wmtoolkit.llada2.rotary import LLaDA2MoeRotaryEmbedding
from wmtoolkit.llada2.sampler import generate


class LLaDA2MoeMLP(nn.Module):
    """Gated MLP without biases: down(act(gate(x)) * up(x))."""

    def __init__(self, config: LLaDA2MoeConfig, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))


class LLaDA2MoeRouter(nn.Module):
    """Group-limited sigmoid router, in float32 whatever the model's type.

    ``expert_bias`` shifts which experts are chosen and never how they are weighted.
    """

    expert_bias: torch.Tensor

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.n_group, self.topk_group = config.n_group, config.topk_group
        self.scaling = config.routed_scaling_factor
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        self.register_buffer("expert_bias", torch.zeros(config.num_experts, dtype=torch.float32))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        bias = self.expert_bias
        super()._apply(fn, recurse)
        if self.expert_bias.dtype != torch.float32:  # the model changes its type; the bias only its device
            self.expert_bias = bias.to(self.expert_bias.device)
        return self

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """hidden (tokens, hidden) -> logits (tokens, experts), weights and long ids (tokens, top_k), float32."""
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(hidden.float(), self.weight.float())
        scores = logits.sigmoid()
        biased = scores + self.expert_bias
        if self.n_group > 1:
            grouped = biased.unflatten(1, (self.n_group, -1))
            group_scores = grouped.topk(2, dim=-1).values.sum(-1)
            kept = torch.zeros_like(group_scores, dtype=torch.bool)
            kept.scatter_(1, group_scores.topk(self.topk_group, dim=-1).indices, True)
            biased = grouped.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        ids = biased.topk(self.top_k, dim=-1).indices
        weights = scores.gather(1, ids)
        if self.top_k > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return logits, weights * self.scaling, ids


@use_experts_implementation
class LLaDA2MoeExperts(nn.Module):
    """All routed experts of a layer, fused: gate and up rows stacked (E, 2I, H), down (E, H, I)."""

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__()
        assert config.moe_intermediate_size is not None
        self.num_experts = config.num_experts
        self.gate_up_proj = nn.Parameter(
            torch.empty(self.num_experts, 2 * config.moe_intermediate_size, config.hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, config.hidden_size, config.moe_intermediate_size))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The plain way, expert by expert; hidden (tokens, H), ids and weights (tokens, top_k) -> (tokens, H)."""
        result = torch.zeros_like(hidden)
        for expert in range(self.num_experts):
            token, choice = torch.where(ids == expert)
            gate, up = F.linear(hidden[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            out = F.linear(self.act_fn(gate) * up, self.down_proj[expert]) * weights[token, choice, None]
            result = result.index_add(0, token, out.to(result.dtype))
        return result


class LLaDA2MoeSparseBlock(nn.Module):
    """Routed experts plus the always-on shared expert."""

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__()
        assert config.moe_intermediate_size is not None
        self.gate = LLaDA2MoeRouter(config)
        self.experts = LLaDA2MoeExperts(config)
        self.shared_experts = None
        if config.num_shared_experts is not None:
            with warnings.catch_warnings():  # the original builds an empty MLP for 0, and so its checkpoints hold one
                warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
                self.shared_experts = LLaDA2MoeMLP(config, config.moe_intermediate_size * config.num_shared_experts)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """hidden (batch, length, H) -> the same shape, and the router's (logits, ids) of shape (batch, length, ...)."""
        flat = hidden.flatten(0, 1)
        logits, weights, ids = self.gate(flat)
        mixed = self.experts(flat, ids, weights).reshape(hidden.shape)
        if self.shared_experts is not None:
            mixed = mixed + self.shared_experts(hidden)
        lead = hidden.shape[:-1]
        return mixed, (logits.unflatten(0, lead), ids.unflatten(0, lead))


class LLaDA2MoeLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each behind its norm and around a residual."""

    def __init__(self, config: LLaDA2MoeConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = LLaDA2MoeAttention(config, layer_idx)
        self.sparse = layer_idx >= config.first_k_dense_replace
        if self.sparse:
            self.mlp: nn.Module = LLaDA2MoeSparseBlock(config)
        else:
            assert config.intermediate_size is not None
            self.mlp = LLaDA2MoeMLP(config, config.intermediate_size)
        self.input_layernorm = LLaDA2MoeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LLaDA2MoeRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: BlockCache | None,
        keep: int | None = None,
        prefix: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor | None, tuple[torch.Tensor, torch.Tensor] | None]:
        normed = self.input_layernorm(hidden)
        if keep == 0:
            if past_key_values is not None:
                self.attention.remember(normed, rotary, past_key_values)
            return hidden[:, :0], None, None
        attended, weights = self.attention(normed, rotary, attention_mask, past_key_values, keep, prefix)
        hidden = (hidden if keep is None else hidden[:, -keep:]) + attended
        mixed = self.mlp(self.post_attention_layernorm(hidden))
        routing = None
        if self.sparse:
            mixed, routing = mixed
        return hidden + mixed, weights, routing


class LLaDA2MoePreTrainedModel(CheckpointedModel):
    config_class = LLaDA2MoeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LLaDA2MoeLayer"]  # noqa: RUF012 - Transformers' convention
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, LLaDA2MoeRouter):
            initialization.normal_(module.weight, mean=0.0, std=std)
            initialization.zeros_(module.expert_bias)
        elif isinstance(module, LLaDA2MoeExperts):
            initialization.normal_(module.gate_up_proj, mean=0.0, std=std)
            initialization.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, LLaDA2MoeRMSNorm):
            initialization.ones_(module.weight)

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        return super().get_correct_experts_implementation(requested_experts or SORTED_MM)


class LLaDA2MoeModel(LLaDA2MoePreTrainedModel):
    """The transformer without its output head."""

    key_prefix = "model."

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        config.check_buildable()
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(LLaDA2MoeLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LLaDA2MoeRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LLaDA2MoeRotaryEmbedding(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.word_embeddings = value  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: BlockCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool = False,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        output_attentions: bool | None = None,
        keep: int | None = None,
        prefix: int = 0,
    ) -> MoeModelOutputWithPast:
        """Run the network.

        Args:
            input_ids: long (batch, length); or give ``inputs_embeds`` (batch, length, hidden).
            attention_mask: see ``masks.additive_mask``; None lets every token see every other.
            position_ids: long (batch, length) or (axes, batch, length); counts on from the cache if not given.
            past_key_values: a ``BlockCache`` of earlier blocks; the mask's keys then cover cache and input.
            keep: only the last so many tokens are wanted: the last layer computes no others, beyond their keys and
                values; 0 for a pass that only fills the cache.
            prefix: the first so many tokens see none of those behind them, as the mask must say too: it is left out of
                the arithmetic. Not with a cache.
            use_cache: start a ``BlockCache`` if none is given. Sound only under a block-causal mask.

        Returns:
            last_hidden_state after the final norm; if asked, ``hidden_states``: the embeddings, each layer's output
            but the last, and the last after the norm; ``router_logits``: a (logits, ids) pair per sparse layer.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = BlockCache()
        if position_ids is None:
            start = past_key_values.position if past_key_values is not None else 0
            position_ids = torch.arange(start, start + inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        if prefix and past_key_values is not None:
            raise ValueError("prefix is for a pass without a cache, whose tokens are a prefix already")
        mask = additive_mask(attention_mask, inputs_embeds.dtype)
        rotary = self.rotary_emb(position_ids, inputs_embeds.dtype)
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError("only attn_implementation='eager' has attention weights to put out")

        hidden = inputs_embeds
        all_hidden, all_weights, all_routing = [], [], []
        for layer in self.layers:
            all_hidden.append(hidden)
            last = layer is self.layers[-1]
            hidden, weights, routing = layer(hidden, rotary, mask, past_key_values, keep if last else None, prefix)
            all_weights.append(weights)
            if routing is not None:
                all_routing.append(routing)
        hidden = self.norm(hidden)
        return MoeModelOutputWithPast(
            last_hidden_state=hidden,
            past_key_values=past_key_values,  # type: ignore[arg-type]
            hidden_states=(*all_hidden, hidden) if output_hidden_states else None,
            attentions=tuple(all_weights) if output_attentions else None,
            router_logits=tuple(all_routing) if output_router_logits else None,
        )


class LLaDA2MoeForCausalLM(LLaDA2MoePreTrainedModel):
    """LLaDA2-MoE with its untied output head. "CausalLM" is Transformers' name; nothing here is causal."""

    _tied_weights_keys = {"lm_head.weight": "model.word_embeddings.weight"}  # noqa: RUF012 - Transformers' convention
    accepts_loss_kwargs = False  # for Transformers' Trainer, which would pass more than our loss takes

    def __init__(self, config: LLaDA2MoeConfig) -> None:
        super().__init__(config)
        self.model = LLaDA2MoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> MoeCausalLMOutputWithPast:
        """Logits (batch, length, vocabulary) in float32; other arguments as ``LLaDA2MoeModel.forward``.

        ``labels`` (batch, length; -100 = not a target) adds the same-position masked cross-entropy: position i
        predicts label i. The original class shifts labels by one, which is wrong for a diffusion model.
        """
        outputs = self.model(input_ids=input_ids, **kwargs)
        logits = self.lm_head(outputs.last_hidden_state).float()
        return MoeCausalLMOutputWithPast(
            loss=None if labels is None else masked_cross_entropy(logits, labels),
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )

    def generate(
        self, input_ids: torch.Tensor | None = None, *, inputs: torch.Tensor | None = None, **options: Any
    ) -> torch.Tensor:
        """Continue prompts by block diffusion; see ``sampler.generate`` for the options.

        Args:
            inputs: the original's name of ``input_ids``.
        """
        prompts = inputs if input_ids is None else input_ids
        if prompts is None or (input_ids is not None and inputs is not None):
            raise TypeError("generate takes exactly one of input_ids and inputs")
        return generate(self, prompts, **options)
