"""What a policy's training is to be, and what one was begun as."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wmtoolkit.agents.dyna import SETTINGS, resolved_dyna
from wmtoolkit.agents.sb3_algorithms import algorithm, resolved
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.envs.starts import FRESH
from wmtoolkit.errors import UserError

MODES = ("imagined", "real", "dyna")
CONFIG = "config.json"


@dataclass(frozen=True)
class PolicyTraining:
    """What is trained, and how.

    Attributes:
        algo: name in ``ALGORITHMS``.
        level: id of the level.
        mode: one of ``MODES``.
        checkpoint: folder of the world model; None: the packaged one.
        steps: of the level or of imagination, over all lanes.
        seed: of everything.
        num_envs: lanes; imagined ones share a forward pass.
        every: steps of a round.
        episodes: of each measurement in the real level.
        clone: imagined steps of the world model's own policy that the policy learns from first; 0: none. They are
            counted as imagined, whatever the mode.
        temperature: of imagination; 0: always the likeliest.
        start: where imagination begins, one of ``envs.starts.FRESH``; looks around are counted as real steps.
        max_steps: limit of an episode; None: the level's own.
        settings: of the algorithm, all of them.
        dyna: of ``DynaPlan``, all of them; empty in other modes.
    """

    algo: str = "ppo"
    level: str = DEFAULT_LEVEL
    mode: str = "imagined"
    checkpoint: str | None = None
    steps: int = 200_000
    seed: int = 0
    num_envs: int = 16
    every: int = 16_384
    episodes: int = 64
    clone: int = 0
    temperature: float = 1.0
    start: str = "level"
    max_steps: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    dyna: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", resolved(self.algo, self.settings))
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")
        if self.dyna and self.mode != "dyna":
            raise UserError(f"setting {next(iter(self.dyna))} is one of Dyna's: it needs --dyna")
        if self.start not in FRESH:
            raise UserError(f"start {self.start!r} is not one of {', '.join(FRESH)}")
        if self.start != "level" and self.mode != "imagined":
            raise UserError(f"start {self.start!r} is of imagination: it needs --imagined")
        if self.mode == "dyna":
            object.__setattr__(self, "dyna", resolved_dyna(self.dyna))
        for name in ("steps", "num_envs", "every", "episodes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "clone", "temperature"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"max_steps is {self.max_steps}; it must be at least 1")
        if "n_steps" in self.settings:
            size, taken = self.settings["batch_size"], self.settings["n_steps"] * self.num_envs
            if size < 2:
                raise UserError("setting batch_size is 1; it must be at least 2: advantages are normalised in a batch")
            if taken < 2:
                raise UserError("setting n_steps is 1 in a single lane; one of them must be more")
            # sb3_contrib normalises the advantage of one step by its own spread, which is no number.
            if algorithm(self.algo).package == "sb3_contrib" and taken % size == 1:
                raise UserError(
                    f"setting batch_size is {size}: of {taken} steps it leaves a last batch of one, whose advantage "
                    "cannot be normalised; choose another"
                )
        if self.clone and self.dyna.get("scratch"):
            raise UserError("clone is of the given world model, and with scratch=true nothing is known: leave out one")
        if self.clone and self.algo == "dqn":
            raise UserError("dqn learns values, not a policy: there is nothing to clone into; leave out --clone")


def make_plan(changes: Mapping[str, Any], settings: Sequence[str] = ()) -> PolicyTraining:
    """A plan with some fields changed, and settings of the algorithm given as ``key=value``.

    Raises:
        UserError: for an unknown setting or a value out of range.
    """
    given = dict(_setting(text) for text in settings)
    dyna = {key: given.pop(key) for key in SETTINGS if key in given}
    return PolicyTraining(**changes, settings=given, dyna=dyna)


def prepare(out: Path, changes: Mapping[str, Any], settings: Sequence[str] = (), *, resume: bool) -> PolicyTraining:
    """The plan of a new run in ``out``, or that of the one to be resumed, which may only be given more steps.

    Raises:
        UserError: see ``make_plan``; nothing to resume; or a change to what the run was begun with.
    """
    if resume:
        return _begun(out, changes, dict(_setting(text) for text in settings))
    return make_plan(changes, settings)


def check_overwritten(out: Path, checkpoint: Path | None) -> None:
    """Raise ``UserError`` unless ``out`` may be removed: a run or empty, and without the world model that is needed."""
    if out.exists() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise UserError(f"--out {out} holds something that is not a policy training; it is not overwritten")
    if checkpoint is not None and checkpoint.resolve().is_relative_to(out.resolve()):
        raise UserError(f"--out {out} holds the world model {checkpoint}; it is not overwritten: give another --out")


def _begun(out: Path, changes: Mapping[str, Any], settings: Mapping[str, Any]) -> PolicyTraining:
    if not (out / CONFIG).is_file():
        raise UserError(f"--out {out} holds no policy training to resume: it has no {CONFIG}")
    try:
        stored = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        stored = asdict(PolicyTraining(**stored))  # with what has been added since
    except (ValueError, TypeError) as error:
        raise UserError(f"{out / CONFIG} cannot be read: {error}") from None
    before = {**stored, **stored["dyna"], **stored["settings"]}
    for name, value in {**changes, **settings}.items():
        if name != "steps" and value != before.get(name):
            raise UserError(
                f"the run in {out} was begun with {name} {before.get(name)!r}: it cannot go on with {value!r}"
            )
    if changes.get("steps", before["steps"]) < before["steps"]:
        raise UserError(f"the run in {out} was begun with {before['steps']} steps: give more, not {changes['steps']}")
    return PolicyTraining(**{**stored, **changes})


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UserError(f"--set {text!r}: write key=value, for example learning_rate=0.001")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
