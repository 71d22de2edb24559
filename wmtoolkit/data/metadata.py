"""What a dataset says of itself: Minari's metadata, ours beside it, and a card for people."""

from __future__ import annotations

import platform
import string
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium import spaces
from minari.serialization import serialize_space

from wmtoolkit.data.behaviours import NOISE
from wmtoolkit.data.files import whole_file
from wmtoolkit.data.inspection import duplicates, overlap_text
from wmtoolkit.data.store import EpisodeStore
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome

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
    mixture = ", ".join(f"{share:.0%} {_behaviour(name, facts['plan'])}" for name, share in shares.items())
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


def _behaviour(name: str, plan: Mapping[str, Any]) -> str:
    return f"agent {plan['agent']}" if name == "agent" else name


def _rule(split: Mapping[str, Any]) -> str:
    """A ``SplitRule.document`` in words."""
    train, validation, test = (f"{share:.0%}" for share in split["shares"])
    if not split["held_out"]:
        return f"the level seed decides, {train}/{validation}/{test}"
    pairs = ", ".join(split["held_out"])
    return f"the test has the missions that name {pairs}, and the level seed divides the others"


def write_card(folder: Path, metadata: dict[str, Any], store: EpisodeStore) -> None:
    """Write ``README.md`` beside the data: what is in it, how it was made, how it is split and read."""
    facts = metadata["wmtoolkit"]
    plan = facts["plan"]
    ends = np.asarray(store.outcomes)[store.offsets[1:] - 1]
    behaviours = ""
    for index, name in enumerate(BEHAVIOURS):
        chosen = np.asarray(store.behaviours) == index
        if chosen.any() or name in plan["shares"]:
            success = f"{(ends[chosen] == Outcome.SUCCESS).mean():.1%}" if chosen.any() else ""
            behaviours += (
                f"| {_behaviour(name, plan)} | {plan['shares'].get(name, 0):.1%} | {chosen.sum():,} "
                f"| {store.lengths[chosen].sum():,} | {success} |\n"
            )
    errors = "\n".join(f"- {name}: {count}" for name, count in facts["errors"].items()) or "- none"
    split = facts["split"]
    sizes = ", ".join(f"{name} {count:,}" for name, count in store.document()["splits"].items())
    weights = f"| weights of the agent | sha256 `{plan['weights']}` |\n" if "weights" in plan else ""
    card = _CARD.format(
        **metadata,
        **{name: facts[name] for name in ("level", "fingerprint", "command")},
        seeds=f"{plan['seed']} to {plan['seed'] + plan['episodes'] - 1}",
        versions=", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        behaviours=behaviours,
        errors=errors,
        rule=_rule(split),
        sizes=sizes,
        weights=weights,
        noise=NOISE,
        overlap=overlap_text(duplicates(store)),
    )
    with whole_file(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


_CARD = """# {dataset_id}

{description}

| | |
|---|---|
| level | `{level}` |
| episodes | {total_episodes:,} |
| steps | {total_steps:,} |
| level seeds | {seeds}, one an episode |
{weights}| fingerprint | `{fingerprint}` |
| size | {dataset_size} MB |

Made with {versions} by

```
{command}
```

## Behaviours

| behaviour | share asked for | episodes | steps | success |
|---|---|---|---|---|
{behaviours}
`bot` is the expert, all of whose episodes end in success: one that fails counts as `noisy`. `noisy` is the expert with
{noise:.0%} random actions, `random` is uniform, `tour` walks from object to object, mostly not the mission's, and
handles some.

What went wrong on the way (the rest of such an episode is random, and one out of time is left out):

{errors}

## Splits

{sizes}; {rule}. {overlap}

Each episode's Minari metadata holds its `split`, its `behaviour` and the `seed` that reset its level.

## Reading

```python
from wmtoolkit.data import load_trajectories

episodes = load_trajectories("{dataset_id}", split="train")  # or the path of this folder
```

The data are in Minari's HDF5 format: where this folder lies under `MINARI_DATASETS_PATH` by its name,
`minari.load_dataset("{dataset_id}")` reads them too.
`packed/` holds the same episodes in flat arrays; it is built anew where it is missing.
"""
