"""Imagination as Gymnasium environments. Names load on first use, so that importing the package stays cheap."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmtoolkit.envs.belief import BeliefCompletion, VectorBeliefCompletion
    from wmtoolkit.envs.drift import DriftCheck
    from wmtoolkit.envs.features import MissionGridExtractor
    from wmtoolkit.envs.imagination import ImaginationEnv
    from wmtoolkit.envs.imagination_vector import ImaginationVectorEnv
    from wmtoolkit.envs.missions import TokenizedMission
    from wmtoolkit.envs.observability import PartialObservability, VectorPartialObservability
    from wmtoolkit.envs.probabilities import draw_probabilities
    from wmtoolkit.envs.real import make_real_env
    from wmtoolkit.envs.rendering import draw_view, side_by_side, write_gif, write_video
    from wmtoolkit.envs.sb3 import make_sb3_vec_env

_PUBLIC = {
    "BeliefCompletion": "belief",
    "DriftCheck": "drift",
    "ImaginationEnv": "imagination",
    "ImaginationVectorEnv": "imagination_vector",
    "MissionGridExtractor": "features",
    "PartialObservability": "observability",
    "TokenizedMission": "missions",
    "VectorBeliefCompletion": "belief",
    "VectorPartialObservability": "observability",
    "draw_probabilities": "probabilities",
    "draw_view": "rendering",
    "make_real_env": "real",
    "make_sb3_vec_env": "sb3",
    "side_by_side": "rendering",
    "write_gif": "rendering",
    "write_video": "rendering",
}
__all__ = [
    "BeliefCompletion",
    "DriftCheck",
    "ImaginationEnv",
    "ImaginationVectorEnv",
    "MissionGridExtractor",
    "PartialObservability",
    "TokenizedMission",
    "VectorBeliefCompletion",
    "VectorPartialObservability",
    "draw_probabilities",
    "draw_view",
    "make_real_env",
    "make_sb3_vec_env",
    "side_by_side",
    "write_gif",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wmtoolkit.envs' has no attribute {name!r}")
    return getattr(import_module(f"wmtoolkit.envs.{_PUBLIC[name]}"), name)
