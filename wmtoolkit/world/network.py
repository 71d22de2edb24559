"""The trainable whole: a front-end that embeds tokens, and the LLaDA2 network behind it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wmtoolkit.llada2 import BlockCache, LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import ATTRIBUTES, BLOCK, WorldTokenizer
from wmtoolkit.world.tokens import ACTION_FEATURES, SLOTS
from wmtoolkit.world.vocabulary import TextWorldConfig


def native_bf16(device: torch.device | str) -> bool:
    """Whether the device computes bf16 matrix products natively, so that bf16 is faster than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class WorldNetwork(nn.Module):
    """Embeds tokens, runs LLaDA2 on them and scores completions.

    Args:
        llada2: architecture, or a network of it; vocabulary size and rotary axes must fit the front-end (``fitted``
            sets them).
        world: the front-end's options. Over a text LLaDA2 only the rows of the world's own tokens are trained, not
            those of the text's.
    """

    composition: torch.Tensor
    _looks: torch.Tensor
    _rows: torch.Tensor
    _new: torch.Tensor
    _agreeing: torch.Tensor
    _places: torch.Tensor

    def __init__(self, llada2: LLaDA2MoeConfig | LLaDA2MoeForCausalLM, world: WorldConfig) -> None:
        super().__init__()
        self.world = world
        self.bf16_inference = False
        """Run the network in bf16 where no gradient is wanted; predictions move by about as much as training noise."""
        self.forward_passes = 0
        """Calls of ``forward`` so far, whatever they were for: what planners are charged."""
        self.tokenizer = tokenizer = WorldTokenizer()
        if isinstance(llada2, LLaDA2MoeConfig):
            llada2 = LLaDA2MoeForCausalLM(llada2)
        self.llada2 = llada2
        width, std = llada2.config.hidden_size, llada2.config.initializer_range

        def rows(count: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(count, width) * std)

        if world.compositional:
            parts = _composition(tokenizer)
            self.register_buffer("composition", torch.from_numpy(parts), persistent=False)
            self.input_rows, self.output_rows = rows(parts.shape[1]), rows(parts.shape[1])
        elif isinstance(world, TextWorldConfig):
            self.register_buffer("_rows", torch.from_numpy(world.text.rows), persistent=False)
            self.register_buffer("_new", torch.from_numpy(world.text.new), persistent=False)
            own = self._rows[self._new]
            self.input_rows = nn.Parameter(self._plain_input.detach()[own].float())
            self.output_rows = nn.Parameter(self._plain_output.detach()[own].float())
        if world.compositional or isinstance(world, TextWorldConfig):
            self._plain_input.requires_grad_(False)
            self._plain_output.requires_grad_(False)
        if world.slot_features:
            self.slot_rows = rows(SLOTS)
        if world.action_features:
            self.action_rows = rows(ACTION_FEATURES)
        if world.mission_features:
            self.mission_rows, self.mission_places = rows(len(tokenizer.words)), nn.Parameter(torch.ones(BLOCK, width))
        if world.egomotion:
            self.lost_row = rows(1)
        if world.expectation:
            self.register_buffer("_looks", torch.from_numpy(_looks(tokenizer)), persistent=False)
            self.expected_rows, self.unsure_row = rows(sum(ATTRIBUTES) + len(ATTRIBUTES)), rows(1)
        full = [tokenizer.cell_ids(np.array(cell)) for cell in np.ndindex(*ATTRIBUTES)]
        self.completions = torch.from_numpy(np.array(full))
        """Ids of the fully specified cells: the only possible targets of a cell."""
        if world.compositional and world.residual:
            self.cell_rows = nn.Parameter(torch.zeros(len(full), width))
        places = np.full(len(tokenizer.cells), -1)
        places[np.array(full) - tokenizer.cells.start] = np.arange(len(full))
        self.register_buffer("_places", torch.from_numpy(places), persistent=False)
        self.register_buffer("_agreeing", torch.from_numpy(_agreement(tokenizer, np.array(full))), persistent=False)

    @staticmethod
    def fitted(llada2: LLaDA2MoeConfig, world: WorldConfig) -> LLaDA2MoeConfig:
        """The architecture with the vocabulary size, pad id and rotary axes that the front-end needs."""
        changed = LLaDA2MoeConfig.from_dict(llada2.to_dict())
        text = world.text if isinstance(world, TextWorldConfig) else None
        changed.vocab_size = WorldTokenizer().vocab_size if text is None else text.size
        changed.pad_token_id = WorldTokenizer.pad if text is None else text.pad
        changed.rope_axes = 3 if world.axes else 1
        changed._attn_implementation = llada2._attn_implementation
        return changed

    @property
    def device(self) -> torch.device:
        return self.llada2.lm_head.weight.device

    def input_table(self) -> torch.Tensor:
        """(V, H) word embeddings of the world's tokens, whatever they are made of."""
        if self.world.compositional:
            return self.composition @ self.input_rows
        if isinstance(self.world, TextWorldConfig):
            return self._plain_input[self._rows].to(self.input_rows.dtype).index_copy(0, self._new, self.input_rows)
        return self._plain_input

    def output_table(self) -> torch.Tensor:
        """(V, H) rows of the output head, likewise."""
        if self.world.compositional:
            table = self.composition @ self.output_rows
            if self.world.residual:
                table = table.index_add(0, self.completions.to(table.device), self.cell_rows.to(table.dtype))
            return table
        if isinstance(self.world, TextWorldConfig):
            return self._plain_output[self._rows].to(self.output_rows.dtype).index_copy(0, self._new, self.output_rows)
        return self._plain_output

    def expected_table(self) -> torch.Tensor:
        """(841, H) embeddings of ``expectation.CODES``: sums of attribute rows, as cells are."""
        cells = self._looks @ self.expected_rows
        return torch.cat([torch.zeros_like(cells[:1]), cells, cells + self.unsure_row])

    @property
    def _plain_input(self) -> torch.Tensor:
        return self.llada2.model.word_embeddings.weight

    @property
    def _plain_output(self) -> torch.Tensor:
        return self.llada2.lm_head.weight

    @torch.no_grad()
    def write_tables(self) -> None:
        """Write the tables into the LLaDA2 network, which so becomes a plain checkpoint."""
        if self.world.compositional:
            self._plain_input.copy_(self.input_table())
            self._plain_output.copy_(self.output_table())
        elif isinstance(self.world, TextWorldConfig):
            own = self._rows[self._new]
            self._plain_input[own] = self.input_rows.to(self._plain_input.dtype)
            self._plain_output[own] = self.output_rows.to(self._plain_output.dtype)

    def embed(self, tokens: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, S, H) and rotary positions: (3, B, S), or (B, S) as if all blocks lay end to end."""
        embedded = F.embedding(tokens["ids"], self.input_table())
        if self.world.slot_features:
            embedded = embedded + F.embedding(tokens["slot"], self.slot_rows)
        if self.world.action_features:
            embedded = embedded + F.embedding(tokens["action"], self.action_rows)
        if self.world.mission_features:
            embedded = embedded + (tokens["time"] > 0)[..., None] * self._mission(tokens["words"])
        if self.world.egomotion:
            embedded = embedded + (1 - tokens["known"])[..., None] * self.lost_row
        if self.world.expectation:
            embedded = embedded + F.embedding(tokens["expected"], self.expected_table())
        time, slot = tokens["time"], tokens["slot"]
        if self.world.axes:
            return embedded, torch.stack([time, tokens["x"], tokens["y"]])
        return embedded, torch.where(time > 0, time * self.world.block_length + slot - BLOCK, slot)

    def _mission(self, words: torch.Tensor) -> torch.Tensor:
        """(B, 1, H) sum of the visible words of mission blocks (B, 52)."""
        index = words - self.tokenizer.words.start
        named = (index >= 0) & (index < len(self.tokenizer.words))
        rows = F.embedding(torch.where(named, index, 0), self.mission_rows) * self.mission_places
        return (rows * named[..., None]).sum(1, keepdim=True)

    def forward(
        self,
        tokens: dict[str, torch.Tensor],
        attention_mask: torch.Tensor | None,
        past_key_values: BlockCache | None = None,
        *,
        keep: int | None = None,
        prefix: int = 0,
    ) -> torch.Tensor:
        """Hidden states (B, S, H) of a batch of sequences (``Tokens.tensors``), or of their last ``keep`` tokens.

        ``prefix``: see ``LLaDA2MoeModel.forward``.
        """
        self.forward_passes += 1
        embedded, positions = self.embed(tokens)
        fast = self.bf16_inference and not torch.is_grad_enabled()
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=fast or torch.is_autocast_enabled(self.device.type)
        ):
            return self.llada2.model(
                inputs_embeds=embedded.to(self._plain_input.dtype),
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=past_key_values,
                keep=keep,
                prefix=prefix,
            ).last_hidden_state.float()

    def cell_logits(self, hidden: torch.Tensor, ids: torch.Tensor, table: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of the fully specified cells that agree with what is visible of each.

        Args:
            hidden: (n, H); ids: (n,) the (partly) masked cells as given to the network.
            table: ``output_table()``, if it is at hand.

        Returns:
            (n, 264) float32 over ``completions``, -inf where a completion contradicts a visible attribute.
        """
        table = self.output_table() if table is None else table
        logits = (hidden @ table[self.completions.to(hidden.device)].T.to(hidden.dtype)).float()
        return logits.masked_fill(~self._agreeing[ids - self.tokenizer.cells.start], float("-inf"))

    def completion_index(self, ids: torch.Tensor) -> torch.Tensor:
        """Place (n,) of fully specified cell ids (n,) among ``completions``."""
        return self._places[ids - self.tokenizer.cells.start]

    def logits(self, hidden: torch.Tensor, kind: range, table: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (..., len(kind)) float32 of the tokens of one kind, e.g. ``tokenizer.actions``; ``table`` as above."""
        table = self.output_table() if table is None else table
        return (hidden @ table[kind.start : kind.stop].T.to(hidden.dtype)).float()


def _composition(tokenizer: WorldTokenizer) -> np.ndarray:
    """(V, R) float32 of 0/1: which rows sum up to each token's row."""
    plain, looks = tokenizer.cells.start, _looks(tokenizer)
    parts = np.zeros((tokenizer.vocab_size, plain + looks.shape[1]), dtype=np.float32)
    parts[np.arange(plain), np.arange(plain)] = 1
    parts[tokenizer.cells.start : tokenizer.cells.stop, plain:] = looks
    return parts


def _looks(tokenizer: WorldTokenizer) -> np.ndarray:
    """(420, 23) float32 of 0/1: object, colour and state of each cell id, "?" among them."""
    attributes = tokenizer.cell_attributes(np.array(tokenizer.cells))
    return np.concatenate(
        [np.eye(size + 1, dtype=np.float32)[attributes[:, i]] for i, size in enumerate(ATTRIBUTES)], 1
    )


def _agreement(tokenizer: WorldTokenizer, full: np.ndarray) -> np.ndarray:
    """(420, 264) bool: whether a full cell agrees with the visible attributes of a cell id."""
    given = tokenizer.cell_attributes(np.array(tokenizer.cells))[:, None]
    target = tokenizer.cell_attributes(full)[None]
    return ((given == target) | (given == ATTRIBUTES)).all(-1)
