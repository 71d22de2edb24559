"""The report: made of real results, self-contained, and clear about what it cannot read."""

import json
from pathlib import Path

import pytest

from wmtoolkit.benchmarks.report import compare
from wmtoolkit.benchmarks.rollouts import rollout
from wmtoolkit.data import collect
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.evaluate import evaluate

LEVEL = "BabyAI-GoToRedBallGrey-v0"


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An evaluation, and rollouts of two agents with a film, of the tiny model."""
    root = tmp_path_factory.mktemp("results")
    data = str(collect(LEVEL, 60, out=root / "data"))
    evaluate(checkpoint, [data], samples=40, out=root / "evaluate")
    rollout(agent="random", level=LEVEL, episodes=2, seed=900_000, out=root / "random")
    rollout(
        agent="policy", level=LEVEL, checkpoint=checkpoint, episodes=1, seed=900_000, out=root / "policy",
        video=root / "policy" / "episode.gif",
    )  # fmt: skip
    return [root / "evaluate", root / "random", root / "policy"]


def test_the_page_stands_alone(folders: list[Path], tmp_path: Path) -> None:
    compare(folders, tmp_path / "report.html", title="A <title>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A &lt;title&gt;" in page
    assert "data:image/gif;base64," in page
    assert "<svg" in page
    for outside in ('src="http', 'href="http', "@import", "<script"):
        assert outside not in page
    results = json.loads((folders[0] / "results.json").read_text())
    assert f"{results['metrics']['known_cell_accuracy']['value']:.4f}" in page
    assert results["checkpoint"]["sha256"] in page


def test_markdown_and_csv_hold_a_row_a_result(folders: list[Path], tmp_path: Path) -> None:
    found = compare(folders)
    assert [row["kind"] for row in found["rows"]] == ["evaluate", "rollout", "rollout"]
    assert found["text"].count("### ") == 2
    compare(folders, tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 4


def test_unreadable_folders_are_named(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"neither results\.json nor"):
        compare([tmp_path])
    (tmp_path / "results.json").write_text('{"schema": 1, "comm')
    with pytest.raises(UserError, match="cut off"):
        compare([tmp_path])
    (tmp_path / "results.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="another schema"):
        compare([tmp_path])
    with pytest.raises(UserError, match=r"\.html, \.md, \.csv"):
        compare(folders, tmp_path / "report.pdf")
