"""Recipes: which levels to collect, how many episodes, by whom. YAML fills the dataclass, unknown keys are errors."""

from __future__ import annotations

import dataclasses
import difflib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wmtoolkit.data.collection import check_target, collect_plan
from wmtoolkit.data.datasets import DATASET_ID, dataset_path, open_store, read_metadata
from wmtoolkit.data.levels import DEFAULT_LEVEL
from wmtoolkit.data.plan import EPISODE_SECONDS, POLICIES, CollectionPlan, behaviour_shares, check_plan
from wmtoolkit.data.splits import SplitRule
from wmtoolkit.data.workers import MakeAgent, ShardRecorder
from wmtoolkit.errors import UserError

DEFAULT_EPISODES = 1000
PROBE_EPISODES = 10
"""Episodes that a dry run plays to tell how long the whole takes."""


@dataclass(frozen=True)
class CollectionRecipe:
    """What ``wmtool collect`` collects.

    Attributes:
        levels: level ids; each gives a dataset of its own.
        episodes: a level.
        policy: ``mix``, a behaviour, or an agent's name.
        shares: of the behaviours in ``mix``, or beside an agent; None for ``DEFAULT_MIX``, or the agent alone.
        seed: the first level seed.
        max_steps: cut episodes after so many actions; None for the level's own limit.
        seconds: wall-clock limit of an episode.
        split: how episodes are divided.
    """

    levels: tuple[str, ...] = (DEFAULT_LEVEL,)
    episodes: int = DEFAULT_EPISODES
    policy: str = "mix"
    shares: Mapping[str, float] | None = None
    seed: int = 0
    max_steps: int | None = None
    seconds: float = EPISODE_SECONDS
    split: SplitRule = field(default_factory=SplitRule)

    @property
    def agent(self) -> str | None:
        """Name of the agent, if the policy is one."""
        return None if self.policy in POLICIES else self.policy

    def plans(self, weights: str | None = None) -> list[CollectionPlan]:
        """One checked plan a level; ``weights``: sha256 of what the agent was loaded from."""
        shares = behaviour_shares(self.policy, self.shares)
        return [
            CollectionPlan(
                level=level,
                episodes=self.episodes,
                shares=shares,
                seed=self.seed,
                agent=self.agent,
                weights=weights,
                max_steps=self.max_steps,
                seconds=self.seconds,
                split=self.split,
            )
            for level in self.levels
        ]


def packaged_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = files("wmtoolkit") / "configs" / "data"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Entries of a recipe: the name of a packaged one, or a YAML file.

    Raises:
        UserError: no such recipe or file, broken YAML, or an unknown key.
    """
    if name in packaged_recipes():
        text = (files("wmtoolkit") / "configs" / "data" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8")
    else:
        raise UserError(f"no data recipe {name!r}; give a YAML file or one of {', '.join(packaged_recipes())}")
    try:
        document = OmegaConf.to_container(OmegaConf.create(text))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"data recipe {name}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # the YAML parser's own exceptions have no common public base in OmegaConf
        raise UserError(f"data recipe {name} is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(document, dict):
        raise UserError(f"data recipe {name} is not a mapping of keys")
    return recipe_entries(document, f"data recipe {name}")


def recipe_entries(document: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Check keys and types of a recipe and make its split a ``SplitRule``; ``UserError`` names the key at fault."""
    kinds: dict[str, tuple[type, ...]] = {
        "levels": (list, tuple),
        "episodes": (int,),
        "policy": (str,),
        "shares": (dict,),
        "seed": (int,),
        "max_steps": (int, type(None)),
        "seconds": (int, float),
        "split": (dict,),
    }
    entries = {str(key): value for key, value in document.items()}
    for key, value in entries.items():
        if key not in kinds:
            close = difflib.get_close_matches(key, kinds, n=1)
            raise UserError(f"{where}: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key} is {value!r}, not {' or '.join(kind.__name__ for kind in kinds[key])}")
    if "levels" in entries:
        entries["levels"] = tuple(str(level) for level in entries["levels"])
    if "shares" in entries:
        try:
            entries["shares"] = {str(name): float(share) for name, share in entries["shares"].items()}
        except (TypeError, ValueError):
            raise UserError(f"{where}: shares are {entries['shares']}, give a number to each behaviour") from None
    if "split" in entries:
        split = entries["split"]
        unknown = set(split) - {field.name for field in dataclasses.fields(SplitRule)}
        if unknown:
            raise UserError(f"{where}: unknown key split.{sorted(unknown)[0]}; known: shares, held_out")
        try:
            entries["split"] = SplitRule(**{key: tuple(value) for key, value in split.items()})
        except TypeError:
            raise UserError(f"{where}: split.shares and split.held_out are lists") from None
    return entries


def collection_recipe(
    config: str | None,
    *,
    levels: Sequence[str] = (),
    episodes: int | None = None,
    policy: str | None = None,
    shares: Sequence[str] = (),
    seed: int | None = None,
    max_steps: int | None = None,
    seconds: float | None = None,
    held_out: Sequence[str] = (),
) -> CollectionRecipe:
    """The recipe of a command line: the config's entries, each replaced by its option where that is given."""
    entries = read_recipe(config) if config else {}
    given = {"episodes": episodes, "policy": policy, "seed": seed, "max_steps": max_steps, "seconds": seconds}
    entries |= {name: value for name, value in given.items() if value is not None}
    if policy not in (None, "mix"):
        entries.pop("shares", None)  # those of the config's own policy
    if levels:
        entries["levels"] = tuple(levels)
    if shares:
        entries["shares"] = _parse_shares(shares)
    if held_out:
        rule = entries.get("split", SplitRule())
        entries["split"] = dataclasses.replace(rule, held_out=tuple(held_out))
    recipe = CollectionRecipe(**entries)
    if not recipe.levels:
        raise UserError("no level to collect; name one with --level")
    return recipe


def _parse_shares(shares: Sequence[str]) -> dict[str, float]:
    parsed = {}
    for share in shares:
        name, _, value = share.partition("=")
        try:
            parsed[name] = float(value)
        except ValueError:
            raise UserError(f"--share {share!r}: write NAME=X, for example bot=0.3") from None
    return parsed


def collect_levels(
    recipe: CollectionRecipe,
    *,
    out: str | None = None,
    workers: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    make_agent: MakeAgent | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """Collect every level of a recipe, each into its dataset, and report.

    With one level ``out`` is the dataset; with several it is a folder laid out like Minari's own, one dataset a
    level. A level that is there already is left as it is with ``resume``. ``weights`` is as in ``collect``.
    """
    plans = recipe.plans(weights)
    targets = {plan.level: _target(plan, out, len(plans)) for plan in plans}
    for plan in plans:
        check_plan(plan)
        if not resume:
            check_target(dataset_path(targets[plan.level]), overwrite=overwrite)
    if dry_run:
        seconds = sum(expected_seconds(plan, make_agent) for plan in plans) / workers
        lines = [f"{plan.level}: {plan.episodes} episodes into {dataset_path(targets[plan.level])}" for plan in plans]
        return {
            "plans": [plan.document() for plan in plans],
            "expected_seconds": round(seconds, 1),
            "text": "\n".join([*lines, f"expected: about {seconds:.0f} s"]),
        }
    rows = []
    for plan in plans:
        start = time.monotonic()
        path = collect_plan(
            plan, targets[plan.level], workers=workers, resume=resume, overwrite=overwrite, make_agent=make_agent
        )
        rows.append(_row(path, plan.level, time.monotonic() - start))
    return {"datasets": rows, "text": "\n".join(_lines(rows))}


def expected_seconds(plan: CollectionPlan, make_agent: MakeAgent | None = None) -> float:
    """How long one process will take for the plan, from playing its first episodes."""
    probe = range(min(plan.episodes, PROBE_EPISODES if plan.agent is None else 1))
    with tempfile.TemporaryDirectory() as folder:
        recorder = ShardRecorder(plan, make_agent)
        start = time.monotonic()
        recorder.record(probe, Path(folder) / "probe.npz")
        return (time.monotonic() - start) / len(probe) * plan.episodes


def _lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield f"{row['level']}: {row['episodes']} episodes, {row['steps']} steps, {row['seconds']} s, {row['path']}"
        for name, count in row["errors"].items():
            yield f"  {name}: {count}"


def _target(plan: CollectionPlan, out: str | None, levels: int) -> str | Path:
    if out is None:
        return plan.dataset_id
    if levels == 1:
        return out
    if DATASET_ID.fullmatch(out) and not Path(out).is_dir():
        raise UserError(f"--out {out!r} names one dataset, but {levels} levels are collected; give a folder")
    return Path(out).expanduser() / plan.dataset_id


def _row(path: Path, level: str, seconds: float) -> dict[str, Any]:
    metadata = read_metadata(path)
    store = open_store([path])
    facts = metadata["wmtoolkit"]
    return {
        "level": level,
        "dataset_id": metadata["dataset_id"],
        "path": str(path),
        "episodes": len(store),
        "steps": store.num_steps,
        "splits": store.document()["splits"],
        "errors": facts["errors"],
        "fingerprint": store.fingerprint,
        "seconds": round(seconds, 2),
    }
