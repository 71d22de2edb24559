"""Predicted probabilities of cells, and their picture."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import wmtoolkit  # noqa: F401 - registers the ids
from wmtoolkit.envs import ImaginationEnv, ImaginationVectorEnv, draw_probabilities
from wmtoolkit.envs.probabilities import certain
from wmtoolkit.world import grid

LEVEL = "BabyAI-GoToLocal-v0"
SHAPE = (7, 7, 11, 6, 4)


def _at(probabilities, images):
    """The probability of what views show."""
    return (probabilities * certain(images)).sum((-3, -2, -1))


def _likeliest(probabilities):
    flat = probabilities.reshape(*probabilities.shape[:-3], -1)
    return np.stack(np.unravel_index(flat.argmax(-1), SHAPE[2:]), -1)


def test_the_likeliest_cells_are_the_greedy_frame(world_model, episodes):
    state = world_model.rollout_state([episode.prefix(4) for episode in episodes[:3]])
    predicted = state.cell_probabilities([0, 2, 5])
    assert (predicted.shape, predicted.dtype) == ((3, *SHAPE), np.float32)
    np.testing.assert_allclose(predicted.sum((-3, -2, -1)), 1, atol=1e-5)
    following = state.step([0, 2, 5])
    np.testing.assert_array_equal(_likeliest(predicted), following.images)
    np.testing.assert_allclose(_at(predicted, following.images), following.confidence, atol=1e-5)


def test_drawn_cells_have_the_probabilities_they_were_drawn_with(world_model):
    env = ImaginationEnv(LEVEL, world_model, temperature=1.0)
    env.reset(seed=0)
    for action in (1, 2, 0):
        observation, *_, info = env.step(action)
        predicted = env.cell_probabilities()
        np.testing.assert_allclose(_at(predicted, observation["image"]), info["confidence"], atol=1e-5)
    assert (_likeliest(predicted) != observation["image"]).any()


def test_what_is_known_is_near_certain_and_what_is_new_is_not():
    """One turn of the packaged model: the half of the view it has seen before is sure to come again."""
    env = ImaginationEnv(LEVEL)
    first, _ = env.reset(seed=0)
    env.step(grid.RIGHT)
    back = env.step(grid.LEFT)[0]["image"]
    best = env.cell_probabilities().max((-3, -2, -1))
    np.testing.assert_array_equal(back, first["image"])
    assert best.min() > 0.9
    env.step(grid.RIGHT)
    env.step(grid.RIGHT)
    assert env.cell_probabilities().max((-3, -2, -1)).min() < 0.8


def test_a_first_view_is_as_it_is(world_model):
    for start in ("level", "dream"):
        env = ImaginationEnv(LEVEL, world_model, start)
        with pytest.raises(ResetNeeded, match="reset"):
            env.cell_probabilities()
        image = env.reset(seed=0)[0]["image"]
        np.testing.assert_array_equal(_likeliest(env.cell_probabilities()), image)
        assert set(np.unique(env.cell_probabilities())) == {0, 1}


@pytest.mark.parametrize("decoding_steps", [1, 3])
def test_lanes_are_asked_together(world_model, decoding_steps):
    options = {"level": LEVEL, "checkpoint": world_model, "decoding_steps": decoding_steps}
    env = gymnasium.make_vec("AnyOrderWM-BabyAI", num_envs=2, **options)
    alone = ImaginationEnv(**options)
    with pytest.raises(ResetNeeded, match="reset"):
        env.cell_probabilities()
    env.reset(seed=0)
    alone.reset(seed=1)
    for action in (2, 1):
        env.step([0, action])
        alone.step(action)
    np.testing.assert_allclose(env.cell_probabilities()[1], alone.cell_probabilities(), atol=1e-4)
    moment, said = env.save(), env.cell_probabilities()
    env.step([2, 2])
    assert np.abs(env.cell_probabilities() - said).max() > 0.01
    env.restore(moment)
    np.testing.assert_allclose(env.cell_probabilities(), said, atol=1e-6)


def test_lanes_that_have_just_begun_show_what_is(world_model):
    env = ImaginationVectorEnv(2, LEVEL, world_model, autoreset_mode="Disabled")
    env.reset(seed=0)
    env.step([1, 1])
    observations, _ = env.reset(options={"reset_mask": np.array([False, True])})
    predicted = env.cell_probabilities()
    assert predicted[0].max((-3, -2, -1)).min() < 0.999
    np.testing.assert_array_equal(predicted[1], certain(observations["image"])[1])


def test_the_picture_shows_sure_cells_whole_and_others_with_their_rivals():
    image = np.zeros((7, 7, 3), np.uint8)
    image[...] = grid.OBJECTS.index("wall"), grid.COLORS.index("grey"), 0
    probabilities = certain(image)
    whole = draw_probabilities(probabilities)
    assert (whole.shape, whole.dtype) == ((7 * 48, 7 * 48, 3), np.uint8)
    ball, red = grid.OBJECTS.index("ball"), grid.COLORS.index("red")
    probabilities[2, 4] *= 0.7
    probabilities[2, 4, ball, red, 0] = 0.3
    mixed = draw_probabilities(probabilities)
    changed = (mixed != whole).any(-1)
    tile = np.s_[4 * 48 : 5 * 48, 2 * 48 : 3 * 48]  # row 4, column 2 of the picture
    assert not np.delete(changed, np.s_[4 * 48 : 5 * 48], 0).any()
    assert not np.delete(changed, np.s_[2 * 48 : 3 * 48], 1).any()
    beside = mixed[tile][:16, 32:].reshape(-1, 3).astype(int)
    assert (beside[:, 0] > beside[:, 1] + 100).any()  # the red ball
    with pytest.raises(ValueError, match="multiple of 3"):
        draw_probabilities(probabilities, 32)
    with pytest.raises(ValueError, match="probabilities"):
        draw_probabilities(probabilities[0])
