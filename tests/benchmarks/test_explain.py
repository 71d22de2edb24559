"""``wmtool rollout --explain``: a page that stands alone and says of each decision what was imagined and seen."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from wmtoolkit.agents import SimulatorWorldModel, make_agent
from wmtoolkit.benchmarks.explain import _aim, differences, spelled
from wmtoolkit.benchmarks.rollouts import run_episodes
from wmtoolkit.world import grid

LEVEL = "BabyAI-GoToLocal-v0"


class Page(HTMLParser):
    """Counts tags, and keeps the sources of all that a page would load and the text of it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [
            value for name, value in attributes if name in ("src", "data") or (name, tag) == ("href", "link")
        ]

    def handle_data(self, data):
        self.text += data


def explained(agent, folder, seed=900_003):
    result = run_episodes(agent, LEVEL, [seed], explain=folder)[0]
    return result, Page(folder / "index.html")


def test_a_planners_page_shows_every_decision_and_stands_alone(tmp_path):
    def planner(env):
        return make_agent("best-first", world_model=SimulatorWorldModel(env, sees_hidden=False))

    result, page = explained(planner, tmp_path / "page")
    assert page.tags.count("section") == result.length + 1  # each decision, and what the last one led to
    assert page.tags.count("svg") >= 1
    assert page.loads
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert "first observation" in page.text
    assert "success" in page.text
    html = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<tr class="followed"><td>', html)
    assert re.search(r"— to a goal, P\(success\) \d", html)
    with Image.open(tmp_path / "page" / "episode.gif") as film:
        assert film.n_frames == result.length + 1


def test_a_search_that_goes_on_has_the_colour_of_a_new_plan(tmp_path):
    def hasty(env):
        world_model = SimulatorWorldModel(env, sees_hidden=False)
        return make_agent("best-first", world_model=world_model, max_forward_passes=4, max_milliseconds=60_000)

    explained(hasty, tmp_path, seed=900_001)
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<a class="as-imagined[^"]*cut-short" href', html)
    assert (
        "nav a.plan-finished, nav a.another-way-shows-more, nav a[class$=cut-short] { background: var(--plan)" in html
    )


def test_what_was_not_as_imagined_is_named(tmp_path):
    """A simulator that does not know what is hidden must be surprised by a room's other half."""

    def planner(env):
        return make_agent("best-first", world_model=SimulatorWorldModel(env, sees_hidden=False))

    pages = [explained(planner, tmp_path / str(seed), seed)[1].text for seed in range(900_000, 900_006)]
    surprised = [text for text in pages if "not as imagined" in text]
    assert surprised
    assert any(re.search(r"imagined .*, saw a ", text) for text in surprised)


def test_differences_are_told_nearest_first():
    imagined = np.zeros((7, 7, 3), np.uint8)
    real = imagined.copy()
    assert differences(imagined, real) == []
    real[0, 0] = (grid.WALL, 5, 0)
    real[3, 5] = (grid.OBJECTS.index("ball"), 0, 0)
    real[4, 6] = (grid.DOOR, 2, 2)
    assert differences(imagined, real) == [
        "1 ahead: imagined nothing (hidden), saw a red ball",
        "1 to the right: imagined nothing (hidden), saw a blue door (locked)",
        "6 ahead, 3 to the left: imagined nothing (hidden), saw a wall",
    ]
    assert differences(imagined, np.ones_like(imagined))[-1] == "and 45 more cells"
    assert spelled([0, 1, 2, 3, 6]) == "↶ ↷ ↑ pick up done"


@pytest.mark.parametrize("agent", ["policy", "best-first", "mcts", "infill"])
def test_every_kind_of_agent_is_explained(agent, world_model, tmp_path):
    budget = {} if agent == "policy" else {"max_nodes": 6, "max_forward_passes": 4}
    options = {"world_model": world_model, "budget": budget, "explain": tmp_path}
    result = run_episodes(agent, "BabyAI-GoToObjS4-v0", [5], **options)[0]
    page = Page(tmp_path / "index.html")
    assert result.error is None
    assert page.tags.count("section") == result.decisions + 1
    assert f"{agent} in BabyAI-GoToObjS4-v0, seed 5" in page.text
    if agent == "policy":
        assert page.tags.count("tr") == 8 * result.decisions  # a head, and each action with its probability
    else:
        assert "what it had imagined to see" in page.text
        assert "P(success)" in page.text


def test_the_command_explains_the_episode_asked_for(checkpoint, tmp_path):
    folder = tmp_path / "why"
    arguments = ["--agent", "policy", "--level", "BabyAI-GoToObjS4-v0", "--checkpoint", checkpoint, "--episodes", 2]
    arguments += ["--video-episode", 1, "--seed", 5, "--explain", folder, "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "wmtoolkit.cli", "rollout", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    page = Page(folder / "index.html")
    assert page.tags.count("section") == json.loads(done.stdout)["rows"][1]["decisions"] + 1
    assert "policy in BabyAI-GoToObjS4-v0, seed 6" in page.text
    assert (folder / "episode.gif").stat().st_size > 1000


def test_an_agent_that_raises_is_explained_up_to_there(tmp_path):
    class Fragile:
        diagnostics = {}  # noqa: RUF012

        def reset(self, seed):
            self.steps = 0

        def act(self, observation):
            self.steps += 1
            if self.steps == 3:
                raise ValueError("broken wheel")
            return 0

    _, page = explained(lambda env: Fragile(), tmp_path)
    assert page.tags.count("section") == 3
    assert "the agent raised" in page.text


def test_the_templates_are_part_of_the_package():
    from importlib.resources import files

    assert {"explain.html", "report.html"} <= {
        entry.name for entry in files("wmtoolkit.benchmarks").joinpath("templates").iterdir()
    }


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({}, None),
        ({"goal": False}, "to see more, no goal in sight"),
        ({"goal": True}, "to a goal, P(success) 0.75"),
        ({"goal": True, "kept": True}, "to a goal, kept though it is not in sight now, P(success) 0.75"),
        ({"goal": True, "guess": True}, "a guess, with no goal in sight, P(success) 0.75"),
        ({"goal": True, "guess": False}, "to a goal, P(success) 0.75"),
        ({"goal": True, "planned": True}, "to a goal that a filled-in plan leads to, P(success) 0.75"),
        ({"goal": True, "planned": False}, "to a goal met by imagining outwards, P(success) 0.75"),
    ],
)
def test_what_a_plan_is_for_is_told(now, said):
    assert _aim({**now, "success_probability": 0.75}) == said
