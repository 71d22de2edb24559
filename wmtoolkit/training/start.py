"""What a training starts from: random weights, a world model, or a text LLaDA2 with the world's tokens."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.training.config import Config
from wmtoolkit.training.deepen import deepened
from wmtoolkit.world import checkpoint
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.vocabulary import TextWorldConfig, world_config


def starting_network(
    config: Config, init: Path | None, resumed: Path | None = None
) -> tuple[WorldNetwork, Path | None]:
    """A network in training mode with the weights that training starts from.

    Args:
        init: checkpoint whose weights are taken; None for random ones. A world model may have fewer layers than the
            config: it is deepened. Over a text LLaDA2 the architecture must be the
            config's, and what the front-end adds beside the vocabulary is new.
        resumed: training checkpoint that will be read into the network.

    Returns:
        The network, and the checkpoint it stems from; over a text LLaDA2 whose weights will be sharded, the network is
        on the meta device and its weights are still to be read from there.

    Raises:
        UserError: if the checkpoint does not fit the config.
    """
    if resumed is not None:
        init = _origin(resumed)
    text = check_start(config, init)
    if init is not None and text is not None:
        return _over_text(config, text, init), init
    network = WorldNetwork(WorldNetwork.fitted(config.model.llada2(), config.world), config.world)
    if init is not None and resumed is None:
        loaded = checkpoint.load(init)[0]
        source, depth = loaded.state_dict(), config.model.num_hidden_layers
        if loaded.llada2.config.first_k_dense_replace < loaded.llada2.config.num_hidden_layers < depth:
            source = deepened(source, depth, loaded.llada2.config.first_k_dense_replace)
        for name, value in network.state_dict().items():
            if name not in source or source[name].shape != value.shape:
                raise UserError(f"--init {init}: {name} does not fit the config's model")
        network.load_state_dict(source)
    return network, init


def _origin(resumed: Path) -> Path | None:
    """Where the weights come from that a training checkpoint leaves out: itself, if it leaves none out."""
    if (resumed / "world.json").is_file():
        return resumed
    init = json.loads((resumed / "training_state.json").read_text(encoding="utf-8")).get("init")
    return None if init is None else Path(init)


def check_start(config: Config, init: Path | None) -> TextWorldConfig | None:
    """Refuse a start that does not fit, by its small files alone; what is found there, if it is a text LLaDA2.

    Raises:
        UserError: naming what to change.
    """
    if init is None:
        if config.scale.lora_rank:
            raise UserError("scale.lora_rank trains adapters of a model that is there; add --init CHECKPOINT")
        return None
    if (init / "config.json").is_file() and not (init / "world.json").is_file():
        raise UserError(
            f"--init {init}: the vocabulary was not grown by the world's tokens; "
            f"wmtool export --target grown --checkpoint {init} --out {init.name}-world"
        )
    found = world_config(checkpoint.describe(init)["world"])
    if not isinstance(found, TextWorldConfig):
        return None
    wanted, there = config.model.llada2(), LLaDA2MoeConfig.from_pretrained(init)
    for name in config.model.__dataclass_fields__:
        if name in ("attention", "initializer_range"):
            continue
        if getattr(there, name) != getattr(wanted, name):
            raise UserError(
                f"--init {init}: model.{name} is {getattr(wanted, name)} in the config, {getattr(there, name)} in the "
                f"checkpoint; add --set model.{name}={getattr(there, name)}"
            )
    return found


def _over_text(config: Config, found: TextWorldConfig, init: Path) -> WorldNetwork:
    """The text model in the front-end that the config asks for; features that it has already are kept."""
    there = LLaDA2MoeConfig.from_pretrained(init)
    try:
        world = TextWorldConfig(**asdict(config.world), text=found.text)
    except ValueError as error:
        raise UserError(f"--init {init} is a text LLaDA2: {error}") from None
    there._attn_implementation = config.model.attention
    fitted = WorldNetwork.fitted(there, world)
    if config.scale.sharded:
        with torch.device("meta"):
            return WorldNetwork(fitted, world)
    dtype = torch.bfloat16 if config.scale.frozen_weights == "bf16" else torch.float32
    loaded, _ = checkpoint.load(init, dtype=dtype)
    loaded.llada2.config.rope_axes = loaded.llada2.model.rotary_emb.axes = fitted.rope_axes
    loaded.llada2.set_attn_implementation(config.model.attention)
    network = WorldNetwork(loaded.llada2, world)
    kept = {name: value for name, value in loaded.state_dict().items() if name in network.state_dict()}
    network.load_state_dict(kept, strict=False)
    return network.train()
