"""Episodes are counted right, paired by seed, filmed, and survive an agent that raises."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wmtoolkit.agents import SimulatorWorldModel, make_agent
from wmtoolkit.benchmarks.plans import AgentSpec
from wmtoolkit.benchmarks.play import Condition, Player
from wmtoolkit.benchmarks.rollouts import rollout, run_episodes, saved_hash, summarise, summary_text
from wmtoolkit.cli.main import main
from wmtoolkit.envs.observability import PartialObservability
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.intervals import wilson

LEVEL = "BabyAI-GoToRedBallGrey-v0"


def planner(env):
    return make_agent("best-first", world_model=SimulatorWorldModel(env, sees_hidden=False))


def test_the_bot_always_wins_and_random_does_not():
    bot = run_episodes("bot", LEVEL, range(20))
    chance = run_episodes("random", LEVEL, range(20))
    assert [result.seed for result in bot] == [result.seed for result in chance] == list(range(20))
    assert all(result.success and result.episode_return > 0 for result in bot)
    assert all(result.decisions == result.length for result in bot)
    assert sum(result.success for result in chance) < 12
    for result in bot:
        assert result.episode_return == pytest.approx(1 - 0.9 * result.length / 64)
    assert run_episodes("random", LEVEL, [7])[0].length == chance[7].length  # an episode depends on its seed alone


def test_an_agent_that_raises_loses_that_episode_only():
    class Fragile:
        diagnostics = {}  # noqa: RUF012

        def reset(self, seed):
            self.seed, self.steps = seed, 0

        def act(self, observation):
            self.steps += 1
            if self.seed == 2 and self.steps == 3:
                raise ValueError("broken wheel")
            return 0

    results = run_episodes(lambda env: Fragile(), LEVEL, range(5))
    assert [result.error for result in results] == [None, None, "ValueError: broken wheel", None, None]
    assert (results[2].length, results[2].decisions, results[2].success) == (2, 3, False)
    assert results[3].length == 64
    assert summarise(results)["errors"]["value"] == 1


def test_a_level_that_raises_loses_that_episode_only(monkeypatch, tmp_path):
    class Idle:
        def reset(self, seed):
            pass

        def act(self, observation):
            return 0

    reset = PartialObservability.reset

    def breaks(self, *, seed=None, options=None):
        if seed == 2:
            raise OSError("no room")
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(PartialObservability, "reset", breaks)
    results = run_episodes(lambda env: Idle(), LEVEL, range(4), mask_ratio=0.1)
    assert [result.error for result in results] == [None, None, "the level raised OSError: no room", None]
    assert [result.length for result in results] == [64, 64, 0, 64]
    assert summarise(results)["errors"]["value"] == 1
    with pytest.raises(OSError, match="no room"):  # nothing is lost yet
        run_episodes(lambda env: Idle(), LEVEL, [2, 3], mask_ratio=0.1)
    # Nor where that episode was to be shown, and nothing is there to be shown.
    places = {"video": tmp_path / "film.gif", "explain": tmp_path / "explained", "video_seed": 2}
    results = run_episodes(lambda env: Idle(), LEVEL, [1, 2], mask_ratio=0.1, **places)
    assert [result.length for result in results] == [64, 0]
    assert not list(tmp_path.iterdir())


def test_a_video_that_cannot_be_written_is_told_before_any_episode(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.gif or \.mp4"):
        run_episodes(lambda env: pytest.fail("an agent was made"), LEVEL, [1], video=tmp_path / "film.avi")


def test_episodes_outlive_pictures_that_cannot_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    film = tmp_path / "file" / "film.gif"
    results = run_episodes(planner, LEVEL, range(900_000, 900_003), video=film, video_seed=900_001)
    assert [result.success for result in results] == [True, True, True]
    assert "the pictures of seed 900001 could not be written" in caplog.text
    with pytest.raises(OSError, match="file"):  # nothing is lost yet
        run_episodes(planner, LEVEL, range(900_000, 900_003), video=film)


def test_the_metrics_are_those_of_the_episodes():
    results = run_episodes(planner, LEVEL, range(900_000, 900_010))
    metrics = summarise(results)
    assert metrics["success_rate"] == {"value": 1.0, "ci95": list(wilson(10, 10)), "n": 10}
    lengths = [result.length for result in results]
    assert metrics["mean_episode_length"]["value"] == pytest.approx(np.mean(lengths))
    low, high = metrics["mean_episode_length"]["ci95"]
    assert min(lengths) <= low < np.mean(lengths) < high <= max(lengths)
    passes = sum(result.forward_passes for result in results)
    assert passes > 0
    assert metrics["forward_passes_per_decision"]["value"] == pytest.approx(passes / sum(lengths))
    assert summarise(results) == metrics


def test_the_film_shows_every_step(tmp_path):
    path = tmp_path / "films" / "episode.gif"
    results = run_episodes(planner, LEVEL, [900_001, 900_002], video=path, video_seed=900_002)
    with Image.open(path) as film:
        # One picture a decision, and one of the end, which stays longer.
        assert film.n_frames == results[1].length + 1
        wide = film.size
    run_episodes("bot", LEVEL, [900_002], video=path)
    with Image.open(path) as film:
        assert film.size[0] < wide[0]  # the bot imagines nothing to be shown beside
    with pytest.raises(UserError, match="video's seed"):
        run_episodes("bot", LEVEL, [1], video=path, video_seed=2)


def test_imagined_episodes_take_place_in_the_model(world_model, tmp_path):
    results = run_episodes(
        "policy", "BabyAI-GoToLocalS5N2-v0", [0, 1], world_model=world_model, imagined=True, video=tmp_path / "a.gif"
    )
    assert all(result.error is None and 1 <= result.length <= 25 for result in results)
    assert (tmp_path / "a.gif").stat().st_size > 1000
    with pytest.raises(UserError, match="needs a world model"):
        run_episodes("random", LEVEL, [0], imagined=True)


class _Raises:
    """Goes left, and raises in its third decision of seeds below 5."""

    diagnostics = {"forward_passes": 1}  # noqa: RUF012

    def __init__(self, error):
        self.error = error

    def reset(self, seed):
        self.seed, self.count = seed, 0

    def act(self, observation):
        self.count += 1
        if self.count == 3 and self.seed < 5:
            raise self.error
        return 0


def test_episodes_in_which_the_agent_raised_have_no_length():
    results = run_episodes(lambda env: _Raises(RuntimeError("lost")), LEVEL, [4, 5])
    assert [(r.length, r.decisions, r.forward_passes, r.error) for r in results] == [
        (2, 3, 2, "RuntimeError: lost"),
        (64, 64, 64, None),
    ]
    metrics = summarise(results)
    assert metrics["mean_episode_length"] == {"value": 64.0, "ci95": [64.0, 64.0], "n": 1}
    assert metrics["mean_return"]["n"] == 2
    none = summarise(results[:1])
    assert none["mean_episode_length"] == {"value": None, "ci95": None, "n": 0}
    said = summary_text("a", LEVEL, False, none, results[:1])
    assert "no episode came to its end" in said
    assert "first in that of seed 4: RuntimeError: lost" in said


def test_a_callers_mistake_is_no_failure_of_the_agent(world_model):
    with pytest.raises(UserError, match="no such horizon"):
        run_episodes(lambda env: _Raises(UserError("no such horizon")), LEVEL, [4, 5])
    later = run_episodes(lambda env: _Raises(UserError("lost")), LEVEL, [5, 4])
    assert [r.error for r in later] == [None, "UserError: lost"]
    for options, said in (({"mask_ratio": 0.3}, "--mask-ratio"), ({"imagined": True}, "--imagined")):
        with pytest.raises(UserError, match=said):
            run_episodes("perfect:beam", LEVEL, [0], world_model=world_model, **options)


def test_a_saved_agent_is_known_by_what_is_in_its_file(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "policy.json").write_text("{}")
    first = saved_hash(f"sb3:{tmp_path}")
    assert first == saved_hash(f"sb3:{tmp_path / 'policy'}")
    (tmp_path / "policy" / "policy.json").write_text("{ }")
    assert saved_hash(f"sb3:{tmp_path}") != first
    assert saved_hash("sb3:nowhere") is None
    condition = Condition(LEVEL, AgentSpec(f"sb3:{tmp_path}"))
    assert Player().unit(condition, 0)["file"] == saved_hash(f"sb3:{tmp_path}")


def test_masked_cells_reach_the_agent_as_unseen():
    shares = []

    class Watcher:
        diagnostics = {}  # noqa: RUF012

        def reset(self, seed):
            pass

        def act(self, observation):
            shares.append((observation["image"][..., 0] == 0).mean())
            return 0

    run_episodes(lambda env: Watcher(), LEVEL, [0])
    clear = np.mean(shares)
    shares.clear()
    run_episodes(lambda env: Watcher(), LEVEL, [0], mask_ratio=0.5)
    assert np.mean(shares) == pytest.approx(1 - 0.5 * (1 - clear), abs=0.05)
    with pytest.raises(UserError, match="mask ratio"):
        run_episodes("random", LEVEL, [0], mask_ratio=2)
    with pytest.raises(UserError, match="needs --imagined"):
        run_episodes("random", LEVEL, [0], start="look_around")


def test_rollout_writes_a_complete_document(tmp_path, checkpoint):
    document = rollout(
        agent="best-first",
        level="BabyAI-GoToLocalS5N2-v0",
        checkpoint=checkpoint,
        episodes=2,
        seed=5,
        settings=["max_nodes=6", "actions=moves"],
        out=tmp_path,
    )
    written = json.loads((tmp_path / "results.json").read_text())
    assert written == {key: value for key, value in document.items() if key != "text"}
    assert written["checkpoint"]["path"] == str(checkpoint)
    assert len(written["checkpoint"]["sha256"]) == 64
    assert [row["seed"] for row in written["rows"]] == [5, 6]
    assert written["arguments"]["settings"] == ["max_nodes=6", "actions=moves"]
    assert "2 episodes" in document["text"]


def wmtool(*arguments):
    return subprocess.run(
        [sys.executable, "-P", "-m", "wmtoolkit.cli", "rollout", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_the_command_prints_one_json_document(tmp_path):
    out = tmp_path / "results"
    done = wmtool("--agent", "bot", "--level", LEVEL, "--episodes", 3, "--seed", 11, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["metrics"]["success_rate"]["value"] == 1
    assert document["metrics"] == json.loads((out / "results.json").read_text())["metrics"]
    again = wmtool("--agent", "bot", "--level", LEVEL, "--episodes", 3, "--out", out)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agent", "bott"], "known agents: random, bot"),
        (["--agent", "bot", "--level", "BabyAI-GoToNowhere-v0"], "unknown level"),
        (["--agent", "bot", "--set", "speed"], "key=value"),
        (["--agent", "policy", "--checkpoint", "/nowhere"], "no checkpoint folder"),
        (["--agent", "sb3:some.zip", "--set", "trust=False"], "trust is true or false"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, said):
    done = CliRunner().invoke(main, ["rollout", *arguments])
    assert done.exit_code == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
