"""The plan of a collection: all that determines a dataset's content, and what the dataset is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from wmtoolkit.data.behaviours import has_bot
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.data.splits import SplitRule
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import BEHAVIOURS

DEFAULT_MIX: dict[str, float] = {"bot": 0.30, "noisy": 0.15, "random": 0.15, "tour": 0.40}
POLICIES: tuple[str, ...] = ("mix", "bot", "noisy", "random", "tour")
EPISODE_SECONDS = 30.0


@dataclass(frozen=True)
class CollectionPlan:
    """What to record. Equal plans give equal datasets.

    Attributes:
        level: a registered id, or ``module:Id``.
        episodes: how many; episode i is reset by the level seed ``seed + i``.
        shares: of the behaviours, adding up to 1.
        seed: first level seed, and seed of all that is drawn.
        agent: name of the agent that plays as behaviour ``agent``.
        weights: sha256 of what that agent was loaded from; None if it is loaded from nothing.
        max_steps: cut episodes after so many actions; None for the level's own limit.
        seconds: wall-clock limit of an episode, after which it is left out.
        split: how episodes are divided.
    """

    level: str
    episodes: int
    shares: Mapping[str, float]
    seed: int = 0
    agent: str | None = None
    weights: str | None = None
    max_steps: int | None = None
    seconds: float = EPISODE_SECONDS
    split: SplitRule = field(default_factory=SplitRule)

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise UserError(f"{self.episodes} episodes: collect at least 1")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: give a number from 0 on")
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps {self.max_steps}: give at least 1")
        if not self.seconds > 0:
            raise UserError(f"time limit of {self.seconds} s an episode: give more than 0")
        unknown = set(self.shares) - set(BEHAVIOURS)
        if unknown:
            raise UserError(f"unknown behaviour {', '.join(sorted(unknown))}; known: {', '.join(BEHAVIOURS)}")
        if not self.shares or min(self.shares.values()) < 0 or abs(sum(self.shares.values()) - 1) > 1e-6:
            raise UserError(f"behaviour shares {dict(self.shares)}: give numbers from 0 to 1 that add up to 1")
        if self.shares.get("agent", 0) > 0 and self.agent is None:
            raise UserError("a share of behaviour agent needs an agent; name one with --policy")
        if self.agent is not None and not self.shares.get("agent", 0) > 0:
            raise UserError(f"agent {self.agent!r} has no share of the episodes; give it one, for example agent=0.5")

    def document(self) -> dict[str, Any]:
        """The plan as written down in the dataset."""
        document = {**asdict(self), "shares": dict(self.shares), "split": self.split.document()}
        return {name: value for name, value in document.items() if name != "weights" or value is not None}

    @property
    def level_id(self) -> str:
        """The level's id without its module."""
        return self.level.rpartition(":")[2]

    @property
    def dataset_id(self) -> str:
        """Minari id under which this plan's dataset is known if it is given no other."""
        behaviour = "mix" if len(self.shares) > 1 else self.agent or next(iter(self.shares))
        return default_dataset_id(self.level, behaviour)


def behaviour_shares(policy: str, shares: Mapping[str, float] | None = None) -> dict[str, float]:
    """Behaviour shares that a policy name stands for; ``shares`` replaces the default mix, or goes beside an agent."""
    if policy == "mix":
        return dict(shares or DEFAULT_MIX)
    if policy not in POLICIES:
        return dict(shares or {"agent": 1.0})
    if shares:
        raise UserError(f"behaviour shares go with the policy mix or an agent, not with {policy!r}")
    return {policy: 1.0}


def default_dataset_id(level: str, policy: str) -> str:
    """Minari id of a level's dataset, e.g. ``wmtoolkit/BabyAI-GoToLocal/mixed-v0``."""
    name = level.rpartition(":")[2].rpartition("/")[2]
    stem, _, version = name.rpartition("-v")
    kind = "mixed" if policy == "mix" else re.sub(r"\W+", "-", policy.partition(":")[0])
    return f"wmtoolkit/{stem if version.isdigit() else name}/{kind}-v0"


def check_plan(plan: CollectionPlan) -> None:
    """Make the level once; ``UserError`` if it is unknown, fails, has other observations, or no bot can play it."""
    env = make_level(plan.level)
    reset_level(env, plan.seed)
    if plan.shares.get("bot", 0) + plan.shares.get("noisy", 0) > 0 and not has_bot(env):
        raise UserError(
            f"level {plan.level!r} has neither a BabyAI instruction nor a goal square, so no bot plays it; "
            "collect with --policy random or tour"
        )
    env.close()
