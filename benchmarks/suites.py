"""Benchmark suites by name: plan, ledger, and ``results.json`` with whatever is finished."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from wmtoolkit.benchmarks import plans
from wmtoolkit.benchmarks.ledger import Ledger
from wmtoolkit.benchmarks.plans import TRAINED
from wmtoolkit.benchmarks.play import Player
from wmtoolkit.benchmarks.report import compare
from wmtoolkit.benchmarks.reporting.reading import Result, read_folder
from wmtoolkit.benchmarks.reporting.sections import number
from wmtoolkit.benchmarks.speed import speed
from wmtoolkit.errors import UserError, error_line
from wmtoolkit.evaluation.held_out import UNRECORDED
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.progress import progress
from wmtoolkit.world.model import AnyOrderWorldModel

TRAINING = "trainings"
SUITES = {
    "prediction": ("prediction", "PredictionPlan"),
    "success": ("success", "SuccessPlan"),
    "robustness": ("robustness", "RobustnessPlan"),
    "fidelity": ("fidelity", "FidelityPlan"),
    "efficiency": (TRAINING, "TrainingsPlan"),
    "ablation": (TRAINING, "TrainingsPlan"),
    "baselines": ("baselines.suite", "BaselinesPlan"),
    "pairs": ("pairs", "PairsPlan"),
}
"""Module below ``wmtoolkit.benchmarks`` and class of the plan. A module has ``units`` (of a plan), ``run`` (what is
missing in the ledger) and ``report`` (metrics and rows of what is finished)."""


def run_suite(
    suite: str,
    out: Path,
    *,
    plan: str | Path | None = None,
    quick: bool = False,
    checkpoint: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Run what of a suite is not finished in ``out/SUITE`` and write ``results.json`` there.

    An interrupt or a crash loses no finished unit: the results then say how many units are missing, and why.

    Args:
        out: folder of the suites; they share the fresh episodes under ``out/data``.
        plan: YAML file; None for the packaged plan of the suite.
        quick: a small plan, which shows that it runs and proves little.
        checkpoint: folder of the world model; None for the packaged one.
        changes: entries of the plan to override, e.g. ``levels``, ``episodes``.

    Returns:
        The results document, and ``text``.

    Raises:
        UserError: an unknown suite, a broken plan or checkpoint, or rows of another schema in ``out``.
    """
    if suite not in SUITES:
        raise UserError(f"{suite!r} is no suite; there are {', '.join(SUITES)}")
    module_name, plan_name = SUITES[suite]
    module = import_module(f"wmtoolkit.benchmarks.{module_name}")
    kind = getattr(module, plan_name)
    settled = plans.load_plan(kind, suite, plan, quick=quick, changes=changes)
    player = Player(checkpoint, out)
    ledger = Ledger(out / suite, suite)
    units = list(module.units(settled, player))
    try:
        with progress(f"bench {suite}", len(units)) as bar:
            module.run(settled, player, ledger, bar)
    finally:
        metrics, rows = module.report(settled, player, ledger)
        holes = ledger.holes(units)
        arguments = {"plan": plans.document(settled), "quick": quick}
        if suite not in TRAINED:
            arguments["training_seeds"] = UNRECORDED if player.train_seeds is None else "left out"
        document = results_document(
            f"bench {suite}",
            arguments,
            metrics,
            rows,
            seed=settled.seed,
            checkpoint=player.identity if suite not in TRAINED else None,
        )
        document["units"] = {"planned": len(units), "missing": len(holes), "holes": _grouped(holes)}
        document["made"] = ledger.made(units)
        write_json(out / suite / "results.json", document)
    return {**document, "text": text(document)}


def run_all(
    out: Path,
    *,
    quick: bool = False,
    trainings: bool = False,
    checkpoint: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Every suite and the speed, then the report; those that train only where asked for, or quick.

    A suite that cannot be run is named, and the rest goes on. The change ``episodes`` is of those that agents play.

    Returns:
        ``suites``, the missing units of each; ``failed``; ``report``; and ``text``.
    """
    AnyOrderWorldModel.from_pretrained(checkpoint)  # one that cannot be read is told before any work
    failed: dict[str, str] = {}
    missing: dict[str, int] = {}
    not_asked: list[str] = []
    for suite in SUITES:
        if suite in TRAINED and not (quick or trainings):
            not_asked += [] if (out / suite / "results.json").is_file() else [f"{suite}: not run; give --trainings"]
            continue
        if overwrite:
            clear(out / suite)
        try:
            own = dict(changes or {}) if suite not in TRAINED else {}
            if suite == "prediction":
                own.pop("episodes", None)  # how many are recorded to be predicted, not how many are played
            document = run_suite(suite, out, quick=quick, checkpoint=checkpoint, changes=own)
            missing[suite] = document["units"]["missing"]
        except Exception as error:
            failed[suite] = error_line(error)
    if overwrite or _must_measure_speed(out / "speed", quick, checkpoint):
        try:
            speed(quick=quick, out=out / "speed", checkpoint=checkpoint)
        except Exception as error:
            failed["speed"] = error_line(error)
    holes = [*(f"{suite}: {why}" for suite, why in failed.items()), *not_asked]
    written = write_report(out, missing=holes)
    lines = [*(f"{suite}: {count} units missing" for suite, count in missing.items()), *holes]
    return {"suites": missing, "failed": failed, **written, "text": "\n".join([*lines, written["text"]])}


def _must_measure_speed(folder: Path, quick: bool, checkpoint: Path | None) -> bool:
    """Whether there is no measured speed, or only one of another checkpoint, or a quick one where a full one is asked
    for."""
    try:
        result = read_folder(folder)
        identity = Player(checkpoint).identity
    except (OSError, UserError):
        return True
    if not isinstance(result, Result):
        return True
    measured = (result.document.get("checkpoint") or {}).get("sha256")
    return measured != identity["sha256"] or (bool(result.document["arguments"].get("quick")) and not quick)


def write_report(
    folder: Path, out: Path | None = None, title: str = "wmtoolkit benchmarks", missing: Sequence[str] = ()
) -> dict[str, Any]:
    """A page of all that a folder of suites holds, and Markdown and CSV beside it.

    Args:
        missing: what is not there, and why, for the page to say.

    Returns:
        ``report``, the page's path; ``left_out``; and ``text``.
    """
    page = out or folder / "report.html"
    if page.suffix != ".html":
        raise UserError(f"--out {page}: give the name of a page, .html; Markdown and CSV come to lie beside it")
    for ending in (".csv", ".md", ".html"):
        found = compare([folder], page.with_suffix(ending), title, missing)
    return {"report": str(page), "left_out": found["left_out"], "text": found["text"]}


def clear(folder: Path) -> None:
    """Remove a suite's folder.

    Raises:
        UserError: it holds something that is no suite.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "rows.jsonl").is_file():
        raise UserError(f"{folder} holds something that is not a suite; it is not overwritten")
    shutil.rmtree(folder, ignore_errors=True)


def _grouped(holes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Missing units that differ in nothing but the level seed, as one with their number."""
    groups: dict[str, dict[str, Any]] = {}
    for hole in holes:
        unit = {key: value for key, value in hole["unit"].items() if key not in ("seed", "checkpoint")}
        own = groups.setdefault(
            str(sorted(unit.items(), key=str)), {"unit": unit, "missing": 0, "error": hole["error"]}
        )
        own["missing"] += 1
        if own["error"] == "not run yet":
            own["error"] = hole["error"]
    return list(groups.values())


def text(document: Mapping[str, Any]) -> str:
    """What a suite found, in a few lines for people."""
    units = document["units"]
    lines = [f"{document['command']}: {units['planned'] - units['missing']} of {units['planned']} units done"]
    for hole in units["holes"][:10]:
        named = ", ".join(f"{key} {value}" for key, value in hole["unit"].items() if value not in (None, {}, [], False))
        lines.append(f"  missing {hole['missing']}: {named}: {hole['error']}")
    for name, entry in document["metrics"].items():
        interval = "" if entry["ci95"] is None else f"  ({entry['ci95'][0]:.4f} to {entry['ci95'][1]:.4f})"
        if "/" not in name or document["command"] != "bench prediction":
            lines.append(f"  {name:<44}{number(entry['value']):>10}{interval}")
    return "\n".join(lines)
