"""What the project set out to reach, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wmtoolkit.benchmarks.reporting.agents import kept_of, looked_around
from wmtoolkit.benchmarks.reporting.sections import Row, Section, Table, first, of_table, ranged, short, with_interval
from wmtoolkit.benchmarks.reporting.trainings import QUERIES

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
INFILL, INFILL_LEVEL, INFILL_SUCCESS = "infill", "BabyAI-GoToLocal-v0", 0.9
POLICIES = {"BabyAI-GoToRedBallGrey-v0": 0.95, "BabyAI-GoToLocal-v0": 0.85}
"""Success in the real level of policies trained in imagination alone."""
PUBLISHED = {"GoToRedBallGrey": 1_500, "GoToLocal": 74_200}
"""Fewest episodes to 99 % success by imitation, Chevalier-Boisvert et al. 2019; by reinforcement 15,900 and 242,000."""
SHARE, SOLVED = 5, 0.99
"""At most a fifth of these episodes are to be needed."""
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
FORWARD = ("known_cell_accuracy", "known_frame_exact", "chain_nll")
"""Queries in which the any-order model is to be no worse than the autoregressive one; in all others, better."""

Goal = tuple[str, str, str, str]
"""What, the goal, what was measured, and whether it is reached."""


def goals(found: Sequence[tuple[Mapping[str, Any], str]]) -> Section | None:
    """Every goal that one of the results documents, each with its name, bears on; None if none does."""
    lines: list[list[str]] = []
    holes: list[str] = []
    for document, name in found:
        try:
            lines += [[*goal, _source(document, name)] for goal in _of(document)]
        except Exception as error:  # results of another hand, or of an older toolkit: the rest is still shown
            holes.append(f"what {name} says of the goals cannot be told ({type(error).__name__}: {error})")
    if not lines and not holes:
        return None
    return Section(
        "Goals",
        "What the project set out to reach, beside what was measured. A goal counts as reached if the value itself "
        "reaches it; the interval says how sure that is. It is open where units of work that bear on it are missing. "
        "Last: the results that it comes from, with the checkpoint's hash where they are of one.",
        tables=[Table("", ["", "goal", "measured", "", "from"], lines, 2, (0, 1, 3, 4))],
        holes=holes,
    )


def _source(document: Mapping[str, Any], name: str) -> str:
    checkpoint = document.get("checkpoint")
    parts = [name, *([checkpoint["sha256"][:8]] if checkpoint else [])]
    return ", ".join([*parts, *(["a quick plan"] if document["arguments"].get("quick") else [])])


def _verdict(met: bool, missing: int = 0) -> str:
    return f"open: {missing} units of work are missing" if missing else "reached" if met else "missed"


def _missing(document: Mapping[str, Any], **wanted: Any) -> int:
    """Missing units of a suite that have these entries."""
    found = (hole for hole in _holes(document) if all(hole["unit"].get(key) == wanted[key] for key in wanted))
    return sum(hole["missing"] for hole in found)


def _holes(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Missing units of work, without films: no goal bears on them."""
    return [hole for hole in document.get("units", {}).get("holes", []) if "film" not in hole["unit"]]


def _of(document: Mapping[str, Any]) -> Iterator[Goal]:
    if document["command"] in ("evaluate", "bench prediction"):
        yield from _prediction(document)
    if document["command"] == "bench success":
        yield from _success(document)
        yield from _infilling(document)
    if document["command"] == "bench fidelity":
        yield from _fidelity(document)
    if document["command"] == "bench robustness":
        yield from _robustness(document)
    if document["command"] == "bench baselines":
        yield from _baselines(document)
    if document["command"] == "bench efficiency":
        yield from _efficiency(document)
    if document["command"] == "train-policy":
        yield from _policy(document)


def _prediction(document: Mapping[str, Any]) -> Iterator[Goal]:
    metrics, missing = document["metrics"], _missing(document)
    for name, (what, least) in PREDICTION.items():
        if name in metrics:
            verdict = _verdict(metrics[name]["value"] >= least, missing)
            yield what, f"at least {least:g}", with_interval(metrics[name], 5), verdict
        else:
            yield what, f"at least {least:g}", "-", "not measured: the data or the finished units hold no such case"
    if "ece" in metrics:
        entry = metrics["ece"]
        verdict = _verdict(entry["value"] <= ECE, missing)
        yield "calibration error of all cells", f"at most {ECE:g}", with_interval(entry, 4), verdict


def _fidelity(document: Mapping[str, Any]) -> Iterator[Goal]:
    entry = document["metrics"].get("fidelity_pearson")
    what = "Pearson's correlation of success imagined and real"
    if looked_around(document):
        what += ", after a look around"
    goal = what, f"at least {PEARSON:g}"
    if entry is None:
        yield *goal, "-", "not measured: fewer than three agents and levels are played to the end"
    elif entry["value"] is None:
        yield *goal, "-", "not measured: success is the same everywhere on one side"
    else:
        missing = sum(hole["missing"] for hole in _holes(document) if "agent" in hole["unit"])
        yield *goal, with_interval(entry), _verdict(entry["value"] >= PEARSON, missing)


def _robustness(document: Mapping[str, Any]) -> Iterator[Goal]:
    """What is kept at 30 % hidden cells with belief completion: enough, more than without, more than the baselines."""
    kept = [row for row in of_table(document, "retention") if row["level"] == RETENTION_LEVEL]
    plan = document["arguments"]["plan"]
    baselines = [agent["label"] or agent["agent"] for agent in plan["baselines"]]
    for row in (row for row in kept if row["belief"]):
        share, value = row.get("retention_0.3"), kept_of(document, row)
        what = f"success that {row['agent']} keeps at 30 % hidden cells with belief completion, {short(row['level'])}"
        goal = f"at least {RETENTION:g}"
        yield what, goal, value, _unkept(row) if share is None else _verdict(share >= RETENTION)
        for other in (other for other in kept if not other["belief"] and other["agent"] not in BLIND):
            if other["agent"] in (row["agent"], *baselines):
                whose = "its own without" if other["agent"] == row["agent"] else f"that of {other['agent']}"
                least = other.get("retention_0.3")
                unkept = _unkept(row) if share is None else _unkept(other)
                verdict = unkept if share is None or least is None else _verdict(share > least)
                yield f"the same, above {whose}", f"above {kept_of(document, other, ends=False)}", value, verdict
    for row in of_table(document, "gain"):
        here = (row["level"], row["knob"], row["strength"]) == (RETENTION_LEVEL, "cell_dropout", 0.3)
        if here and row["over"] not in CEILINGS:
            what = f"difference of {row['agent']}'s success there to {row['over']}"
            yield what, "above 0", ranged("success_difference")(row), _verdict(row["success_difference"] > 0)


def _unkept(row: Row) -> str:
    return f"not measured: {row['agent']} never succeeds with a clear view, or episodes are missing"


def _success(document: Mapping[str, Any]) -> Iterator[Goal]:
    rows = of_table(document, "success")
    lengths = {row["level"]: row.get("mean_episode_length") for row in rows if row.get("agent") == "bot"}
    for row in (row for row in rows if row.get("agent") == PLANNER):
        level, named = row["level"], f"{PLANNER}, {short(row['level'])}"
        missing = _missing(document, level=level, agent=PLANNER)
        least = SUCCESS.get(level)
        if not row.get("n"):
            if least is not None:
                yield f"success of {named}", f"at least {least:g}", "-", "not measured: no episode was played"
            continue
        if least is not None:
            verdict = _verdict(row["success_rate"] >= least, missing)
            yield f"success of {named}", f"at least {least:g}", ranged("success_rate")(row), verdict
        taken = row["milliseconds_per_decision"]
        verdict = _verdict(taken <= MILLISECONDS, missing)
        yield f"ms a decision of {named}", f"at most {MILLISECONDS:g}", f"{taken:.0f}", verdict
        if lengths.get(level) and row["mean_episode_length"]:
            times = row["mean_episode_length"] / lengths[level]
            verdict = _verdict(times <= LENGTH, missing + _missing(document, level=level, agent="bot"))
            yield f"mean length of {named}, in the bot's", f"at most {LENGTH:g}", f"{times:.2f}", verdict


def _infilling(document: Mapping[str, Any]) -> Iterator[Goal]:
    """Planning by infilling: its success, and its passes beside those of the forward planner where both played."""
    rows = of_table(document, "success")
    row, named = first(rows, agent=INFILL, level=INFILL_LEVEL), f"{INFILL}, {short(INFILL_LEVEL)}"
    if not row.get("n"):
        return
    missing = _missing(document, level=INFILL_LEVEL, agent=INFILL)
    verdict = _verdict(row["success_rate"] >= INFILL_SUCCESS, missing)
    yield f"success of {named}", f"at least {INFILL_SUCCESS:g}", ranged("success_rate")(row), verdict
    passes = "forward_passes_per_decision"
    theirs = first(rows, agent=PLANNER, level=INFILL_LEVEL).get(passes)
    if theirs is not None:
        verdict = _verdict(row[passes] < theirs, missing + _missing(document, level=INFILL_LEVEL, agent=PLANNER))
        goal = f"fewer than {PLANNER}'s {theirs:.2f}"
        yield f"passes a decision of {named}", goal, ranged(passes, 2)(row), verdict


def _efficiency(document: Mapping[str, Any]) -> Iterator[Goal]:
    """The fewest recorded episodes, of all levels together, with which the planner solves a level."""
    variants = of_table(document, "variants")
    played = {key for row in variants for key in row if key.startswith(f"success_rate/{PLANNER}")}
    for level, published in PUBLISHED.items():
        name = f"success_rate/{PLANNER}, {level}"
        rows = [row for row in variants if name in row and "real_episodes" in row]
        solved = [row for row in rows if row[name] >= SOLVED]
        what = f"recorded episodes to {100 * SOLVED:g} % success of {PLANNER}, {level}"
        goal = f"at most {published // SHARE:,}"
        if solved:
            best = min(solved, key=lambda row: row["real_episodes"])
            said = f"{best['real_episodes']:,.0f}: {ranged(name)(best)}"
            enough = best["real_episodes"] <= published / SHARE
            yield what, goal, said, _verdict(enough, 0 if enough else _missing(document))
        elif rows:
            yield what, goal, "more than were tried", _verdict(False, _missing(document))
        elif played and not any(key.startswith(f"success_rate/{PLANNER}, ") for key in played):
            yield what, goal, "-", "not measured: success stands for all levels together"


def _policy(document: Mapping[str, Any]) -> Iterator[Goal]:
    """A policy trained in imagination alone, as it was measured at the end of its training."""
    plan, metrics = document["arguments"], document["metrics"]
    least = POLICIES.get(plan["level"])
    if plan["mode"] == "imagined" and least is not None:
        entry = metrics.get("sampled_success_rate", metrics["success_rate"])
        what = f"success of {plan['algo']} trained in imagination alone, {short(plan['level'])}"
        if plan.get("start") == "look_around":
            what += f", after {metrics['real_steps']['value']:,.0f} real steps of looking around"
        yield (
            what,
            f"at least {least:g}",
            f"{with_interval(entry)}, {entry['n']} episodes",
            _verdict(entry["value"] >= least),
        )


def _baselines(document: Mapping[str, Any]) -> Iterator[Goal]:
    """The any-order model beside the autoregressive one, query by query, where both are planned."""
    planned = document.get("arguments", {}).get("plan", {}).get("baselines")
    if planned is not None and not {"any-order", "autoregressive"} <= set(planned):
        return
    rows = of_table(document, "variants")
    ours, theirs = (first(rows, variant=name) for name in ("any-order", "autoregressive"))
    missing = sum(_missing(document, baseline=name) for name in ("any-order", "autoregressive"))
    for query, name in QUERIES.items():
        if name not in FORWARD and query.startswith("forward"):
            continue  # a part of the chain, or what a model from left to right cannot be asked
        mine, other = ours.get(name), theirs.get(name)
        sign = -1 if name.endswith("nll") else 1
        goal = f"{'no worse than' if name in FORWARD else 'better than'} {ranged(name)(theirs)}"
        if mine is None or other is None:
            who = "any-order" if mine is None else "autoregressive"
            verdict = f"not measured: {who} is not trained yet or cannot be asked"
        else:
            verdict = _verdict(sign * mine >= sign * other if name in FORWARD else sign * mine > sign * other, missing)
        yield f"any-order beside autoregressive, {query}", goal, ranged(name)(ours), verdict
