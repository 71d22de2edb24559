"""The report's section on policies that were trained, in imagination or in the real level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wmtoolkit.benchmarks.reporting import figures
from wmtoolkit.benchmarks.reporting.sections import Row, Section, number, percent, short, tabulated
from wmtoolkit.evaluation.intervals import wilson

DRAWN, LIKELIEST = "sampled_success_rate", "success_rate"


def policies(documents: list[tuple[Mapping[str, Any], str]]) -> Section:
    """Learning curves of ``wmtool train-policy`` in one figure, and each run's last measurement."""
    curves = [_curve(document, name) for document, name in documents]
    last = [
        {**curve[-1], "cloned": document["arguments"].get("clone", 0)}
        for (document, _), curve in zip(documents, curves, strict=True)
    ]
    return Section(
        "Policies",
        "Success in the real level while a policy is trained, with drawn actions where it has a choice; each run "
        "begins where cloning has ended, if there was any. Real steps are those of training and of looks around; each "
        "reset of the real level begins an episode, real or imagined. Measuring is not counted, nor are the recorded "
        "episodes behind the world model.",
        [(figures.learning_curves(curves), "Success against what was asked of the real level, with Wilson intervals")],
        [
            tabulated(
                "At the end",
                last,
                {
                    "run": "run",
                    "level": lambda row: short(row["level"]),
                    "algorithm": "algo",
                    "trained in": "mode",
                    "drawn": percent(DRAWN),
                    "likeliest": percent(LIKELIEST),
                    "steps cloned": "cloned",
                    "steps": "step",
                    "real steps": "real_steps",
                    "resets": "real_resets",
                    "real episodes": "real_episodes",
                    "seconds": lambda row: number(round(row["seconds"])),
                },
                best=4,
                words=(0, 1, 2, 3),
            )
        ],
    )


def _curve(document: Mapping[str, Any], name: str) -> list[Row]:
    """Rows of a run, each rate with its interval, and ``success``: of drawn actions, or of the likeliest."""
    plan = document["arguments"]
    rows: list[Row] = []
    for line in document["rows"]:
        row = {**line, "run": name, **{key: plan[key] for key in ("level", "algo", "mode")}}
        for key in (LIKELIEST, DRAWN):
            if key in line:
                low, high = wilson(round(line[key] * plan["episodes"]), plan["episodes"])
                row |= {f"{key}_low": low, f"{key}_high": high}
        best = DRAWN if DRAWN in line else LIKELIEST
        rows.append(row | {f"success{end}": row[f"{best}{end}"] for end in ("", "_low", "_high")})
    return rows
