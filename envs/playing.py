"""Act inside the imagination by hand, with the real level beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wmtoolkit.envs.drift import DriftCheck
from wmtoolkit.envs.real import make_real_env
from wmtoolkit.envs.terminal import beside, view_lines
from wmtoolkit.world import grid
from wmtoolkit.world.model import AnyOrderWorldModel

ACTIONS = {
    "a": grid.LEFT,
    "\x1b[D": grid.LEFT,
    "d": grid.RIGHT,
    "\x1b[C": grid.RIGHT,
    "w": grid.FORWARD,
    "\x1b[A": grid.FORWARD,
    "p": grid.PICKUP,
    "l": grid.DROP,
    "t": grid.TOGGLE,
    "x": grid.DONE,
}
LOOK, NEXT, QUIT = "r", "n", "q"
HELP = (
    "a/d/w or arrows: turn, walk   p: pick up   l: lay down   t: toggle   x: done   r: look again   n: next   q: quit"
)


def play(
    read_key: Callable[[], str],
    show: Callable[[str], None],
    *,
    level: str,
    checkpoint: str | AnyOrderWorldModel | None = None,
    seed: int = 0,
    horizon: int = 64,
) -> dict[str, Any]:
    """Let somebody act until they quit; level and imagination take the same actions.

    Imagination goes on alone from what was seen at the start, for ``horizon`` steps or until it is told to look at
    reality again.

    Args:
        read_key: the next key, "" at the end of the input; see ``ACTIONS``.
        show: takes each screen as text.

    Returns:
        ``level``, ``seed``, ``steps``, ``episodes``, and ``drift``: ``DriftCheck.report``.
    """
    env = DriftCheck(make_real_env(level), checkpoint, horizon)
    observation, _ = env.reset(seed=seed)
    steps, episodes, ended, said = 0, 1, False, HELP
    try:
        while True:
            show(_screen(env, observation, said))
            key = read_key()
            said = HELP
            if key in (QUIT, ""):
                break
            if key == NEXT or (ended and key in ACTIONS):
                seed, ended, episodes = seed + 1, False, episodes + 1
                observation, _ = env.reset(seed=seed)
            elif key == LOOK:
                env.look()
            elif key in ACTIONS:
                observation, reward, terminated, truncated, info = env.step(ACTIONS[key])
                steps, ended = steps + 1, terminated or truncated
                said = _said(ACTIONS[key], info["drift"])
                if ended:
                    said += f"   the episode is over, reward {float(reward):.2f}: any action starts the next"
    finally:
        env.close()
    return {"level": level, "seed": seed, "steps": steps, "episodes": episodes, "drift": env.report()}


def _said(action: int, drift: dict[str, Any]) -> str:
    outcome = "" if drift["outcome_equal"] else ", other outcome"
    return (
        f"{grid.ACTIONS[action]}: {drift['cell_accuracy']:.0%} of the cells as imagined{outcome}, "
        f"log-probability {drift['log_prob']:.1f} nats"
    )


def _screen(env: DriftCheck, observation: dict[str, Any], said: str) -> str:
    real, (imagined, confidence) = observation["image"], env.imagined
    return "\n".join(
        [
            f"mission: {observation['mission']}",
            f"{'real':<18}imagined, {env.imagined_steps} steps ahead{', at its end' if env.imagined_ending else ''}",
            beside(view_lines(real), view_lines(imagined, confidence, expected=real)),
            said,
            "",
        ]
    )
