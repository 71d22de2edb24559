"""wmtoolkit: LLaDA2 as an any-order masked world model of MiniGrid/BabyAI.

Importing this package makes ``gym.make("AnyOrderWM-BabyAI")`` known and stays cheap: torch, transformers and
minigrid are loaded when a public name is first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from wmtoolkit.world.model import AnyOrderWorldModel
    from wmtoolkit.world.tokenizer import Visibility, WorldTokenizer
    from wmtoolkit.world.trajectory import Trajectory

__version__ = "0.1.0"
__all__ = ["AnyOrderWorldModel", "Trajectory", "Visibility", "WorldTokenizer", "__version__"]

_PUBLIC = {
    "AnyOrderWorldModel": "wmtoolkit.world.model",
    "Trajectory": "wmtoolkit.world.trajectory",
    "Visibility": "wmtoolkit.world.tokenizer",
    "WorldTokenizer": "wmtoolkit.world.tokenizer",
}

_LEVELS = (
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToObj",
    "GoToLocal",
    "GoToObjMazeS4R2",
    "PickupLoc",
    "PutNextLocal",
    "OpenRedDoor",
    "UnlockPickup",
)
for _id, _options in [
    ("AnyOrderWM-BabyAI", {}),
    *((f"AnyOrderWM-BabyAI/{_name}", {"level": f"BabyAI-{_name}-v0"}) for _name in _LEVELS),
]:
    gymnasium.register(
        id=_id,
        entry_point="wmtoolkit.envs.imagination:ImaginationEnv",
        vector_entry_point="wmtoolkit.envs.imagination_vector:ImaginationVectorEnv",
        kwargs=_options,
    )


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'wmtoolkit' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
