"""Plans of benchmark suites: frozen dataclasses filled from YAML, unknown keys named."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmtoolkit.errors import UserError

Plan = TypeVar("Plan")
FIRST_SEED = 1_000_000
"""Level seeds of suites start here, far from those that are collected."""
TRAINED = ("efficiency", "ablation", "baselines", "pairs")
"""Suites that train their own models, and need no checkpoint."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent of a suite.

    Attributes:
        agent: a name for ``make_agent``.
        label: what it is called in tables; the name by default.
        settings: its options.
    """

    agent: str = "random"
    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.label or self.agent


def load_plan(
    kind: type[Plan],
    suite: str,
    name: str | Path | None = None,
    *,
    quick: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """A suite's packaged plan, or that of a YAML file.

    Args:
        kind: the suite's dataclass.
        name: YAML file; None for ``configs/bench/SUITE.yaml``.
        quick: let the plan's group ``quick`` override the rest.
        changes: entries that override both; those that are None or empty are left out.

    Raises:
        UserError: no such file, broken YAML, an unknown key or a value of the wrong type.
    """
    where = f"plan {name or suite}"
    try:
        if name is None:
            text = (files("wmtoolkit") / "configs" / "bench" / f"{suite}.yaml").read_text(encoding="utf-8")
        else:
            text = Path(name).read_text(encoding="utf-8")
        document: Any = OmegaConf.to_container(OmegaConf.create(text))
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror})") from None
    except Exception as error:  # OmegaConf passes on the YAML parser's exceptions as they are
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{where} is not a mapping of keys")
    fast = document.pop("quick", None) or {}
    if quick:
        document |= fast
    document |= {key: value for key, value in (changes or {}).items() if value not in (None, (), [])}
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for key in (*document, *fast):
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise UserError(f"{where}: unknown key {key}; {hint}")
    try:
        plan: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), document))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or getattr(error, "key", None)
        raise UserError(f"{where}: {key}: {str(error.msg or error).splitlines()[0]}") from None
    _check_names(plan, where)
    return plan


def _check_names(plan: Any, where: str) -> None:
    """Raise ``UserError`` if two of a kind have one name: the results of one would stand for both."""
    for keys in (("agents", "baselines"), ("variants",), ("levels",), ("seeds",), ("predictors",)):
        entries = [(key, entry) for key in keys for entry in getattr(plan, key, [])]
        names = [getattr(entry, "name", entry) for _, entry in entries]
        for (key, entry), name in zip(entries, names, strict=True):
            if names.count(name) > 1:
                label = "; give one of them another label" if isinstance(entry, AgentSpec) else ""
                raise UserError(f"{where}: {key}: {name} comes twice{label}")


def document(plan: Any) -> dict[str, Any]:
    """A plan as plain values."""
    return asdict(plan)


def seeded(changes: Sequence[str], seed: int) -> list[str]:
    """Entries of a training's config with its seed, and without trackers."""
    return [*changes, f"training.seed={seed}", "logging.trackers=[]"]


def fingerprint(config: Any) -> str:
    """Sixteen hex digits that name a training's config."""
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:16]


def slug(name: str) -> str:
    """A name as that of a file or folder."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
