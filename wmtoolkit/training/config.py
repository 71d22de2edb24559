"""Configs of a training: frozen dataclasses, filled from YAML, checked before any work."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.errors import UserError
from wmtoolkit.training.scale_config import ScaleConfig
from wmtoolkit.world import masks
from wmtoolkit.world.config import WorldConfig

if TYPE_CHECKING:
    from wmtoolkit.llada2 import LLaDA2MoeConfig

VERSION = 1


@dataclass(frozen=True)
class ModelConfig:
    """LLaDA2's architecture, under the names of its own config."""

    hidden_size: int = 128
    intermediate_size: int = 320
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    first_k_dense_replace: int = 2
    num_experts: int = 8
    num_experts_per_tok: int = 2
    num_shared_experts: int = 1
    moe_intermediate_size: int = 96
    n_group: int = 1
    topk_group: int = 1
    routed_scaling_factor: float = 2.5
    partial_rotary_factor: float = 1.0
    rope_theta: float = 100.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    attention: str = "eager"

    def llada2(self) -> LLaDA2MoeConfig:
        """The network's own config (its vocabulary is set by the front-end)."""
        from wmtoolkit.llada2 import LLaDA2MoeConfig  # brings torch, which reading a config does without

        values = asdict(self)
        attention = values.pop("attention")
        config = LLaDA2MoeConfig(**values, use_bias=False, attention_dropout=0.0)
        config._attn_implementation = attention
        return config


@dataclass(frozen=True)
class DataConfig:
    """What is collected when no ``--data`` is given, and how often each level is drawn.

    Attributes:
        max_steps: cuts episodes after so many actions (0: never).
        weights: how much more often than others levels are drawn, by id; of levels that are in the data.
    """

    levels: list[str] = field(default_factory=lambda: [DEFAULT_LEVEL])
    episodes: int = 1000
    policy: str = "mix"
    max_steps: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.weights.values(), default=1) <= 0:
            raise UserError("data.weights: a level's weight must be above 0")


@dataclass(frozen=True)
class MaskingConfig:
    """What is hidden.

    Attributes:
        strategy: ``mixture``, ``scheduled``, or one strategy of ``world.masks`` for every block.
        mixture: share of each strategy in block-causal batches, when the strategy is ``mixture``.
        full_mixture: the same in batches with full attention, where ``goal`` may be one of them.
        first_mixture, first_ratio, curriculum: with ``scheduled``, block-causal batches start from this mixture and
            the ratios of all any-order strategies from this scale; both move linearly to ``mixture`` and to 1 over
            this share of the steps.
        full_share: share of batches with full attention.
        ending_share: share of windows that hold an episode's end.
        event_share: share of windows that hold a pick-up, drop or toggle, or an attempt at something in front.
        near_share: share of windows that hold a step which looks like a success of its level and is none.
        mission_share: share of full-attention windows in which words of the mission are hidden.
        swap_share: share of block-causal windows ending in success that get another mission, which it does not fulfil.
        behaviour_dropout: share of windows that do not say who acted.
        lone_outcomes: ask of every step of block-causal windows how it ends, its action given, by one token more; each
            weighs as an outcome does, so that all else weighs less.
    """

    strategy: str = "mixture"
    mixture: dict[str, float] = field(
        default_factory=lambda: {
            "forward": 0.44,
            "outcome": 0.20,
            "cell": 0.14,
            "attribute": 0.06,
            "inverse": 0.12,
            "belief": 0.04,
        }
    )
    full_mixture: dict[str, float] = field(
        default_factory=lambda: {
            "goal": 0.35,
            "cell": 0.20,
            "attribute": 0.15,
            "belief": 0.10,
            "inverse": 0.10,
            "forward": 0.10,
        }
    )
    first_mixture: dict[str, float] = field(default_factory=lambda: {"cell": 1.0})
    first_ratio: float = 0.2
    curriculum: float = 0.5
    full_share: float = 0.15
    ending_share: float = 0.25
    event_share: float = 0.25
    near_share: float = 0.0
    mission_share: float = 0.3
    swap_share: float = 0.2
    behaviour_dropout: float = 0.1
    lone_outcomes: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in ("mixture", "scheduled", *masks.NAMES):
            known = ", ".join(("mixture", "scheduled", *masks.NAMES))
            raise UserError(f"masking.strategy is {self.strategy!r}; known are {known}")
        if self.strategy == masks.GOAL and self.full_share < 1:
            raise UserError("masking.strategy goal asks backwards in time: it needs masking.full_share=1")
        for name, known_names in (
            ("mixture", tuple(masks.STRATEGIES)),
            ("first_mixture", tuple(masks.STRATEGIES)),
            ("full_mixture", masks.NAMES),
        ):
            shares = getattr(self, name)
            unknown = set(shares) - set(known_names)
            if unknown:
                raise UserError(
                    f"masking.{name}: unknown strategy {min(unknown)!r}; known are {', '.join(known_names)}"
                )
            if min(shares.values(), default=0) < 0 or sum(shares.values()) <= 0:
                raise UserError(f"masking.{name}: shares must be at least 0 and not all 0")
        shares_of_all = (
            "full_share",
            "ending_share",
            "event_share",
            "near_share",
            "mission_share",
            "swap_share",
            "behaviour_dropout",
        )
        for name in (*shares_of_all, "first_ratio", "curriculum"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"masking.{name} is {getattr(self, name)}, not a share from 0 to 1")
        if self.lone_outcomes and self.full_share == 1:
            raise UserError("masking.lone_outcomes asks in block-causal windows, and masking.full_share=1 leaves none")
        if self.ending_share + self.event_share + self.near_share > 1:
            raise UserError("masking.ending_share, event_share and near_share are together more than 1")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the kinds of token in the loss; see ``objective.weigh``.

    Attributes:
        changed: factor for cells that an action changed or could have (needs ``world.expectation``): they are few.
    """

    action: float = 10.0
    outcome: float = 10.0
    direction: float = 5.0
    cell: float = 1.0
    changed: float = 1.0
    mission: float = 1.0
    other_behaviour: float = 0.1
    outcome_alone: float = 3.0
    likelihood: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """The loop.

    Attributes:
        steps: optimiser steps; batch_size: windows a step, over all processes.
        learning_rate: of AdamW (embeddings, norms, router); muon_learning_rate: of Muon (hidden matrices).
        schedule: ``wsd`` (warm-up, stable, linear decay to 0) or ``cosine``.
        warmup, decay: shares of the steps in which the rate rises and, with ``wsd``, falls to 0.
        gradient_clip: largest gradient norm.
        accumulation: parts a process computes its share of a batch in, one after the other, to save memory.
        ema: decay a step of the moving average of the weights, which is what is validated and kept; 0 for none.
        mixed_precision: ``bf16``, ``float32``, or ``auto``: bf16 where the processor computes it natively.
        compile: let torch.compile build the network's layers: minutes at the start, then about a quarter faster.
        checkpoint_every, keep_last: steps between checkpoints, and how many of them are kept.
        validation_windows: windows on which the validation NLL is taken, with every checkpoint.
        loaders: processes that draw batches ahead, the same as without; meant for a GPU, which was not tried.
        patience: stop after so many checkpoints without a better validation NLL; 0 for never.
    """

    steps: int = 1000
    batch_size: int = 16
    seed: int = 0
    learning_rate: float = 3e-3
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.0
    schedule: str = "wsd"
    warmup: float = 0.04
    decay: float = 0.75
    gradient_clip: float = 1.0
    accumulation: int = 1
    ema: float = 0.0
    mixed_precision: str = "auto"
    compile: bool = False
    checkpoint_every: int = 200
    keep_last: int = 2
    validation_windows: int = 512
    loaders: int = 0
    patience: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "checkpoint_every", "keep_last", "validation_windows"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "muon_learning_rate", "gradient_clip"):
            if getattr(self, name) <= 0:
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "decay", "ema"):
            if not 0 <= getattr(self, name) <= 1 or (name == "ema" and self.ema == 1):
                raise UserError(f"training.{name} is {getattr(self, name)}, not from 0 to 1")
        for name in ("loaders", "patience"):
            if getattr(self, name) < 0:
                raise UserError(f"training.{name} is {getattr(self, name)}; it must be at least 0")
        if self.schedule not in ("wsd", "cosine"):
            raise UserError(f"training.schedule is {self.schedule!r}; known are wsd, cosine")
        if self.mixed_precision not in ("auto", "bf16", "float32"):
            raise UserError(f"training.mixed_precision is {self.mixed_precision!r}; known are auto, bf16, float32")


@dataclass(frozen=True)
class LoggingConfig:
    """``every``: steps between lines of metrics; ``trackers``: of Accelerate, e.g. tensorboard, wandb."""

    every: int = 10
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])


@dataclass(frozen=True)
class Config:
    """One training. ``version`` is that of these keys and their meaning."""

    version: int = VERSION
    name: str = "custom"
    model: ModelConfig = field(default_factory=ModelConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    data: DataConfig = field(default_factory=DataConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise UserError(
                f"the config is of version {self.version}, this toolkit reads version {VERSION}; "
                "use the toolkit that wrote it, or write the config anew"
            )
        if self.training.ema and (self.scale.sharded or self.scale.lora_rank):
            raise UserError("training.ema must be 0 with scale.sharding=fsdp2 and with scale.lora_rank")
        if self.scale.frozen_weights == "bf16" and self.training.mixed_precision == "float32":
            raise UserError("scale.frozen_weights=bf16 needs training.mixed_precision auto or bf16")


def packaged_configs() -> list[str]:
    """Names of the configs of trainings that come with the package, e.g. ``compact`` and ``ablation/dense``."""
    return sorted([*_names(""), *_names("ablation/")])


def _names(folder: str) -> list[str]:
    entries = (files("wmtoolkit") / "configs" / folder).iterdir()
    return [folder + entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")]


def load_config(name: str, overrides: Sequence[str] = ()) -> Config:
    """A packaged config by name or a YAML file, with ``a.b=value`` overrides.

    A YAML may name another under ``base``: it is read first and overridden.

    Raises:
        UserError: no such config, broken YAML, an unknown key or a value of the wrong type or range.
    """
    merged: Any = OmegaConf.create({})
    for document, where in reversed(_chain(name)):
        _check_keys(document, Config, where)
        merged = OmegaConf.merge(merged, document)
    for override in overrides:
        _, equals, _ = override.partition("=")
        if not equals:
            raise UserError(f"--set {override!r}: write key=value, for example training.steps=100")
        try:
            change = OmegaConf.from_dotlist([override])
        except Exception as error:
            raise UserError(f"--set {override!r}: {' '.join(str(error).split())}") from None
        _check_keys(OmegaConf.to_container(change), Config, f"--set {override}")
        merged = OmegaConf.merge(merged, change)
    return build_config(OmegaConf.to_container(merged, resolve=True), name)


def build_config(document: Any, where: str) -> Config:
    """Fill and check the dataclasses from plain values."""
    _check_keys(document, Config, where)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), document)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or getattr(error, "key", None)
        raise UserError(f"config {where}: {key}: {str(error.msg or error).splitlines()[0]}") from None
    except ValueError as error:
        raise UserError(f"config {where}: {error}") from None


def write_config(config: Config, path: Path) -> None:
    """Write the resolved config as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(config))), encoding="utf-8")


def _chain(name: str) -> list[tuple[dict[str, Any], str]]:
    """The document of a config and, after it, those of its bases."""
    chain: list[tuple[dict[str, Any], str]] = []
    while name:
        if any(where == name for _, where in chain):
            raise UserError(f"config {name}: its bases go round in a circle")
        document = _read(name)
        base = document.pop("base", "")
        chain.append((document, name))
        name = str(base)
    return chain


def _read(name: str) -> dict[str, Any]:
    if name in packaged_configs():
        text = (files("wmtoolkit") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(f"no config {name!r}; give a YAML file or one of {', '.join(packaged_configs())}")
    try:
        document = OmegaConf.to_container(OmegaConf.create(text))
    except Exception as error:  # OmegaConf passes on the YAML parser's exceptions as they are
        raise UserError(f"config {name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"config {name} is not a mapping of keys")
    return {str(key): value for key, value in document.items()}


def _check_keys(document: Any, kind: Any, where: str, path: str = "") -> None:
    """Name the first key that the dataclass does not have, with what is allowed."""
    if not isinstance(document, dict):
        raise UserError(f"config {where}: {path or 'it'} must be a group of keys, not {document!r}")
    known = {entry.name: entry for entry in fields(kind)}
    for key, value in document.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise UserError(f"config {where}: unknown key {path}{key}; {hint}")
        default = known[key].default_factory if callable(known[key].default_factory) else None
        if default is not None and is_dataclass(default):
            _check_keys(value, default, where, f"{path}{key}.")
