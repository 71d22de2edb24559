"""What a dataset says of itself: Minari's metadata, ours beside it, and a card for people."""

from __future__ import annotations

import platform
import string
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from minari.serialization import serialize_space

from wmtoolkit.data.files import whole_file
from wmtoolkit.world import grid

PACKAGES = ("wmtoolkit", "minigrid", "gymnasium", "minari", "numpy", "h5py")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a dataset."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def observation_space() -> spaces.Dict:
    """The stored observation: MiniGrid's, with the mission as Text, which Minari can write down."""
    return spaces.Dict(
        {
            "direction": spaces.Discrete(len(grid.DIRECTIONS)),
            "image": spaces.Box(0, 255, (grid.VIEW, grid.VIEW, 3), dtype=np.uint8),
            "mission": spaces.Text(400, charset=string.ascii_lowercase + " ,"),
        }
    )


def dataset_metadata(
    dataset_id: str, level: str, episodes: int, steps: int, facts: dict[str, Any], megabytes: float
) -> dict[str, Any]:
    """A Minari ``metadata.json``; ``facts`` become its ``wmtoolkit`` entry, with the package versions."""
    versions = package_versions()
    shares = facts["plan"]["shares"]
    mixture = ", ".join(f"{share:.0%} {behaviour}" for behaviour, share in shares.items())
    return {
        "dataset_id": dataset_id,
        "total_episodes": episodes,
        "total_steps": steps,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": serialize_space(observation_space()),
        "action_space": serialize_space(spaces.Discrete(len(grid.ACTIONS))),
        "env_spec": gymnasium.spec(level.rpartition(":")[2]).to_json(),
        "minari_version": minari.__version__,
        "algorithm_name": facts["plan"]["agent"] or "+".join(shares),
        "author": ["wmtoolkit"],
        "author_email": [],
        "code_permalink": "",
        "description": f"{episodes} episodes of {level}: {mixture}.",
        "requirements": [f"minigrid=={versions['minigrid']}"],
        "dataset_size": round(megabytes, 1),
        "wmtoolkit": {**facts, "versions": versions},
    }


def write_card(folder: Path, metadata: dict[str, Any]) -> None:
    """Write ``README.md`` beside the data: what is in it, how it was made, how it is split and read."""
    facts = metadata["wmtoolkit"]
    plan = facts["plan"]
    shares = "\n".join(f"| {behaviour} | {share:.1%} |" for behaviour, share in plan["shares"].items())
    errors = "\n".join(f"- {name}: {count}" for name, count in facts["errors"].items()) or "- none"
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    split = facts["split"]
    held_out = f" Held out: {', '.join(split['held_out'])}." if split["held_out"] else ""
    card = f"""# {metadata["dataset_id"]}

{metadata["description"]}

| | |
|---|---|
| level | `{facts["level"]}` |
| episodes | {metadata["total_episodes"]} |
| steps | {metadata["total_steps"]} |
| level seeds | {plan["seed"]} to {plan["seed"] + plan["episodes"] - 1}, one an episode |
| fingerprint | `{facts["fingerprint"]}` |

Made by `{facts["command"]}` with {versions}.

## Behaviours

| behaviour | share asked for |
|---|---|
{shares}

`bot` marks episodes that an expert brought to success; other episodes that a bot played in are `noisy`.
Behaviours that failed on the way (the rest of such an episode is random, one out of time is left out):

{errors}

## Splits

By {split["rule"]}, {"/".join(f"{share:.0%}" for share in split["shares"])} train/validation/test.{held_out}
Each episode's metadata holds its `split`, its level's `seed` and its `behaviour`.

## Reading

```python
from wmtoolkit.data import load_trajectories

episodes = load_trajectories("{metadata["dataset_id"]}", split="train")
```

The data are Minari's HDF5 format; `minari.load_dataset("{metadata["dataset_id"]}")` reads them too. `packed/` holds
the same episodes in flat arrays and is built anew where it is missing.
"""
    with whole_file(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
