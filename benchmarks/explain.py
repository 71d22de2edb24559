"""One episode explained: for each decision what was seen, what had been imagined, and what was considered."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium
import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from wmtoolkit.benchmarks.explain_map import search_map
from wmtoolkit.benchmarks.films import film_frame, padded
from wmtoolkit.envs.rendering import draw_view, write_video
from wmtoolkit.world import grid

TILE = 24
"""Pixels of a cell in the pictures of views."""
LISTED = 6
"""Candidates listed for a decision."""
NAMED = 4
"""Differences between the imagined and the real view that are named."""
ARROWS = {"left": "↶", "right": "↷", "forward": "↑", "pickup": "pick up", "drop": "drop", "toggle": "toggle"}


@dataclass(frozen=True)
class Decision:
    """What the page says of one decision; pictures are data URLs, ``candidates`` hold actions, score, P(success) and
    whether it begins with the plan."""

    step: int
    action: str
    reason: str
    aim: str | None
    cost: str
    plan: str
    changes: list[str]
    candidates: list[tuple[str, str, str, bool]]
    seen: str
    imagined: str | None
    level: str | None
    map: Markup | None


class Explanation:
    """Takes notes of an episode, decision by decision; ``write`` makes a page and a film of them.

    Args:
        title: what the page is called.
    """

    def __init__(self, title: str) -> None:
        self._title, self._mission, self._end = title, "", ""
        self._decisions: list[Decision] = []
        self._frames: list[np.ndarray] = []

    def note(
        self,
        env: gymnasium.Env,
        observation: Mapping[str, Any],
        info: Mapping[str, Any],
        before: Mapping[str, Any],
        now: Mapping[str, Any],
        headline: str,
        action: int | None,
    ) -> None:
        """Note a decision, or with ``action`` None the end; the other arguments are those of ``film_frame``.

        The end is noted as a decision for nothing, so that what the last action led to is shown beside what had been
        imagined.
        """
        self._frames.append(film_frame(env, observation, info, before, now, headline))
        self._mission = str(observation["mission"])
        if action is None:
            self._end = headline
            self._frames += 2 * self._frames[-1:]
        imagined = before.get("imagined_image")
        level: Any = env.unwrapped
        self._decisions.append(
            Decision(
                step=len(self._decisions),
                action=headline.rpartition(": ")[2] if action is None else grid.ACTIONS[action],
                reason="the end" if action is None else str(now.get("reason", "asked for each step")),
                aim=_aim(now),
                cost=_cost(now),
                plan=spelled(now.get("plan", [])),
                changes=[] if imagined is None else differences(imagined, observation["image"]),
                candidates=_candidates(now),
                seen=_picture(draw_view(observation["image"], info.get("confidence"), TILE)),
                imagined=None
                if imagined is None
                else _picture(_marked(imagined, observation["image"], before.get("imagined_confidence"))),
                level=_picture(level.get_frame(tile_size=16)) if hasattr(level, "get_frame") else None,
                map=search_map(now["graph"], now["plan_nodes"]) if "graph" in now else None,
            )
        )

    def __len__(self) -> int:
        """Decisions noted, the last view of an episode among them."""
        return len(self._decisions)

    def write(self, folder: Path) -> list[Path]:
        """Write ``index.html`` and ``episode.gif``; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        template = files("wmtoolkit.benchmarks").joinpath("templates/explain.html").read_text(encoding="utf-8")
        page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
        html = page.render(title=self._title, mission=self._mission, end=self._end, decisions=self._decisions)
        path, temporary = folder / "index.html", folder / ".index.html.tmp"
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, path)
        return [path, write_video(folder / "episode.gif", padded(self._frames), fps=2)]


def differences(imagined: np.ndarray, real: np.ndarray) -> list[str]:
    """Which cells look otherwise than imagined, nearest first, in words; both (7, 7, 3)."""
    column, row = np.nonzero((imagined != real).any(-1))
    aside, ahead = column - grid.AGENT_CELL[0], grid.AGENT_CELL[1] - row
    order = np.argsort(np.abs(aside) + ahead, kind="stable")
    said = [
        f"{_where(int(aside[i]), int(ahead[i]))}: imagined {_thing(imagined[column[i], row[i]])}, "
        f"saw {_thing(real[column[i], row[i]])}"
        for i in order[:NAMED]
    ]
    return said + ([f"and {len(order) - NAMED} more cells"] if len(order) > NAMED else [])


def spelled(actions: Sequence[int]) -> str:
    """Actions as arrows and words."""
    return " ".join(ARROWS.get(grid.ACTIONS[action], grid.ACTIONS[action]) for action in actions)


def _where(aside: int, ahead: int) -> str:
    if not ahead and not aside:
        return "in the hand"
    parts = [f"{ahead} ahead"] if ahead else []
    parts += [f"{abs(aside)} to the {'left' if aside < 0 else 'right'}"] if aside else []
    return ", ".join(parts)


def _thing(cell: np.ndarray) -> str:
    name = grid.OBJECTS[cell[0]]
    if name in ("unseen", "empty", "wall"):
        return {"unseen": "nothing (hidden)", "empty": "nothing", "wall": "a wall"}[name]
    state = f" ({grid.STATES[cell[2]]})" if name == "door" else ""
    return f"a {grid.COLORS[cell[1]]} {name}{state}"


def _aim(now: Mapping[str, Any]) -> str | None:
    """What the plan is for; None of agents that have none."""
    if "goal" not in now:
        return None
    if not now["goal"]:
        return "to see more, no goal in sight"
    what = "a guess, with no goal in sight" if now.get("guess") else "to a goal"
    if "planned" in now and not now.get("guess"):
        what += " that a filled-in plan leads to" if now["planned"] else " met by imagining outwards"
    kept = ", kept though it is not in sight now" if now.get("kept") else ""
    return f"{what}{kept}, P(success) {now['success_probability']:.2f}"


def _candidates(now: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was considered; of agents that only ask the policy, its probabilities."""
    if "probabilities" in now:
        order = np.argsort(-now["probabilities"])
        return [(grid.ACTIONS[action], f"{now['probabilities'][action]:.3f}", "", False) for action in order]
    listed = now.get("candidates", [])[:LISTED]
    plan = tuple(now.get("plan", ()))
    return [
        (
            spelled(each.actions),
            _number(each.score),
            _number(each.success),
            bool(plan) and each.actions[: len(plan)] == plan,  # a plan may reach its goal before its end
        )
        for each in listed
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else "< 0.001" if value > 0 else "> -0.001"


def _cost(now: Mapping[str, Any]) -> str:
    parts = [f"{now['forward_passes']} forward passes"] if "forward_passes" in now else []
    parts += [f"{now['nodes']} situations imagined"] if "nodes" in now else []
    parts += [f"{now['milliseconds']:.0f} ms"] if "milliseconds" in now else []
    return ", ".join(parts)


def _marked(imagined: np.ndarray, real: np.ndarray, confidence: np.ndarray | None) -> np.ndarray:
    """The imagined view with a red frame around each cell that turned out otherwise."""
    picture = draw_view(imagined, confidence, TILE)
    for column, row in np.argwhere((imagined != real).any(-1)):
        tile = picture[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        for edge in (tile[:2], tile[-2:], tile[:, :2], tile[:, -2:]):
            edge[:] = (230, 40, 40)
    return picture


def _picture(pixels: np.ndarray) -> str:
    """A data URL of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(128).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
