"""What the project set out to reach, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wmtoolkit.benchmarks.reporting.sections import Section, Table, of_table, ranged, short, with_interval

PREDICTION = {
    "known_cell_accuracy": ("known cells right", 0.9999),
    "known_frame_exact": ("frames with every known cell right", 0.999),
    "remembered_cell_accuracy": ("cells last seen 5 to 30 steps ago", 0.99),
    "changed_cell_accuracy": ("changed cells", 0.995),
    "outcome_f1": ("outcome F1", 0.98),
    "direction_accuracy": ("heading", 1.0),
    "revealed_nll_gain": ("nats that revealed cells are better guessed than by the empirical prior", 0.0),
}
ECE = 0.02
SUCCESS = {
    "BabyAI-GoToRedBallGrey-v0": 0.995,
    "BabyAI-GoToRedBall-v0": 0.99,
    "BabyAI-GoToObj-v0": 0.99,
    "BabyAI-GoToLocal-v0": 0.99,
    "BabyAI-PickupLoc-v0": 0.95,
    "BabyAI-PutNextLocal-v0": 0.8,
    "BabyAI-OpenRedDoor-v0": 0.8,
}
PLANNER = "best-first"
MILLISECONDS = 200.0
LENGTH = 1.3
PEARSON = 0.95
RETENTION = 0.85
CEILINGS = ("bot",)
"""Agents that cannot be beaten: they read the simulator."""
BLIND = ("random", *CEILINGS)
"""Agents that do not look: they keep all that they have."""
RETENTION_LEVEL = "BabyAI-GoToLocal-v0"
"""The goals of prediction, planning, fidelity and robustness."""

Goal = tuple[str, str, str, bool]
"""What, the goal, what was measured, and whether it is reached."""


def goals(documents: Sequence[Mapping[str, Any]]) -> Section | None:
    """Every goal that one of the results documents bears on; None if none does."""
    found = [goal for document in documents for goal in _of(document)]
    if not found:
        return None
    lines = [[what, goal, value, "reached" if met else "missed"] for what, goal, value, met in found]
    return Section(
        "Goals",
        "What the project set out to reach, beside what was measured. A goal counts as reached if the value itself "
        "reaches it; the interval says how sure that is.",
        tables=[Table("", ["", "goal", "measured", ""], lines, 2, (0, 1, 3))],
    )


def _of(document: Mapping[str, Any]) -> Iterator[Goal]:
    metrics = document["metrics"]
    if document["command"] in ("evaluate", "bench prediction"):
        for name, (what, least) in PREDICTION.items():
            if name in metrics:
                yield what, f"at least {least:g}", with_interval(metrics[name], 5), metrics[name]["value"] >= least
        if "ece" in metrics:
            entry = metrics["ece"]
            yield "calibration error of all cells", f"at most {ECE:g}", with_interval(entry, 4), entry["value"] <= ECE
    if document["command"] == "bench success":
        yield from _success(document)
    if "fidelity_pearson" in metrics and metrics["fidelity_pearson"]["value"] is not None:
        entry = metrics["fidelity_pearson"]
        what = "Pearson's correlation of success imagined and real"
        yield what, f"at least {PEARSON:g}", with_interval(entry), entry["value"] >= PEARSON
    yield from _robustness(document)


def _robustness(document: Mapping[str, Any]) -> Iterator[Goal]:
    """What is kept at 30 % hidden cells with belief completion: enough, more than without, more than the baselines."""
    kept = [row for row in of_table(document, "retention") if row["level"] == RETENTION_LEVEL]
    kept = [row for row in kept if row.get("retention_0.3") is not None]
    gains = [row for row in of_table(document, "gain") if row["level"] == RETENTION_LEVEL]
    gains = [row for row in gains if (row["knob"], row["strength"]) == ("cell_dropout", 0.3)]
    for row in (row for row in kept if row["belief"]):
        share, named = row["retention_0.3"], f"{row['agent']} keeps at 30 % hidden cells with belief completion"
        value = ranged("retention_0.3")(row)
        what = f"success that {named}, {short(row['level'])}"
        yield what, f"at least {RETENTION:g}", value, share >= RETENTION
        for other in (other for other in kept if not other["belief"] and other["agent"] not in BLIND):
            if other["agent"] in (row["agent"], *(gain["over"] for gain in gains if gain["agent"] == row["agent"])):
                whose = "its own without" if other["agent"] == row["agent"] else f"that of {other['agent']}"
                goal = f"above {other['retention_0.3']:.3f}"
                yield f"the same, above {whose}", goal, value, share > other["retention_0.3"]
    for row in gains:
        if row["over"] not in CEILINGS:
            what = f"difference of {row['agent']}'s success there to {row['over']}"
            yield what, "above 0", ranged("success_difference")(row), row["success_difference"] > 0


def _success(document: Mapping[str, Any]) -> Iterator[Goal]:
    rows = [row for row in of_table(document, "success") if row.get("n")]
    lengths = {row["level"]: row["mean_episode_length"] for row in rows if row["agent"] == "bot"}
    for row in rows:
        if row["agent"] != PLANNER:
            continue
        level, named = row["level"], f"{PLANNER}, {short(row['level'])}"
        if level in SUCCESS:
            least = SUCCESS[level]
            yield (
                f"success of {named}",
                f"at least {least:g}",
                ranged("success_rate")(row),
                row["success_rate"] >= least,
            )
        taken = row["milliseconds_per_decision"]
        yield f"ms a decision of {named}", f"at most {MILLISECONDS:g}", f"{taken:.0f}", taken <= MILLISECONDS
        if lengths.get(level):
            times = row["mean_episode_length"] / lengths[level]
            yield f"mean length of {named}, in the bot's", f"at most {LENGTH:g}", f"{times:.2f}", times <= LENGTH
