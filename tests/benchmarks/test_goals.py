"""The goals in the report: each with what is asked, what was measured and a verdict, by hand."""

from wmtoolkit.benchmarks.reporting.goals import goals


def _entry(value: float | None) -> dict[str, object]:
    return {"value": value, "ci95": None, "n": 9}


def _goals(command: str, rows: list[dict], metrics: dict | None = None, **more: object) -> dict[str, tuple[str, ...]]:
    """Goal, measured and verdict of each goal of a document, by what it is about."""
    section = goals([({"command": command, "arguments": {}, "metrics": metrics or {}, "rows": rows, **more}, "here")])
    lines = [] if section is None else section.tables[0].lines
    assert {line[4] for line in lines} <= {"here"}
    return {line[0]: tuple(line[1:4]) for line in lines}


def _holes(*units: dict) -> dict[str, object]:
    holes = [{"unit": unit, "missing": 3, "error": "not run yet"} for unit in units]
    return {"planned": 10, "missing": 3 * len(units), "holes": holes}


def test_goals_of_prediction_by_hand() -> None:
    metrics = {"outcome_f1": _entry(0.98), "ece": _entry(0.03)}
    found = _goals("evaluate", [], metrics)
    assert found["outcome F1"] == ("at least 0.98", "0.98000", "reached")
    assert found["calibration error of all cells"] == ("at most 0.02", "0.0300", "missed")
    assert found["changed cells"][2].startswith("not measured: ")
    found = _goals("bench prediction", [], metrics, units=_holes({"level": "a"}))
    assert found["outcome F1"][2] == "open: 3 units of work are missing"
    assert goals([({"command": "bench speed", "metrics": {}, "rows": []}, "speed")]) is None


def test_goals_of_success_by_hand() -> None:
    level = "BabyAI-GoToLocal-v0"
    played = [("bot", 1.0, 10.0, 1.0), ("best-first", 0.985, 12.0, 250.0)]
    names = ("agent", "success_rate", "mean_episode_length", "milliseconds_per_decision")
    rows = [{"table": "success", "level": level, "n": 9, **dict(zip(names, row, strict=True))} for row in played]
    success, taken, length = (
        f"{what} of best-first, GoToLocal{end}"
        for what, end in (("success", ""), ("ms a decision", ""), ("mean length", ", in the bot's"))
    )
    found = _goals("bench success", rows)
    assert found == {
        success: ("at least 0.99", "0.985", "missed"),
        taken: ("at most 200", "250", "missed"),
        length: ("at most 1.3", "1.20", "reached"),
    }
    # Whose episodes are missing says what is open; films and others' episodes do not matter.
    units = [{"level": level, "agent": "bot"}, {"level": level, "agent": "policy"}, {"film": "bot", "level": level}]
    found = _goals("bench success", rows, units=_holes(*units))
    assert [found[what][2] for what in (success, taken, length)] == [
        "missed", "missed", "open: 3 units of work are missing",
    ]  # fmt: skip
    nothing = _goals("bench success", [rows[0], {"table": "success", "level": level, "agent": "best-first", "n": 0}])
    assert nothing == {success: ("at least 0.99", "-", "not measured: no episode was played")}


def test_goals_of_fidelity_by_hand() -> None:
    (what,) = _goals("bench fidelity", [])
    for metrics, said in (
        ({"fidelity_pearson": _entry(0.96)}, ("0.960", "reached")),
        ({"fidelity_pearson": _entry(0.94)}, ("0.940", "missed")),
        ({"fidelity_pearson": _entry(None)}, ("-", "not measured: success is the same everywhere on one side")),
        ({}, ("-", "not measured: fewer than three agents and levels are played to the end")),
    ):
        assert _goals("bench fidelity", [], metrics)[what][1:] == said
    units = _holes({"level": "a", "agent": "policy"}, {"level": "a", "branches": 4})
    found = _goals("bench fidelity", [], {"fidelity_pearson": _entry(0.96)}, units=units)
    assert found[what][2] == "open: 3 units of work are missing"
    (looked,) = _goals("bench fidelity", [], arguments={"plan": {"start": "look_around"}})
    assert looked == f"{what}, after a look around"


def test_goals_of_robustness_by_hand() -> None:
    level = "BabyAI-GoToLocal-v0"
    kept = [
        {"table": "retention", "level": level, "belief": belief, "agent": agent, "retention_0.3": share}
        for belief, agent, share in (
            (False, "policy", 0.7), (True, "policy", 0.9), (False, "random", 1.0), (False, "bot", 1.0),
            (False, "cloning", 0.95), (False, "mcts", 0.99), (False, "idle", None),
        )
    ]  # fmt: skip
    hidden = {"table": "gain", "level": level, "agent": "policy", "knob": "cell_dropout", "strength": 0.3}
    gains = [
        {**hidden, "over": over, "success_difference": gain}
        for over, gain in (("itself, as seen", 0.2), ("cloning", 0.0), ("bot", -0.5))
    ] + [{**hidden, "strength": 0.5, "over": "itself, as seen", "success_difference": 0.1}]
    condition = {"table": "robustness", "level": level, "agent": "policy", "knob": "cell_dropout"}
    rates = [
        {**condition, "strength": strength, "belief": belief, "success_rate": rate}
        for strength, belief, rate in ((0.0, False, 0.5), (0.3, False, 0.35), (0.3, True, 0.45))
    ]
    baselines = [{"agent": agent, "label": ""} for agent in ("random", "bot", "cloning", "idle")]
    arguments = {"plan": {"baselines": baselines}}
    found = _goals("bench robustness", [*kept, *gains, *rates], arguments=arguments)
    # Above its own without, not above cloning's; who is blind keeps all, who never succeeds has nothing to keep, and
    # an agent of the plan that is no baseline does not count. At 30 % alone, and nobody is measured by the bot.
    value, unkept = (
        "0.900: 0.450 of 0.500",
        "not measured: idle never succeeds with a clear view, or episodes are missing",
    )
    assert found == {
        "success that policy keeps at 30 % hidden cells with belief completion, GoToLocal": (
            "at least 0.85", value, "reached"
        ),
        "the same, above its own without": ("above 0.700: 0.350 of 0.500", value, "reached"),
        "the same, above that of cloning": ("above 0.950", value, "missed"),
        "the same, above that of idle": ("above -", value, unkept),
        "difference of policy's success there to itself, as seen": ("above 0", "0.200", "reached"),
        "difference of policy's success there to cloning": ("above 0", "0.000", "missed"),
    }  # fmt: skip


def test_goals_of_baselines_by_hand() -> None:
    ours = {"known_cell_accuracy": 0.9, "known_frame_exact": 0.8, "chain_nll": 1.5, "outcome_f1": 0.7}
    ours |= {"action_accuracy": 0.8, "goal_accuracy": 0.6, "forward_nll": 1.4, "direction_accuracy": 0.1}
    theirs = {"known_cell_accuracy": 0.9, "known_frame_exact": 0.85, "chain_nll": 2.0, "outcome_f1": 0.7}
    theirs |= {"action_accuracy": 0.7, "belief_accuracy": 0.9, "direction_accuracy": 0.9}
    rows = [{"table": "variants", "variant": "any-order", **ours}]
    rows += [{"table": "variants", "variant": "autoregressive", **theirs}]
    found = {what.partition(", ")[2]: line for what, line in _goals("bench baselines", rows).items()}
    assert {query.partition(":")[0]: verdict.partition(":")[0] for query, (_, _, verdict) in found.items()} == {
        "forward": "reached", "outcome": "missed", "policy": "reached", "inverse": "not measured",
        "belief": "not measured", "goal": "not measured",
    }  # fmt: skip
    assert found["forward: known cells right"] == ("no worse than 0.900", "0.900", "reached")
    assert found["forward: known frames exact"] == ("no worse than 0.850", "0.800", "missed")
    assert found["forward: nats a step, token by token"] == ("no worse than 2.000", "1.500", "reached")
    assert len([query for query in found if query.startswith("forward")]) == 3
    assert _goals("bench baselines", rows, arguments={"plan": {"baselines": ["any-order"]}}) == {}
    found = _goals("bench baselines", rows, units=_holes({"baseline": "autoregressive"}, {"baseline": "cloning"}))
    assert {verdict.partition(":")[0] for _, _, verdict in found.values()} == {"open", "not measured"}


def test_goals_of_policies_infilling_and_few_episodes_by_hand() -> None:
    level = "BabyAI-GoToLocal-v0"
    plan = {"level": level, "algo": "ppo", "mode": "imagined"}
    metrics = {"success_rate": _entry(0.5), "sampled_success_rate": _entry(0.86), "real_steps": _entry(7272)}
    (looked,) = _goals("train-policy", [], metrics, arguments={**plan, "start": "look_around"})
    assert looked.endswith("alone, GoToLocal, after 7,272 real steps of looking around")
    (found,) = _goals("train-policy", [], metrics, arguments=plan).values()
    assert found[0] == "at least 0.85"
    assert found[2] == "reached"
    assert _goals("train-policy", [], metrics, arguments={**plan, "mode": "real"}) == {}
    rows = [
        {"table": "success", "level": level, "agent": agent, "n": 9, "success_rate": 1.0, "mean_episode_length": 5.0}
        | {"milliseconds_per_decision": 1.0, "forward_passes_per_decision": passes}
        for agent, passes in (("infill", 4.0), ("best-first", 4.5))
    ]
    found = _goals("bench success", rows)
    assert found["success of infill, GoToLocal"][2] == "reached"
    assert found["passes a decision of infill, GoToLocal"] == ("fewer than best-first's 4.50", "4.00", "reached")
    name = "success_rate/best-first, GoToRedBallGrey"
    rows = [
        {"table": "variants", "variant": str(episodes), "real_episodes": episodes, name: rate}
        for episodes, rate in ((2000, 1.0), (500, 0.995), (250, 0.98))
    ]
    (found,) = _goals("bench efficiency", rows).values()
    assert found == ("at most 300", "500: 0.995", "missed")
    units = _holes({"variant": "x"})
    (found,) = _goals("bench efficiency", rows, units=units).values()
    assert found[2] == "open: 3 units of work are missing"
    together = [{"table": "variants", "variant": "v", "real_episodes": 9, "success_rate/best-first": 1.0}]
    found = _goals("bench efficiency", together).values()
    assert [verdict for _, _, verdict in found] == 2 * ["not measured: success stands for all levels together"]
    rows[2][name] = 0.99
    assert (
        _goals("bench efficiency", rows)["recorded episodes to 99 % success of best-first, GoToRedBallGrey"][2]
        == "reached"
    )
