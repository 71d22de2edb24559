"""The bot as the policy of the perfect simulator: it watches what is done, really and in imagination, and advises."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

from minigrid.minigrid_env import MiniGridEnv
from minigrid.utils.baby_ai_bot import BabyAIBot

from wmtoolkit.agents.level_copies import Thing, copy_level, put_things

Watch = tuple[BabyAIBot, MiniGridEnv, int]
"""A bot, the level it stands in, and the action it advises there."""


class Expert(Protocol):
    """Advice on one situation, worked out when first asked for."""

    @property
    def watch(self) -> Watch | None:
        """None where the bot fails or there is none."""
        ...

    @property
    def action(self) -> int | None:
        """The action the bot would take."""
        ...


class RootExpert:
    """Has watched the real episode.

    Args:
        start: the level at its start.
        actions: what was done since.
        imagine: turns a copy of the present level into what is known of it.
    """

    def __init__(self, start: MiniGridEnv, actions: tuple[int, ...], imagine: Callable[[MiniGridEnv], Any]) -> None:
        self._start, self._actions, self._imagine = start, actions, imagine

    @cached_property
    def watch(self) -> Watch | None:
        if not hasattr(self._start, "instrs"):
            return None
        memo: dict[int, Any] = {}
        level = copy_level(self._start, memo=memo)
        try:
            bot = BabyAIBot(level)
            known = self._imagine(copy_level(level))
            if known is None:
                bot.vis_mask[:] = True
            advice = int(bot.replan())
            for action in self._actions:
                level.step(action)
                advice = int(bot.replan(action))
        except Exception:  # the bot fails by assertions, index errors and its own exceptions alike
            return None
        size = (level.width, level.height)
        self._imagine(level)
        return (bot, level, advice) if (level.width, level.height) == size else None

    @property
    def action(self) -> int | None:
        return self.watch[2] if self.watch else None


class NextExpert:
    """Has also watched one imagined step more than ``before``, which showed things that were drawn."""

    def __init__(self, before: Expert, action: int, things: Sequence[Thing] = ()) -> None:
        self._before, self._action, self._things = before, action, things

    @cached_property
    def watch(self) -> Watch | None:
        if self._before.watch is None:
            return None
        bot, level, _ = self._before.watch
        memo: dict[int, Any] = {}
        level = copy_level(level, memo=memo)
        bot = copy.deepcopy(bot, memo)
        try:
            level.step(self._action)
            put_things(level, self._things)
            return bot, level, int(bot.replan(self._action))
        except Exception:  # see RootExpert
            return None

    @property
    def action(self) -> int | None:
        return self.watch[2] if self.watch else None
