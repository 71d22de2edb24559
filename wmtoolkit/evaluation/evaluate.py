"""Everything ``wmtool evaluate`` measures of a checkpoint, level by level, as a results document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wmtoolkit.evaluation.bounds import bound_tallies
from wmtoolkit.evaluation.calibration import Calibration, calibrations
from wmtoolkit.evaluation.completion import belief_accuracy, completion_curves, inverse_tallies
from wmtoolkit.evaluation.goals import goal_tally
from wmtoolkit.evaluation.held_out import UNRECORDED, HeldOut, held_out, training_record
from wmtoolkit.evaluation.intervals import Tally
from wmtoolkit.evaluation.outcomes import grounded_outcomes, outcome_steps
from wmtoolkit.evaluation.prediction import (
    BASELINES,
    action_tally,
    event_tallies,
    model_predictions,
    outcome_tallies,
    prediction_tallies,
)
from wmtoolkit.evaluation.prior import CellPrior
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.evaluation.tables import markdown
from wmtoolkit.evaluation.transitions import draw_steps, transitions
from wmtoolkit.progress import progress
from wmtoolkit.world.checkpoint import checkpoint_hash
from wmtoolkit.world.model import AnyOrderWorldModel

MODEL = "world model"
EVERYWHERE = "all"


@dataclass(frozen=True)
class Budget:
    """How much is asked of each level; everything follows from ``samples``, the number of steps predicted."""

    samples: int = 1000

    @property
    def rare(self) -> int:
        """Least number of each event, where so many occur."""
        return max(1, self.samples // 5)

    @property
    def windows(self) -> int:
        """Windows at each mask ratio."""
        return max(1, self.samples // 32)

    @property
    def chains(self) -> int:
        """Steps whose likelihood is taken by the chain rule, with 52 passes each."""
        return max(1, self.samples // 50)

    bound_samples: int = 2


@dataclass
class Measured:
    """What was measured in one level: tallies by name of each table."""

    scores: dict[str, Tally] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    baselines: dict[str, dict[str, Tally]] = field(default_factory=dict)
    events: dict[str, Tally] = field(default_factory=dict)
    outcomes: dict[int, dict[str, Tally]] = field(default_factory=dict)
    completion: dict[tuple[str, float], dict[str, Tally]] = field(default_factory=dict)


def evaluate(
    checkpoint: Path | None,
    data: list[str],
    *,
    split: str = "test",
    seed: int = 0,
    samples: int = Budget.samples,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure a checkpoint on held-out episodes of some datasets, beside the baselines.

    Args:
        samples: steps of each level that are predicted; the rest is asked in proportion (``Budget``).

    Returns:
        The results document: ``metrics`` over all levels together, ``rows`` of the tables ``levels``, ``events``,
        ``outcomes``, ``completion`` and ``reliability``. With ``out``, ``results.json`` and ``results.md`` are written.

    Raises:
        UserError: no such data, or level seeds that the model was trained on.
    """
    model = AnyOrderWorldModel.from_pretrained(checkpoint)
    parts = held_out(model, data, split)
    measured: dict[str, Measured] = {}
    with progress("evaluate", len(parts) * len(_STAGES)) as bar:
        for part in parts:
            measured[part.name] = found = Measured()
            for stage, measure in _STAGES.items():
                measure(model, part, Budget(samples), np.random.default_rng(seed), found)
                bar.advance(info=f"{part.name}: {stage}")
    together = _joined(list(measured.values()))
    everywhere = {EVERYWHERE: together} if len(measured) > 1 else {}
    rows = [row for name, found in {**measured, **everywhere}.items() for row in _rows(name, found)]
    document = results_document(
        "evaluate",
        {
            "data": data,
            "split": split,
            "samples": samples,
            "bound_samples": Budget.bound_samples,
            "training_seeds": "refused" if training_record(model) else UNRECORDED,
        },
        _metrics(together),
        rows,
        seed=seed,
        checkpoint={"path": str(checkpoint or "packaged"), "sha256": checkpoint_hash(model.path)}
        if model.path
        else None,
    )
    text = markdown(document)
    if out is not None:
        write_json(out / "results.json", document)
        (out / "results.md").write_text(text, encoding="utf-8")
    return {**document, "text": text}


def _predict(
    model: AnyOrderWorldModel, part: HeldOut, budget: Budget, rng: np.random.Generator, found: Measured
) -> None:
    target, evenly = draw_steps(part.frames, budget.samples, budget.rare, rng)
    steps = transitions(part.frames, target)
    said = model_predictions(model, part.frames, target)
    prior = None if part.training is None else CellPrior.fit(part.training, 4 * budget.samples, rng)
    found.scores |= prediction_tallies(steps, said, evenly, prior)
    found.events = event_tallies(steps, said)
    found.calibrations = calibrations(steps, said, evenly)
    for name, baseline in BASELINES.items():
        guess = baseline(steps)
        chosen = slice(0, evenly)
        found.baselines[name] = prediction_tallies(steps, guess, evenly)
        found.baselines[name] |= outcome_tallies(guess.outcomes[chosen], steps.outcomes[chosen], steps.episode[chosen])


def _act(model: AnyOrderWorldModel, part: HeldOut, budget: Budget, rng: np.random.Generator, found: Measured) -> None:
    if (tally := action_tally(model, part.frames, max(1, budget.samples // 2), rng)) is not None:
        found.scores["action_accuracy"] = tally
    found.scores |= inverse_tallies(model, part.frames, max(1, budget.samples // 8), rng)
    if (tally := goal_tally(model, part.store, max(1, budget.samples // 8), rng)) is not None:
        found.scores["goal_accuracy"] = tally


def _end(model: AnyOrderWorldModel, part: HeldOut, budget: Budget, rng: np.random.Generator, found: Measured) -> None:
    steps = outcome_steps(part.frames, max(1, budget.samples // 8), max(1, budget.samples // 2), rng)
    found.outcomes = grounded_outcomes(model, part.frames, steps)
    found.scores |= found.outcomes[1]


def _fill(model: AnyOrderWorldModel, part: HeldOut, budget: Budget, rng: np.random.Generator, found: Measured) -> None:
    found.completion = completion_curves(model, part.frames, budget.windows, rng)
    found.scores["belief_accuracy"] = belief_accuracy(model, part.frames, 4 * budget.windows, rng)


def _weigh(model: AnyOrderWorldModel, part: HeldOut, budget: Budget, rng: np.random.Generator, found: Measured) -> None:
    steps = max(1, budget.samples // 5)
    found.scores |= bound_tallies(model, part.frames, steps, budget.bound_samples, budget.chains, rng)


_STAGES: dict[str, Callable[[AnyOrderWorldModel, HeldOut, Budget, np.random.Generator, Measured], None]] = {
    "prediction": _predict,
    "actions": _act,
    "outcomes": _end,
    "completion": _fill,
    "likelihood": _weigh,
}


def _joined(parts: list[Measured]) -> Measured:
    """All levels together."""
    names = dict.fromkeys(name for part in parts for name in part.calibrations)
    return Measured(
        scores=_merge([part.scores for part in parts]),
        calibrations={
            name: Calibration.joined([part.calibrations[name] for part in parts if name in part.calibrations])
            for name in names
        },
        baselines={name: _merge([part.baselines[name] for part in parts]) for name in BASELINES},
        events=_merge([part.events for part in parts]),
        outcomes={place: _merge([part.outcomes[place] for part in parts]) for place in parts[0].outcomes},
        completion={key: _merge([part.completion[key] for part in parts]) for key in parts[0].completion},
    )


def _merge(parts: list[dict[str, Tally]]) -> dict[str, Tally]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: Tally.joined([part[name] for part in parts if name in part]) for name in names}


def _entries(found: Measured) -> dict[str, dict[str, Any]]:
    """The metrics of the table ``levels``."""
    tallies = {name: tally.entry() for name, tally in found.scores.items()}
    return tallies | {name: calibration.entry() for name, calibration in found.calibrations.items()}


def _metrics(found: Measured) -> dict[str, dict[str, Any]]:
    metrics = _entries(found)
    for position, tallies in found.outcomes.items():
        for name, tally in tallies.items():
            metrics[f"{name}/position_{position}"] = tally.entry()
    for event, tally in found.events.items():
        metrics[f"exact/{event.replace(' ', '_')}"] = tally.entry()
    for (level, ratio), tallies in found.completion.items():
        for name, tally in tallies.items():
            metrics[f"{level}_completion_{name}/{ratio}"] = tally.entry()
    for name in ("nll_per_step", "chain_nll_per_step"):
        if name in found.scores:
            low, high = metrics[name]["ci95"]
            metrics[name]["standard_error"] = (high - low) / (2 * 1.96)
    return metrics


def _rows(level: str, found: Measured) -> list[dict[str, Any]]:
    rows = [{"table": "levels", "level": level, "predictor": MODEL, **_flat(_entries(found))}]
    for name, tallies in found.baselines.items():
        entries = {metric: tally.entry() for metric, tally in tallies.items()}
        rows.append({"table": "levels", "level": level, "predictor": name, **_flat(entries)})
    for event, tally in found.events.items():
        rows.append({"table": "events", "level": level, "event": event, **_flat({"exact": tally.entry()})})
    for position, tallies in found.outcomes.items():
        entries = {name: tally.entry() for name, tally in tallies.items()}
        rows.append({"table": "outcomes", "level": level, "position": position, **_flat(entries)})
    for (masking, ratio), tallies in found.completion.items():
        entries = {name: tally.entry() for name, tally in tallies.items()}
        rows.append({"table": "completion", "level": level, "masking": masking, "ratio": ratio, **_flat(entries)})
    if "ece" in found.calibrations:
        rows += [{"table": "reliability", "level": level, **row} for row in found.calibrations["ece"].rows()]
    return rows


def _flat(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Value, interval and number of each metric as keys of a flat row."""
    row: dict[str, Any] = {}
    for name, entry in entries.items():
        low, high = entry["ci95"]
        row |= {name: entry["value"], f"{name}_low": low, f"{name}_high": high, f"{name}_n": entry["n"]}
    return row
