"""A text LLaDA2 grown by the world's tokens, on disk: new rows behind the tables, all else bit by bit as it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from wmtoolkit.errors import UserError
from wmtoolkit.llada2.checkpoint import Checkpoint, open_checkpoint
from wmtoolkit.llada2.convert import check_new, write_checkpoint
from wmtoolkit.llada2.safetensors_files import TensorToWrite
from wmtoolkit.world import grid
from wmtoolkit.world.checkpoint import FORMAT
from wmtoolkit.world.config import BEYOND_LLADA2
from wmtoolkit.world.tokenizer import BLOCK, WorldTokenizer
from wmtoolkit.world.trajectory import mission_words
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig, describing_words

BLOCK_SIZE = 32
"""Tokens of a block of the released LLaDA2 models."""
_ROUND = 128
"""The tables get a multiple of so many rows, as matrix kernels and sharding like it."""
_TABLES = ("model.word_embeddings.weight", "lm_head.weight")
_SENTENCE = "go to the red ball, then pick up a green key on your left"


def grow(
    source: Path,
    target: Path,
    *,
    mask_token: str = "<|mask|>",
    block_size: int = BLOCK_SIZE,
    rows: Literal["words", "random"] = "words",
    max_shard_size: int | str = "5GB",
) -> dict[str, Any]:
    """Write a checkpoint whose vocabulary holds the world's tokens; memory stays at the size of its new rows.

    Args:
        source: folder of a text LLaDA2, of either layout, with its ``tokenizer.json``.
        target: a folder to be made.
        mask_token: text of the tokenizer's mask token.
        block_size: tokens of a block of the model; a time step takes a whole number of them.
        rows: new rows start as the mean of the rows of the words that describe the token, or random.

    Returns:
        {"output_path", "tensors", "bytes", "files", "vocab_size", "new_tokens"}

    Raises:
        UserError: if the source is no sound text LLaDA2, was grown before, or its tokenizer does not fit.
    """
    check_new(target, "--out")
    if (source / "world.json").exists():
        raise UserError(f"{source} holds the world's tokens already (it has a world.json); use it as it is")
    checkpoint = open_checkpoint(source)
    if checkpoint.config.tie_word_embeddings:
        raise UserError(f"{source / 'config.json'}: tie_word_embeddings must be false, as in the released models")
    tokenizer = _tokenizer(source)
    vocabulary = text_vocabulary(checkpoint, tokenizer, mask_token, block_size)
    tensors = [
        _grown(checkpoint, key, tokenizer, vocabulary, rows)
        if key in _TABLES
        else TensorToWrite(key, stored.dtype, stored.shape, stored.read())
        for key, stored in checkpoint.tensors.items()
    ]
    plain = dict.fromkeys(("compositional", *BEYOND_LLADA2), False)
    world = TextWorldConfig(**plain, memory=0, text=vocabulary)
    document = {"format": FORMAT, "vocabulary": WorldTokenizer().fingerprint, "world": asdict(world)}
    written = write_checkpoint(
        source,
        target,
        tensors,
        {"vocab_size": vocabulary.size},
        files={"world.json": json.dumps(document, indent=2)},
        max_shard_size=max_shard_size,
    )
    return {**written, "vocab_size": vocabulary.size, "new_tokens": len(vocabulary.new)}


def text_vocabulary(
    checkpoint: Checkpoint, tokenizer: Tokenizer, mask_token: str = "<|mask|>", block_size: int = BLOCK_SIZE
) -> TextVocabulary:
    """Where the world's tokens will lie behind the vocabulary of a text checkpoint.

    Raises:
        UserError: if the tokenizer lacks the mask, knows ids the model has no rows for, or joins words.
    """
    config, where = checkpoint.config, checkpoint.folder / "tokenizer.json"
    mask = tokenizer.token_to_id(mask_token)
    if mask is None:
        raise UserError(f"{where} has no token {mask_token!r}; give --mask-token the text of its mask token")
    if config.pad_token_id is None:
        raise UserError(f"{checkpoint.folder / 'config.json'} has no pad_token_id; LLaDA2.0's is 156892")
    if block_size < 1:
        raise UserError(f"--block-size is {block_size}; LLaDA2.0's is {BLOCK_SIZE}")
    words = tuple(tuple(_pieces(tokenizer, word)) for word in grid.WORDS)
    if not all(words):
        lost = grid.WORDS[words.index(())]
        raise UserError(f"{where} has no token for the word {lost!r} of missions")
    spelled = [piece for word in mission_words(_SENTENCE) for piece in _pieces(tokenizer, word)]
    if tokenizer.encode(f" {_SENTENCE}", add_special_tokens=False).ids != spelled:
        raise UserError(f"{where} joins words into one token; missions need a tokenizer that keeps them apart")
    if max(mask, config.pad_token_id, *map(max, words)) >= config.vocab_size:
        raise UserError(
            f"{where} knows ids beyond vocab_size {config.vocab_size} of config.json; it is another model's"
        )
    return TextVocabulary(
        size=grown_size(config.vocab_size),
        first=config.vocab_size,
        pad=config.pad_token_id,
        mask=mask,
        words=words,
        block_length=-(-BLOCK // block_size) * block_size,
    )


def grown_size(vocab_size: int) -> int:
    """Rows of the tables of a text model with the world's tokens behind its own."""
    return -(-(vocab_size + len(describing_words())) // _ROUND) * _ROUND


def _tokenizer(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"{file} is missing: missions are spelled with it; download the checkpoint with its tokenizer")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more telling
        raise UserError(f"{file} is no tokenizer ({error}); download it again") from None


def _pieces(tokenizer: Tokenizer, word: str) -> list[int]:
    """Ids of a word, or of a comma, inside of a sentence."""
    return tokenizer.encode(word if word == "," else f" {word}", add_special_tokens=False).ids


def _grown(
    checkpoint: Checkpoint, key: str, tokenizer: Tokenizer, vocabulary: TextVocabulary, rows: str
) -> TensorToWrite:
    """A table with its new rows behind it; what rounds its size up is 0."""
    stored = checkpoint.tensors[key]
    width = stored.shape[1]
    new = torch.zeros(vocabulary.size - vocabulary.first, width)
    count = len(vocabulary.new)

    @cache
    def row(index: int) -> torch.Tensor:
        return stored.load(index, (width,)).float()

    if rows == "random":
        generator = torch.Generator().manual_seed(_TABLES.index(key))
        new[:count] = torch.randn(count, width, generator=generator) * checkpoint.config.initializer_range
    else:
        described = describing_words()
        for place, token in enumerate(vocabulary.new.tolist()):
            spelled = [[vocabulary.mask] if word is None else _pieces(tokenizer, word) for word in described[token]]
            new[place] = torch.stack([row(index) for pieces in spelled for index in pieces]).mean(0)

    bytes_of_new = new.to(stored.dtype).view(torch.uint8).numpy().tobytes()
    return TensorToWrite(key, stored.dtype, (vocabulary.size, width), chain(stored.read(), [bytes_of_new]))
