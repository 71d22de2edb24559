"""Real levels, recorded trajectories, datasets and batches."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmtoolkit.data.collection import collect
    from wmtoolkit.data.datasets import load_trajectories, open_store
    from wmtoolkit.data.splits import SplitRule, check_unseen
    from wmtoolkit.data.store import EpisodeStore

__all__ = ["EpisodeStore", "SplitRule", "check_unseen", "collect", "load_trajectories", "open_store"]

_PUBLIC = {
    "EpisodeStore": "wmtoolkit.data.store",
    "SplitRule": "wmtoolkit.data.splits",
    "check_unseen": "wmtoolkit.data.splits",
    "collect": "wmtoolkit.data.collection",
    "load_trajectories": "wmtoolkit.data.datasets",
    "open_store": "wmtoolkit.data.datasets",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wmtoolkit.data' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
