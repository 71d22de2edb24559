"""Agents by name."""

from __future__ import annotations

import difflib
import inspect
import numbers
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from wmtoolkit.agents.protocol import Agent, WorldModel
from wmtoolkit.errors import UserError

AGENTS = {
    "random": "random_agent:RandomAgent",
    "bot": "bot:BotAgent",
    "policy": "policy:PolicyAgent",
    "best-first": "best_first:BestFirstAgent",
    "mcts": "mcts:MCTSAgent",
    "beam": "beam:BeamAgent",
    "shooting": "shooting:ShootingAgent",
    "cem": "cem:CEMAgent",
    "infill": "infill:InfillAgent",
}
"""Where each agent lives: ``module:Class`` below ``wmtoolkit.agents``."""
SAVED = "sb3"
"""``sb3:FILE`` is a policy that was trained and saved."""
PERFECT = "perfect"
"""``perfect:NAME`` is a planner that imagines with a faultless copy of the real level in place of a model; the copy
(``simulator``) knows no more than was seen. This control tells what the planner loses from what the model loses."""


def agent_class(name: str) -> type:
    """The class of an agent; importing it is left until it is asked for.

    Raises:
        UserError: for an unknown name; the message lists the known ones.
    """
    if name.startswith(f"{SAVED}:"):
        return import_module("wmtoolkit.agents.sb3_agent").SavedSB3Agent
    name = name.removeprefix(f"{PERFECT}:")
    if name not in AGENTS:
        close = difflib.get_close_matches(name, AGENTS, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(
            f"unknown agent {name!r}{hint}; known agents: {', '.join(AGENTS)}, {SAVED}:FILE; {PERFECT}:NAME"
        )
    module, _, attribute = AGENTS[name].partition(":")
    return getattr(import_module(f"wmtoolkit.agents.{module}"), attribute)


_KINDS: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a word"),
    "bool": (bool, "true or false"),
}
"""What an option of an agent may be, by its annotation."""


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """What the constructor takes; ``**shared`` stands for what the class's base takes."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        own = inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}  # type: ignore[misc]
        named = {name: parameter for name, parameter in own.items() if parameter.kind is parameter.KEYWORD_ONLY}
        found = {**named, **found}
        if own and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
            break
    return found


def needs(name: str) -> set[str]:
    """What the agent cannot do without: any of ``world_model`` and ``env``."""
    wanted = {"world_model", "env"} & set(parameters(agent_class(name)))
    return {"env"} if name.startswith(f"{PERFECT}:") else wanted


def make_agent(
    name: str,
    settings: Mapping[str, Any] | None = None,
    /,
    *,
    world_model: WorldModel | None = None,
    env: Any = None,
    seed: int = 0,
    **budget: Any,
) -> Agent:
    """Make an agent by name.

    Args:
        name: one of ``AGENTS``, ``sb3:FILE``, or ``perfect:NAME``.
        world_model: what planners imagine with; agents that need none ignore it.
        env: the real level the agent will act in; only ``bot`` and ``perfect:NAME`` need it.
        seed: of the agent's own randomness.
        budget: the agent's own options, e.g. ``max_forward_passes=16``; see its class. ``settings``: the same as a user
            gave them, who may have named one like a parameter here.

    Raises:
        UserError: for an unknown name or option, a missing world model or level, or a budget of nothing.
    """
    budget = {**(settings or {}), **budget}
    _check_options(name, budget)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise UserError(f"agent {name!r}: seed is a whole number, not {seed!r}; its options: {_known(name)}")
    planner = name.removeprefix(f"{PERFECT}:")
    if planner != name:
        from wmtoolkit.agents.simulator import SimulatorWorldModel

        if "world_model" not in needs(planner):
            raise UserError(f"agent {name!r}: {planner} imagines nothing; {PERFECT}: is for planners")
        if env is None:
            raise UserError(f"agent {name!r} needs the real level")
        world_model = SimulatorWorldModel(env, sees_hidden=False)
        return make_agent(planner, budget, world_model=world_model, env=env, seed=seed)
    cls = agent_class(name)
    given = {"world_model": world_model, "env": env}
    arguments: dict[str, Any] = {}
    for part in sorted(needs(name)):
        if given[part] is None:
            what = {"world_model": "a world model; give a checkpoint", "env": "the real level"}[part]
            raise UserError(f"agent {name!r} needs {what}")
        arguments[part] = given[part]
    if name.startswith(f"{SAVED}:"):
        arguments["file"] = name.partition(":")[2]
    return cls(**arguments, seed=seed, **budget)


def _check_options(name: str, given: Mapping[str, Any]) -> None:
    """Raise ``UserError`` for what is no option of an agent, or of another kind than it."""
    taken = parameters(agent_class(name))
    unknown = [option for option in given if option in _OWN or option not in taken]
    if unknown:
        raise UserError(f"agent {name!r} has no option {unknown[0]!r}; its options: {_known(name)}")
    for option, value in given.items():
        kind, what = _KINDS.get(str(taken[option].annotation), (object, ""))
        if not isinstance(value, kind) or (what and kind is not bool and isinstance(value, bool)):
            raise UserError(f"agent {name!r}: {option} is {what}, not {value!r}")


_OWN = ("world_model", "env", "file", "seed")
"""What a constructor takes that is no option: ``make_agent`` gives it."""


def _known(name: str) -> str:
    return ", ".join(option for option in parameters(agent_class(name)) if option not in _OWN) or "none"
