"""Configuration of LLaDA2-MoE under the field names of the original ``config.json``."""

import difflib
import json
import os
from pathlib import Path
from typing import Any, Self

import torch
from transformers import GenerationConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from wmtoolkit.errors import UserError

MODEL_TYPES = ("llada2_moe", "llada2_moe_veomni")
"""The hub's name and dFactory's. The name never tells the layout of the experts: only the keys of the weights do."""

ORIGINAL_ARCHITECTURE = "LLaDA2MoeModelLM"
"""What the original's loaders look up in ``architectures``; saved instead of our class name."""

ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Kinds of ``rope_scaling`` and the numbers each needs."""

# Fields that released LLaDA2 and Ling-family configs carry and the original network never reads.
_CARRIED = (
    "auto_map image_patch_token moe_router_enable_expert_bias moe_shared_expert_intermediate_size "
    "mtp_loss_scaling_factor norm_softmax norm_topk_prob num_nextn_predict_layers pretraining_tp rope_interleave "
    "rotary_dim router_dtype router_type score_function seq_length topk_method use_rmsnorm "
    "using_split_qkv_in_self_attention"
)
# Fields that Transformers 4 and 5 write into, or read from, the config of any model.
_GENERIC = (
    "add_cross_attention attn_implementation cross_attention_hidden_size decoder_start_token_id experts_implementation "
    "finetuning_task is_decoder mask_token_id model_type name_or_path num_labels output_attentions prefix pruned_heads "
    "quantization_config rope_parameters sep_token_id task_specific_params tf_legacy_loss tie_encoder_decoder "
    "tokenizer_class torch_dtype torchscript transformers_weights use_bfloat16"
)


class LLaDA2MoeConfig(PreTrainedConfig):
    """Architecture of a LLaDA2-MoE network (LLaDA2.0 technical report, inclusionAI 2025).

    Defaults are those of the original configuration class; released checkpoints state every field. Fields that the
    original carries and never reads (``use_qk_norm``, ``rotary_dim``, ``score_function``, ...) are kept as they come
    and ignored. A saved ``config.json`` keeps the original's flat names (``rope_theta``, ``torch_dtype``, ...).

    Args:
        num_key_value_heads: 0 means one for each query head.
        head_dim: width of one attention head; ``hidden_size / num_attention_heads`` when not given.
        partial_rotary_factor: share of a head's channels that rotate (the first ones).
        rope_scaling: how the rotary frequencies are stretched for longer texts, as Transformers 4 names and computes
            it (``{"type": "yarn", "factor": 4.0}``); None in every released LLaDA2.0.
        first_k_dense_replace: number of leading layers with a dense MLP instead of experts.
        n_group, topk_group: experts are chosen from the best ``topk_group`` of ``n_group`` contiguous groups.
        routed_scaling_factor: factor on the normalised weights of the chosen experts.
        rope_axes: number of position axes (our addition; 1 is LLaDA2's own). With A axes, ``position_ids`` is
            (A, batch, length) and rotary pair j turns with axis j mod A, so equal axes give LLaDA2's own rotation.

    Raises:
        UserError: naming the field that is unknown or whose value is of the wrong type.
    """

    model_type = "llada2_moe"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - Transformers' convention

    vocab_size: int = 30592
    hidden_size: int = 1024
    intermediate_size: int | None = None
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_key_value_heads: int = 0
    hidden_act: str = "silu"
    use_qkv_bias: bool = False
    use_qk_norm: bool = False
    use_bias: bool = True
    rms_norm_eps: float = 1e-5
    norm_head: bool = False
    tie_word_embeddings: bool = False
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    output_dropout: float = 0.1
    initializer_range: float = 0.02
    max_position_embeddings: int = 16384
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # plain data here; a deprecated property in Transformers
    use_cache: bool = True
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    pad_token_id: int | None = 126081
    bos_token_id: int | None = None
    eos_token_id: int | list | None = None
    num_experts: int = 16
    num_shared_experts: int | None = 0
    num_experts_per_tok: int = 2
    n_group: int = 8
    topk_group: int = 4
    routed_scaling_factor: float = 2.5
    moe_intermediate_size: int | None = None
    first_k_dense_replace: int = 0
    head_dim: int | None = None
    output_router_logits: bool = False
    partial_rotary_factor: float = 0.5
    rope_axes: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        _check_names(kwargs)
        if kwargs.get("model_type", self.model_type) not in MODEL_TYPES:
            raise UserError(
                f"config field model_type is {kwargs['model_type']!r}; LLaDA2 has {' and '.join(MODEL_TYPES)}"
            )
        # Transformers 5 folds the rotary fields into one dictionary: unfold it, so that ours stay flat.
        folded = kwargs.pop("rope_parameters", None) or {}
        if not isinstance(folded, dict):
            raise UserError(f"config field rope_parameters must be dict, not {folded!r}")
        folded = dict(folded)
        self.rope_theta = folded.pop("rope_theta", self.rope_theta)
        self.partial_rotary_factor = folded.pop("partial_rotary_factor", self.partial_rotary_factor)
        if folded.get("rope_type", "default") != "default":
            self.rope_scaling = folded
        self.dtype = self.dtype or kwargs.pop("torch_dtype", None)
        _check_types(self)
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.head_dim = self.head_dim or self.hidden_size // (self.num_attention_heads or 1)
        super().__post_init__(**kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the rest of Transformers' arguments are in kwargs
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> Self:
        """Read ``config.json`` of a folder or hub repository, of either model type; see Transformers."""
        place: str | os.PathLike = pretrained_model_name_or_path
        if Path(place).is_dir():
            place = Path(place, kwargs.get("subfolder", ""), "config.json")
            _check_json(place)
        fields, kwargs = cls.get_config_dict(pretrained_model_name_or_path, **kwargs)
        try:
            return cls.from_dict(fields, **kwargs)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All fields under the original's names."""
        fields = super().to_dict()
        fields["model_type"] = self.model_type
        if "dtype" in fields:
            fields["torch_dtype"] = fields.pop("dtype")
        for name in ("bos_token_id", "eos_token_id"):
            if fields.get(name, 0) is None:
                del fields[name]
        if self.rope_axes == 1:
            fields.pop("rope_axes", None)
        if fields.get("architectures"):
            ours = ("LLaDA2MoeForCausalLM", "LLaDA2MoeModel")
            fields["architectures"] = [ORIGINAL_ARCHITECTURE if a in ours else a for a in fields["architectures"]]
        return fields

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The original's name of ``dtype``."""
        return self.dtype  # type: ignore[return-value]  # Transformers has turned a name into the type by now

    @torch_dtype.setter
    def torch_dtype(self, value: torch.dtype | None) -> None:
        self.dtype = value

    @property
    def rope_type(self) -> str:
        """Kind of ``rope_scaling``: a key of ``ROPE_TYPES`` if a network can be built."""
        scaling = self.rope_scaling or {}
        return str(scaling.get("rope_type", scaling.get("type", "default")))

    def check_buildable(self) -> None:
        """Raise a UserError that names the field if no network can be built from this configuration."""
        dense, sparse = self.first_k_dense_replace > 0, self.first_k_dense_replace < self.num_hidden_layers
        positive = (
            "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim rope_theta"
        )
        positive += " rope_axes" + " intermediate_size" * dense
        positive += " moe_intermediate_size num_experts n_group topk_group num_experts_per_tok" * sparse
        for name in positive.split():
            if (getattr(self, name) or 0) <= 0:
                raise UserError(f"config field {name} must be positive; it is {getattr(self, name)!r}")
        assert self.head_dim is not None
        scaling = self.rope_scaling or {}
        rotary = int(self.head_dim * self.partial_rotary_factor)
        wanting = [
            name for name in ROPE_TYPES.get(self.rope_type, ()) if not isinstance(scaling.get(name), int | float)
        ]
        rules = [
            (self.num_attention_heads % self.num_key_value_heads == 0, "num_key_value_heads must divide the heads"),
            (0 <= self.partial_rotary_factor <= 1, "partial_rotary_factor must be between 0 and 1"),
            (rotary % 2 == 0, "partial_rotary_factor x head_dim must be even"),
            (self.rope_type in ROPE_TYPES, f"rope_scaling must be null or of type {', '.join(ROPE_TYPES)}"),
            (not wanting, f"rope_scaling of type {self.rope_type} needs the number {' and '.join(wanting)}"),
            (
                rotary > 2 or self.rope_type != "dynamic",
                "rope_scaling of type dynamic needs more than one channel pair",
            ),
            (self.hidden_act in ACT2FN, "hidden_act must be an activation of Transformers"),
            (
                self.pad_token_id is None or -self.vocab_size <= self.pad_token_id < self.vocab_size,
                "pad_token_id must be below vocab_size",
            ),
            (self.first_k_dense_replace >= 0, "first_k_dense_replace must not be negative"),
            ((self.num_shared_experts or 0) >= 0, "num_shared_experts must not be negative"),
        ]
        if sparse:
            group = self.num_experts // self.n_group
            rules += [
                (self.num_experts % self.n_group == 0, "n_group must divide num_experts"),
                (self.topk_group <= self.n_group, "topk_group must not exceed n_group"),
                (self.n_group == 1 or group > 1, "n_group leaves groups of less than two experts"),
                (
                    self.num_experts_per_tok <= group * self.topk_group,
                    "num_experts_per_tok must not exceed the experts of topk_group groups",
                ),
            ]
        for holds, complaint in rules:
            if not holds:
                raise UserError(f"config field {complaint}; it is {getattr(self, complaint.split()[0])!r}")

    def _rotary_rules(self) -> list[tuple[bool, str]]:
        """Whether each rule about rotary positions holds, and the complaint if not, which begins with the field."""
        assert self.head_dim is not None
        scaling, kind = self.rope_scaling or {}, self.rope_type
        channels = int(self.head_dim * self.partial_rotary_factor)
        wanting = [name for name in ROPE_TYPES.get(kind, ()) if not isinstance(scaling.get(name), int | float)]
        return [
            (0 <= self.partial_rotary_factor <= 1, "partial_rotary_factor must be between 0 and 1"),
            (channels % 2 == 0, "partial_rotary_factor x head_dim must be even"),
            (kind in ROPE_TYPES, f"rope_scaling must be null or of type {', '.join(ROPE_TYPES)}"),
            (not wanting, f"rope_scaling of type {kind} needs the number {' and '.join(wanting)}"),
            (kind != "dynamic" or channels > 2, "rope_scaling of type dynamic needs two channel pairs that turn"),
        ]


def _check_json(file: Path) -> None:
    """Refuse a ``config.json`` that is not there or holds no fields."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{file} is missing: not a whole checkpoint; download or save it again") from None
    except ValueError:
        raise UserError(f"{file} is not valid JSON; download or save it again") from None
    if not isinstance(fields, dict):
        raise UserError(f"{file} holds no fields, but {type(fields).__name__}; download or save it again")


def _check_names(extra: dict[str, Any]) -> None:
    """Refuse names that no LLaDA2 and no Transformers config has: they are typing errors."""
    known = {*_GENERIC.split(), *_CARRIED.split(), *GenerationConfig._get_default_generation_params()}
    for name in extra:
        if name not in known and not name.startswith("_"):
            guess = difflib.get_close_matches(name, [*_HINTS, *known], n=1)
            hint = f"; did you mean {guess[0]}?" if guess else ""
            raise UserError(f"config field {name!r} is unknown{hint}")


def _check_types(config: LLaDA2MoeConfig) -> None:
    for name, kind in _HINTS.items():
        value = getattr(config, name)
        wanted = kind if kind is not float else int | float
        # bool is a subclass of int, and no field that counts is true or false
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"config field {name} must be {_spell(kind)}, not {value!r}")
    dtype = getattr(torch, str(config.dtype).removeprefix("torch."), None)
    if config.dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"config field dtype must be the name of a floating-point type of torch, not {config.dtype!r}")


def _spell(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


_HINTS: dict[str, Any] = LLaDA2MoeConfig.__annotations__
