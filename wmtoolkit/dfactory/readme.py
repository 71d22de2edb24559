"""The README of an exported folder: the steps from the folder to a trained world model."""

from __future__ import annotations

from typing import Any

DFACTORY, VEOMNI = "92b6890", "600fe6d"
"""Commits of dFactory and of its submodule VeOmni (v0.1.2) that the task is written for."""
_GPUS_A_NODE = 8


def readme(name: str, ranks: int, parameters: int, settings: dict[str, Any]) -> str:
    """Text of the README.

    Args:
        name: of the YAML and of the model's config, e.g. ``llada2_mini``.
        parameters: of the model, for the size of its checkpoints.
        settings: what the export set in the YAML.
    """
    nodes = next(count for count in range(-(-ranks // _GPUS_A_NODE), ranks + 1) if ranks % count == 0)
    launch = f"export NPROC_PER_NODE={ranks}"
    if nodes > 1:
        launch = (
            f"export NNODES={nodes} NODE_RANK=0 NPROC_PER_NODE={ranks // nodes}   # NODE_RANK 1, 2, ... elsewhere\n"
            "export MASTER_ADDR=ADDRESS_OF_NODE_0 MASTER_PORT=29500"
        )
    where = f"on {ranks} GPUs" if nodes == 1 else f"on each of {nodes} nodes"
    return _TEXT.format(
        name=name,
        ranks=ranks,
        launch=launch,
        where=where,
        dfactory=DFACTORY,
        veomni=VEOMNI,
        gigabytes=f"{14 * parameters / 1e9:,.1f}",
        **settings,
    )


_TEXT = """\
# Any-order world models of BabyAI in dFactory

For dFactory at commit {dfactory} with its submodule VeOmni v0.1.2 ({veomni}). Tested on CPUs with a stand-in for VeOmni
and tiny weights; not yet run on GPUs.

Copy the contents of this folder over the root of a dFactory checkout (`cp -r THIS_FOLDER/. dFactory/`), and run in that
root, {where}:

```
{launch}
PYTHONPATH=$(pwd)/VeOmni:$PYTHONPATH sh train.sh tasks/train_any_order_babyai.py \\
    configs/sft/{name}_any_order_babyai.yaml
```

- The weights are read from {model_path}.
  If they lie elsewhere there, add `--model.model_path DIR --model.tokenizer_path DIR`.
- Add `--train.max_steps 2 --train.save_epochs 0` for a first try that saves nothing. Wrong settings end the task with
  one line, before the weights are loaded.
- `--train.lr 2e-5` and the like override the YAML. A step takes {global_batch_size} sequences of {max_seq_len} tokens,
  of which the network sees twice as many.
- On another number of GPUs set `--train.global_batch_size` to that number times `train.micro_batch_size`
  ({micro_batch_size}), or to a multiple of it with `--train.enable_fsdp_offload false`.
- Losses, of each kind of token too, go to `metrics.jsonl` in `train.output_dir`. Each checkpoint there takes about
  {gigabytes} GB.

Afterwards, where wmtoolkit is installed, read back what was trained:

```
wmtool convert --mode split -i OUTPUT/checkpoints/global_step_N/hf_ckpt -o {name}-babyai
wmtool evaluate --checkpoint {name}-babyai --data THE_EXPORTED_DATA
```

| here | what |
| --- | --- |
| `tasks/train_any_order_babyai.py`, `tasks/any_order/` | the task; needs nothing but dFactory's own packages |
| `configs/sft/{name}_any_order_babyai.yaml` | its settings |
| `configs/model_configs/{name}_world/` | the architecture with the grown vocabulary |
| `data/any_order_babyai/train.jsonl` | one line a sequence: `input_ids`, `prompt_lengths`, `first_frame`, `id` |
| `data/any_order_babyai/world_layout.json`, `world.json` | where the world's tokens lie; what wmtoolkit reads back |

dFactory saves in bfloat16. For other programs that read LLaDA2, set `model_type` in `config.json` back to `llada2_moe`
and copy `modeling_llada2_moe.py` from the base model. dFactory's own `moe_convertor.py` splits the weights as well, but
leaves out `world.json`, without which wmtoolkit does not know them as a world model.
"""
