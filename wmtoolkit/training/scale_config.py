"""How a training is laid out on its devices: apart from ``scale``, which does it, as configs are read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from wmtoolkit.errors import UserError


@dataclass(frozen=True)
class ScaleConfig:
    """How a training is laid out on its devices.

    Attributes:
        optimizer: ``muon`` (hidden matrices, AdamW for the rest) or ``adamw`` for everything.
        sharding: ``none``, each process holds all (DDP), or ``fsdp2``, each holds a part of weights and optimiser.
        offload: with fsdp2, keep both on the CPU and gather a layer at a time.
        activation_checkpointing: keep each layer's input alone and compute its insides again for the gradient.
        lora_rank: train low-rank adapters (peft) of this rank instead of the network's weights; 0 for none.
        lora_alpha, lora_dropout: scale of the adapters is alpha / rank.
        frozen_weights: type of the weights that adapters leave as they are: ``float32`` or ``bf16``.
    """

    optimizer: str = "muon"
    sharding: str = "none"
    offload: bool = False
    activation_checkpointing: bool = False
    lora_rank: int = 0
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    frozen_weights: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ("muon", "adamw")),
            ("sharding", ("none", "fsdp2")),
            ("frozen_weights", ("float32", "bf16")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"scale.{name} is {getattr(self, name)!r}; known are {', '.join(known)}")
        if self.lora_rank < 0 or not 0 <= self.lora_dropout < 1 or self.lora_alpha <= 0:
            raise UserError("scale.lora_rank must be at least 0, lora_alpha above 0 and lora_dropout in 0..1")
        if self.optimizer == "muon" and (self.sharded or self.lora_rank):
            raise UserError("scale.sharding fsdp2 and scale.lora_rank need scale.optimizer=adamw")
        if self.sharded and self.lora_rank:
            raise UserError("scale.lora_rank needs scale.sharding=none: adapters leave nothing worth sharding")
        if self.offload and not self.sharded:
            raise UserError("scale.offload needs scale.sharding=fsdp2")
        if self.frozen_weights == "bf16" and not self.lora_rank:
            raise UserError("scale.frozen_weights=bf16 needs scale.lora_rank: weights that are trained stay float32")

    @property
    def sharded(self) -> bool:
        return self.sharding == "fsdp2"
