"""How a network is loaded from, and saved to, a checkpoint folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import PreTrainedModel

from wmtoolkit.llada2.checkpoint import INDEX_FILE, SINGLE_FILE, network_tensors, no_progress_bars, open_checkpoint
from wmtoolkit.llada2.configuration import LLaDA2MoeConfig
from wmtoolkit.llada2.hub import local_folder
from wmtoolkit.llada2.layouts import Layout, from_fused


class CheckpointedModel(PreTrainedModel):
    """Transformers' model, whose checkpoints are the original's: either layout is read, each key is checked."""

    key_prefix: ClassVar[str] = ""
    """What the keys of this network's weights begin with in a checkpoint."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike, *, config: LLaDA2MoeConfig | None = None, **kwargs: Any
    ) -> Self:
        """Load a checkpoint of either layout from a folder or the hub.

        Args:
            pretrained_model_name_or_path: folder, or hub repository (then ``revision``, ``token``, ... apply).
            kwargs: those of Transformers (``dtype``, ``device_map``, ``attn_implementation``, ...) and config fields.

        Raises:
            UserError: naming file and key if any tensor is missing, unexpected, misshapen or damaged.
        """
        hub = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        folder = local_folder(pretrained_model_name_or_path, **{n: kwargs.pop(n) for n in hub if n in kwargs})
        folder /= kwargs.pop("subfolder", "")
        if config is None:
            config, kwargs = LLaDA2MoeConfig.from_pretrained(folder, return_unused_kwargs=True, **kwargs)
        checkpoint = open_checkpoint(folder, config)
        prefix = cls.key_prefix
        tensors = {key[len(prefix) :]: t for key, t in network_tensors(checkpoint).items() if key.startswith(prefix)}
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None) or "auto"
        if dtype == "auto":
            dtype = config.dtype or checkpoint.tensors["model.norm.weight"].dtype
        loaded: Any  # the model, or a pair of it and what was loaded
        with no_progress_bars():
            loaded = super().from_pretrained(None, config=config, state_dict=tensors, dtype=dtype, **kwargs)
        model = loaded[0] if kwargs.get("output_loading_info") else loaded
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        return loaded

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        *,
        layout: Layout = "separate",
        max_shard_size: int | str = "5GB",
        **kwargs: Any,
    ) -> None:
        """Write ``config.json`` and the weights under the original's keys.

        Args:
            state_dict: of this network, if not the one it has now (gathered from several processes, say).
            layout: ``separate`` experts as on the hub, or ``merged`` as dFactory trains them.
            max_shard_size: weights beyond it go to further files, listed in an index.
            kwargs: those of Transformers (``push_to_hub``, ...).
        """
        state_dict = self.state_dict() if state_dict is None else state_dict
        state_dict = {self.key_prefix + key: tensor for key, tensor in state_dict.items()}
        if is_main_process:  # or an earlier save with another number of files would leave its own behind
            for stale in (SINGLE_FILE, INDEX_FILE):
                Path(save_directory, stale).unlink(missing_ok=True)
        with no_progress_bars():
            super().save_pretrained(
                save_directory,
                is_main_process=is_main_process,
                state_dict=from_fused(state_dict, layout),
                max_shard_size=max_shard_size,
                save_original_format=False,
                **kwargs,
            )
