"""How fast the toolkit's parts are on this machine, as ratios within one run.

A part is a module with ``comparisons(quick, seed)``; that of imagination takes a ``checkpoint`` too. The variants of a
comparison take turns, round after round, so that whatever else the machine does falls on all alike; a variant's time is
its fastest round. Amounts, as of memory, are measured once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from wmtoolkit.benchmarks.play import Player
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.results import results_document, write_json
from wmtoolkit.progress import progress

IMAGINATION = "imagination"
PARTS = {name: f"wmtoolkit.benchmarks.{name}_speed" for name in ("llada2", "data", IMAGINATION)}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Comparison:
    """Variants of the same work.

    Attributes:
        unit: what is counted, as ``tokens``.
        variants: by variant, and by use (``forward``, ``train``, ...): the units a call works through, and the call.
            The others are compared with the first variant.
        also: other units, and how many of them go to one of ``unit``.
        targets: by variant, the ratio it should reach at least.
        rates: by variant, the units a second it should reach at least.
        clock: the one to measure with whatever is asked for: ``wall`` where other processes do the work.
    """

    name: str
    unit: str
    variants: dict[str, dict[str, tuple[int, Callable[[], Any]]]]
    also: Mapping[str, float] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    clock: str | None = None


@dataclass(frozen=True)
class Amount:
    """Variants of an amount.

    Attributes:
        variants: what measures each.
        most: by how much the others may exceed the first.
    """

    name: str
    unit: str
    variants: dict[str, Callable[[], float]]
    most: float


def speed(
    parts: Sequence[str] = (),
    *,
    quick: bool = False,
    rounds: int | None = None,
    threads: int | None = None,
    clock: str = "wall",
    checkpoint: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure parts (all, if none is named) and write ``out``/results.json.

    Args:
        quick: small sizes and one round: shows that it runs, proves little.
        checkpoint: folder of the world model that imagines; None: the packaged one.
        rounds: turns each variant takes after one that warms up; 4 if not given.
        threads: of torch, for the time of the measurement; as they are if not given.
        clock: ``wall``, or ``cpu``: the processor time of this process, fair with one thread on a busy machine.

    Returns:
        The results document, whose flat ``rows`` hold ``per_second`` (units a second in the fastest round), ``ratio``
        (to the comparison's first variant), ``spread`` (the median round's time over the fastest's) and, where there is
        a ``target`` of the ratio or a ``rate_target`` of the units a second, whether it is ``met`` or ``rate_met``; an
        amount's hold ``amount``, the target being how much more it may be than the first; and ``text``.
    """
    for part in parts:
        if part not in PARTS:
            raise UserError(f"{part!r} is no part; there are {', '.join(PARTS)}")
    if clock not in CLOCKS:
        raise UserError(f"{clock!r} is no clock; there are {', '.join(CLOCKS)}")
    before = torch.get_num_threads()
    threads, rounds = threads or before, rounds or (1 if quick else 4)
    arguments = {"parts": list(parts or PARTS), "quick": quick, "rounds": rounds}
    arguments |= {"threads": threads, "clock": clock}
    rows: list[dict[str, Any]] = []
    # First of all: a checkpoint that cannot be read is told before anything is measured.
    identity = Player(checkpoint).identity if checkpoint or IMAGINATION in (parts or PARTS) else None
    torch.set_num_threads(threads)
    try:
        with progress("measuring speed", None) as bar:
            for part in parts or PARTS:
                options = {"checkpoint": checkpoint} if part == IMAGINATION else {}
                for comparison in import_module(PARTS[part]).comparisons(quick=quick, seed=seed, **options):
                    bar.advance(info=f"{part}: {comparison.name}")
                    if isinstance(comparison, Amount):
                        found = _amounts(comparison)
                    else:
                        found = _measured(comparison, rounds, CLOCKS[comparison.clock or clock])
                    rows += [{"part": part, **row} for row in found]
    finally:
        torch.set_num_threads(before)
    document = results_document("bench speed", arguments, {}, rows, seed=seed, checkpoint=identity)
    if out is not None:
        write_json(out / "results.json", document)
    return {**document, "text": _text(rows, arguments)}


def _measured(comparison: Comparison, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """One row a use and variant."""
    work = {(use, variant): w for variant, uses in comparison.variants.items() for use, w in uses.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for turn in range(rounds + 1):
        for key, (_, call) in work.items():
            start = clock()
            call()
            if turn > 0:
                seconds[key].append(clock() - start)
    rate = {key: units / min(seconds[key]) for key, (units, _) in work.items()}
    first = next(iter(comparison.variants))
    return [
        {
            "comparison": comparison.name,
            "use": use,
            "variant": variant,
            "unit": comparison.unit,
            "per_second": rate[use, variant],
            "ratio": rate[use, variant] / rate[use, first],
            "spread": statistics.median(seconds[use, variant]) / min(seconds[use, variant]),
            **{f"{unit}_per_second": rate[use, variant] * count for unit, count in comparison.also.items()},
            **_judged(comparison.targets.get(variant), rate[use, variant] / rate[use, first], least=True),
            **_wanted(comparison.rates.get(variant), rate[use, variant]),
        }
        for use, variant in sorted(work, key=lambda key: key[0])
    ]


def _amounts(amount: Amount) -> list[dict[str, Any]]:
    """One row a variant."""
    found = {variant: measure() for variant, measure in amount.variants.items()}
    first = next(iter(found.values()))
    return [
        {
            "comparison": amount.name,
            "use": "",
            "variant": variant,
            "unit": amount.unit,
            "amount": value,
            "ratio": value / first,
            **_judged(amount.most if place else None, value - first, least=False),
        }
        for place, (variant, value) in enumerate(found.items())
    ]


def _judged(target: float | None, found: float, *, least: bool) -> dict[str, Any]:
    """A row's target, if it has one, and whether it is met: reached if it is the least, kept if it is the most."""
    return {} if target is None else {"target": target, "met": found >= target if least else found <= target}


def _wanted(target: float | None, found: float) -> dict[str, Any]:
    """A row's rate wanted, if it has one, and whether it is reached."""
    return {} if target is None else {"rate_target": target, "rate_met": found >= target}


def _text(rows: list[dict[str, Any]], arguments: dict[str, Any]) -> str:
    """The rows as a table for people."""
    table = [["part", "comparison", "use", "variant", "a second", "ratio", "spread", "target"]]
    for row in rows:
        names = [row[name] for name in ("part", "comparison", "use", "variant")]
        spread = f"{row['spread']:.2f}" if "spread" in row else ""
        table.append([*names, _quantity(row), f"{row['ratio']:.2f}", spread, _target(row)])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join([*map(str.ljust, line[:4], widths), *map(str.rjust, line[4:], widths[4:])]) for line in table]
    how = ", ".join(f"{name}: {arguments[name]}" for name in ("threads", "clock", "rounds"))
    return "\n".join(
        [
            *(line.rstrip() for line in lines),
            "",
            f"{how}; the fastest round counts",
            "ratio: to the comparison's first variant; spread: the median round's time over the fastest's",
        ]
    )


def _quantity(row: dict[str, Any]) -> str:
    """What a row measured, in all its units."""
    if "amount" in row:
        return f"{row['amount']:,.0f} {row['unit']} in all"
    also = {key.removesuffix("_per_second"): value for key, value in row.items() if key.endswith("_per_second")}
    return ", ".join(f"{value:,.0f} {unit}" for unit, value in {row["unit"]: row["per_second"], **also}.items())


def _target(row: dict[str, Any]) -> str:
    if row.get("rate_target"):
        rate = f"{row['rate_target']:,g} {row['unit']} a second: {'met' if row['rate_met'] else 'MISSED'}"
        return ", ".join([rate, *([_target({**row, "rate_target": None})] if "target" in row else [])])
    if "target" not in row:
        return ""
    wanted = f"{row['target']:g} {row['unit']} more at most" if "amount" in row else f"{row['target']:g} at least"
    return f"{wanted}: {'met' if row['met'] else 'MISSED'}"
