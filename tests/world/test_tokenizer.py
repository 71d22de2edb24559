"""Round trips of the tokenizer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtoolkit import Trajectory, WorldTokenizer
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.tokenizer import ATTRIBUTES, BLOCK, MAX_WORDS, Visibility
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome, mission_text, mission_words

TOKENIZER = WorldTokenizer()


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    steps = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    terminated = draw(st.booleans()) and steps > 0
    rewarded = draw(st.booleans())
    terminations, rewards = np.zeros(steps, bool), np.zeros(steps, np.float32)
    if terminated:
        terminations[-1], rewards[-1] = True, float(rewarded)
    return Trajectory(
        mission=mission_text(list(rng.choice([word for word in grid.WORDS if word != ","], rng.integers(1, 12)))),
        images=np.stack([rng.integers(0, size, (steps + 1, 7, 7)) for size in ATTRIBUTES], -1).astype(np.uint8),
        directions=rng.integers(0, 4, steps + 1),
        actions=rng.integers(0, 7, steps),
        rewards=rewards,
        terminations=terminations,
        truncations=np.zeros(steps, bool),
        behaviour=str(rng.choice(BEHAVIOURS)),
    ).validate()


@given(trajectories())
@settings(max_examples=60, deadline=None)
def test_decoding_gives_back_the_trajectory(trajectory: Trajectory) -> None:
    ids = TOKENIZER.encode(trajectory)
    assert ids.shape == (len(trajectory) + 2, BLOCK)
    decoded, visible = TOKENIZER.decode(ids)
    assert decoded == trajectory
    assert visible.images.all()
    assert visible.mission.all()


@given(trajectories(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_what_is_visible_survives_and_nothing_else(trajectory: Trajectory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = Visibility.full(len(trajectory))
    for mask in (seen.images, seen.directions, seen.outcomes, seen.actions):
        mask[:] = rng.random(mask.shape) < rng.random()
    ids = TOKENIZER.encode(trajectory, seen)
    decoded, visible = TOKENIZER.decode(ids)
    np.testing.assert_array_equal(visible.images, seen.images)
    np.testing.assert_array_equal(visible.actions, seen.actions)
    np.testing.assert_array_equal(visible.directions, seen.directions)
    np.testing.assert_array_equal(visible.outcomes, seen.outcomes)
    np.testing.assert_array_equal(decoded.images[seen.images], trajectory.images[seen.images])
    np.testing.assert_array_equal(decoded.actions[seen.actions], trajectory.actions[seen.actions])
    # The hidden part leaves no trace: another hidden content gives the same ids.
    other = trajectory.images.copy()
    other[~seen.images] = 0
    changed = Trajectory(**{**trajectory.__dict__, "images": other})
    np.testing.assert_array_equal(TOKENIZER.encode(changed, seen), ids)


def test_each_cell_has_its_own_id() -> None:
    cells = np.stack(np.meshgrid(*(np.arange(size + 1) for size in ATTRIBUTES), indexing="ij"), -1).reshape(-1, 3)
    ids = TOKENIZER.cell_ids(cells)
    assert sorted(ids) == list(TOKENIZER.cells)
    assert len(TOKENIZER.cells) == 420
    np.testing.assert_array_equal(TOKENIZER.cell_attributes(ids), cells)
    assert TOKENIZER.names[TOKENIZER.masked_cell] == "? ? ?"


def test_success_is_rewarded_by_minigrids_formula(episodes: list[Trajectory]) -> None:
    trajectory = episodes[0].prefix(5)
    ids = TOKENIZER.encode(trajectory)
    ids[-1, 1] = TOKENIZER.outcomes.start + Outcome.SUCCESS
    decoded, _ = TOKENIZER.decode(ids, max_steps=64)
    assert decoded.success
    assert decoded.rewards[-1] == pytest.approx(1 - 0.9 * 5 / 64)


def test_missions_keep_their_commas() -> None:
    mission = "put the red ball next to a grey box, then go to the door on your left"
    assert mission_text(mission_words(mission)) == mission


def test_unknown_and_too_many_words_are_named() -> None:
    with pytest.raises(UserError, match="flummox"):
        TOKENIZER.mission_block("flummox the red ball", "bot")
    with pytest.raises(UserError, match=str(MAX_WORDS)):
        TOKENIZER.mission_block("go " * (MAX_WORDS + 1), "bot")


def test_real_episodes_survive(episodes: list[Trajectory]) -> None:
    for trajectory in episodes:
        decoded, _ = TOKENIZER.decode(TOKENIZER.encode(trajectory))
        np.testing.assert_array_equal(decoded.images, trajectory.images)
        np.testing.assert_array_equal(decoded.outcomes, trajectory.outcomes)
        assert decoded.mission == trajectory.mission
