"""A world model as a plain LLaDA2: what any program that reads LLaDA2 can load.

Composed tables are written out as ``word_embeddings`` and ``lm_head``. What is no part of a LLaDA2 cannot be: learned
features of slots, of the step's action and of the mission, the flag of a lost pose, what memory expects, and rotary
positions on time and place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from wmtoolkit.data.files import whole_folder
from wmtoolkit.errors import UserError
from wmtoolkit.llada2.convert import check_new
from wmtoolkit.llada2.layouts import Layout
from wmtoolkit.world import checkpoint
from wmtoolkit.world.config import BEYOND_LLADA2, WorldConfig
from wmtoolkit.world.tokenizer import BLOCK, WorldTokenizer
from wmtoolkit.world.vocabulary import TextWorldConfig


def export_plain(
    source: Path, out: Path, *, layout: Layout = "separate", drop_front_end: bool = False
) -> dict[str, Any]:
    """Write a world model's network and tables as a plain LLaDA2 folder.

    On the ids of ``WorldTokenizer`` (or, over a text LLaDA2, on that model's ids), with ``position_ids`` of blocks of
    equal length and padding hidden, it computes what the world model computes, as long as the front-end has nothing
    that a LLaDA2 has not.

    Args:
        drop_front_end: leave out what cannot be represented; predictions then differ.

    Returns:
        {"out", "vocab_size", "layout", "dropped"}

    Raises:
        UserError: if the front-end cannot be represented and is not to be dropped.
    """
    check_new(out, "--out")
    network, _ = checkpoint.load(source)
    world = network.world
    dropped = [name for name in BEYOND_LLADA2 if getattr(world, name)]
    if dropped and not drop_front_end:
        raise UserError(
            f"{source} uses {', '.join(f'world.{name}' for name in dropped)}, which a plain LLaDA2 does not have; "
            "--drop-front-end writes the network without them, and its predictions will differ"
        )
    network.write_tables()
    network.llada2.config.rope_axes = 1
    with whole_folder(out) as folder:
        network.llada2.save_pretrained(folder, layout=layout)
        if isinstance(world, TextWorldConfig):
            for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
                if (source / name).is_file():
                    (folder / name).write_bytes((source / name).read_bytes())
        else:
            _write_tokenizer(folder)
        (folder / "README.md").write_text(_readme(world, dropped), encoding="utf-8")
    return {"out": str(out), "vocab_size": network.llada2.config.vocab_size, "layout": layout, "dropped": dropped}


def _write_tokenizer(folder: Path) -> None:
    """The world's vocabulary as a tokenizer of whole words; the names of other tokens say their kind."""
    tokenizer = WorldTokenizer()
    kinds = {
        "behaviour": tokenizer.behaviours,
        "action": tokenizer.actions,
        "outcome": tokenizer.outcomes,
        "direction": tokenizer.directions,
        "cell": tokenizer.cells,
    }
    names = dict(enumerate(tokenizer.names))
    for kind, ids in kinds.items():
        names |= {token: f"[{kind}:{tokenizer.names[token].replace(' ', '_')}]" for token in ids}
    words = Tokenizer(models.WordLevel({name: token for token, name in names.items()}, unk_token="[MASK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["[PAD]", "[MASK]"])
    words.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _readme(world: WorldConfig, dropped: list[str]) -> str:
    lost = f"Left out, so its predictions differ from the world model's: {', '.join(dropped)}.\n" if dropped else ""
    return f"""\
# A world model of BabyAI as a plain LLaDA2

{lost}A sequence is `[mission][step][step]...`, each block {world.block_length} positions behind the one before. The
mission is `[behaviour, word, word, ...]`, a step `[action that led here, outcome, direction, 49 cells]` has {BLOCK}
tokens. Hide padding in the attention mask, give `position_ids` as if every block were full, and let a block see itself
and those before it; the behaviour, the first token of all, is seen only by a lone masked action that asks what to do.
What is hidden of a cell is "?"; whatever else is hidden is the mask token. Read scores at the same
position, among the tokens that the place may hold.
"""
