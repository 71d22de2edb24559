"""The house: imports point one way, and importing the package is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "wmtoolkit"
# Each folder with what it may import of the project, besides itself.
ALLOWED = {
    "wmtoolkit/llada2": set(),
    "wmtoolkit/world": {"llada2"},
    "wmtoolkit/data": {"world"},
    "wmtoolkit/evaluation": {"world", "data"},
    "wmtoolkit/training": {"world", "data", "evaluation", "llada2"},
    "wmtoolkit/dfactory": {"world", "data", "llada2"},
    "envs": {"llada2", "world", "data", "evaluation", "training"},
    "agents": {"llada2", "world", "data", "evaluation", "training", "envs"},
    "benchmarks": {"llada2", "world", "data", "evaluation", "training", "envs", "agents"},
    "cli": {"llada2", "world", "data", "evaluation", "training", "dfactory", "envs", "agents", "benchmarks"},
}
EVERYWHERE = {"errors", "interrupts", "progress"}


def _imported(file: Path) -> set[str]:
    """First names below the package of everything a file imports; the bare root names as they are."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != PACKAGE else [f"{PACKAGE}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE and len(parts) > 1:
                found.add(parts[1])
            elif parts[0] in ("envs", "agents", "cli", "benchmarks"):
                found.add(f"bare {parts[0]}")
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder: str) -> None:
    own = folder.split("/")[-1]
    public = {"AnyOrderWorldModel", "Trajectory", "WorldTokenizer"} if "world" in ALLOWED[folder] | {own} else set()
    for file in (ROOT / folder).rglob("*.py"):
        wrong = _imported(file) - ALLOWED[folder] - EVERYWHERE - public - {own}
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("wmtoolkit", ("torch", "transformers", "minigrid", "stable_baselines3", "matplotlib", "accelerate")),
        ("wmtoolkit.training.runs", ("torch", "transformers", "accelerate")),  # a mistake in a config is told at once
    ],
)
def test_importing_is_cheap(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_load_on_first_use() -> None:
    import wmtoolkit

    assert wmtoolkit.Trajectory.__module__ == "wmtoolkit.world.trajectory"
    with pytest.raises(AttributeError, match="Nothing"):
        _ = wmtoolkit.Nothing
