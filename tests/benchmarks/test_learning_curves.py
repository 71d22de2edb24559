"""The report's section on trained policies: their curves by hand, and several runs in one figure."""

import json
from pathlib import Path

from wmtoolkit.benchmarks.report import sections
from wmtoolkit.benchmarks.reporting import policies
from wmtoolkit.benchmarks.reporting.reading import read_all
from wmtoolkit.evaluation.intervals import wilson


def test_learning_curves_by_hand(tmp_path: Path) -> None:
    plan = {"level": "BabyAI-GoToLocal-v0", "algo": "ppo", "mode": "imagined", "episodes": 64, "clone": 9}
    rows = [
        {
            "step": step,
            "success_rate": rate,
            "sampled_success_rate": drawn,
            "real_steps": step,
            "real_resets": step // 4,
        }
        | {"real_episodes": 0, "seconds": 2.0}
        for step, rate, drawn in ((0, 0.25, 0.5), (64, 0.5, 0.75))
    ]
    curve = policies._curve({"arguments": plan, "rows": rows}, "run")
    assert [row["success"] for row in curve] == [0.5, 0.75]
    assert (curve[1]["success_low"], curve[1]["success_high"]) == wilson(48, 64)
    assert (curve[1]["success_rate_low"], curve[1]["success_rate_high"]) == wilson(32, 64)
    (line,) = policies.policies([({"arguments": plan, "rows": rows}, "run")]).tables[0].lines
    assert line[:4] == ["run", "GoToLocal", "ppo", "imagined"]
    assert line[4].startswith("75.0 % (")
    assert line[6:10] == ["9", "64", "64", "16"]
    # Two runs share a section and a figure, and what cannot be shown is named beside them.
    document = {
        "schema": 1,
        "command": "train-policy",
        "command_line": "x",
        "metrics": {"success_rate": {"value": 0.5, "ci95": None, "n": 9}},
        "rows": rows,
        "arguments": plan,
    }
    for name, changed in (("a", {}), ("b", {}), ("odd", {"arguments": {}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({**document, **changed}))
    made = sections(read_all([tmp_path])[0])
    assert [section.title for section in made] == ["Goals", "train-policy: odd", "Policies"]
    assert [row[0] for row in made[2].tables[0].lines] == ["a", "b"]
    assert made[2].figures[0][0].count("imagined)") == 2
