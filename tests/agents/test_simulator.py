"""The perfect simulator is perfect, and knows nothing it should not when hidden cells are hidden from it."""

import numpy as np
import pytest
import torch

from wmtoolkit.agents.level_copies import MARGIN
from wmtoolkit.agents.simulator import UNSEEN_CONFIDENCE, SimulatorWorldModel
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory

LEVELS = [
    "BabyAI-GoToLocal-v0",
    "BabyAI-PutNextLocal-v0",
    "BabyAI-UnlockPickup-v0",
    "BabyAI-BossLevel-v0",
    "BabyAI-KeyInBox-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-LavaGapS5-v0",
]


def started(level, seed=0, **options):
    env = make_level(level)
    history = Trajectory.start(reset_level(env, seed))
    return env, history, SimulatorWorldModel(env, **options)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_imagined_steps_equal_real_ones(level, seed):
    env, history, model = started(level, seed)
    state = model.rollout_state([history])
    for action in np.random.default_rng(seed).choice([0, 1, 2, 2, 2, 3, 4, 5, 6], 60):
        state = state.select([0, 0]).step([int(action), 0]).select([0])  # the twin lane must not disturb
        observation, reward, terminated, _, _ = env.step(int(action))
        np.testing.assert_array_equal(state.images[0], observation["image"])
        assert state.directions[0] == observation["direction"]
        expected = Outcome.CONTINUE if not terminated else Outcome.SUCCESS if reward > 0 else Outcome.FAILURE
        assert state.outcomes[0].argmax() == expected
        if terminated:
            break


def test_the_level_itself_is_never_touched():
    env, history, model = started("BabyAI-PutNextLocal-v0")
    before = (env.grid.encode().tobytes(), tuple(env.agent_pos), env.agent_dir, env.step_count)
    state = model.rollout_state([history])
    for action in (2, 2, 3, 0, 4, 5):
        state = state.step([action])
    assert before == (env.grid.encode().tobytes(), tuple(env.agent_pos), env.agent_dir, env.step_count)


def test_a_history_replays_and_a_foreign_one_is_refused():
    env, history, model = started("BabyAI-GoToLocal-v0", 3)
    model.rollout_state([history])
    for action in (1, 2, 0):
        history = history.extended(action, env.step(action)[0])
    state = model.rollout_state([history, history.prefix(1)])
    np.testing.assert_array_equal(state.images[0], env.gen_obs()["image"])
    np.testing.assert_array_equal(state.images[1], history.images[1])
    foreign = Trajectory.start(reset_level(make_level("BabyAI-GoToLocal-v0"), 4))
    with pytest.raises(UserError, match="not of the level's present episode"):
        model.rollout_state([foreign])


@pytest.mark.parametrize("knows_walls", [True, False])
def test_hidden_cells_are_imagined_empty_and_with_less_confidence(knows_walls):
    env, history, model = started("BabyAI-GoToLocal-v0", 900005, sees_hidden=False, knows_walls=knows_walls)
    state = model.rollout_state([history]).step([grid.RIGHT])
    truth = env.step(grid.RIGHT)[0]["image"]
    unsure = state.confidence[0] < 1
    assert unsure.any()
    assert (state.confidence[0][unsure] == np.float32(UNSEEN_CONFIDENCE)).all()
    shown = state.images[0][..., 0] != grid.UNSEEN
    assert (state.images[0][unsure & shown][:, 0] == grid.EMPTY).all()
    sure = ~unsure & shown
    np.testing.assert_array_equal(state.images[0][sure], truth[sure])
    assert (truth[unsure & shown][:, 0] != grid.EMPTY).any()  # there was something to hide


def test_objects_never_seen_do_not_end_the_mission():
    """Walk blindly in the hidden world wherever the real mission would succeed: only seen targets count."""
    for seed in range(50):
        env, history, _ = started("BabyAI-GoToRedBallGrey-v0", seed)
        ball = next(cell for cell in env.grid.grid if cell is not None and (cell.type, cell.color) == ("ball", "red"))
        if not env.in_view(*ball.cur_pos):
            break
    hidden = SimulatorWorldModel(env, sees_hidden=False).rollout_state([history])
    known = SimulatorWorldModel(env).rollout_state([history])
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(200):
        a, b = hidden, known
        for action in rng.integers(0, 3, 12):
            a, b = a.step([action]), b.step([action])
        reached += int(b.outcomes[0].argmax() == Outcome.SUCCESS)
        assert a.outcomes[0].argmax() != Outcome.SUCCESS
    assert reached


def test_memory_forgets_what_was_seen_too_long_ago():
    seed = 6
    env, history, model = started("BabyAI-GoToLocal-v0", seed, sees_hidden=False, memory=1)
    model.rollout_state([history])
    first = history.images[0]
    assert (first[..., 0] > grid.WALL).any()
    for action in (0, 0):
        history = history.extended(action, env.step(action)[0])
    remembered = model.rollout_state([history]).step([0]).step([0])
    assert (remembered.images[0][..., 0] > grid.WALL).sum() < (first[..., 0] > grid.WALL).sum()
    longer = SimulatorWorldModel(env, sees_hidden=False)
    reset_level(env, seed)
    longer.rollout_state([history.prefix(0)])
    back = longer.rollout_state([history]).step([0]).step([0])
    np.testing.assert_array_equal(back.images[0], first)


def test_select_and_cat_keep_lanes_apart():
    _, history, model = started("BabyAI-GoToLocal-v0")
    state = model.rollout_state([history]).select([0, 0, 0]).step([0, 1, 2])
    again = state.cat([state.select([2]), state.select([1, 0])])
    for new, old in enumerate([2, 1, 0]):
        np.testing.assert_array_equal(again.images[new], state.images[old])
        assert again.directions[new] == state.directions[old]
    assert len(again.step([0, 0, 0])) == len(again) == 3
    np.testing.assert_array_equal(state.directions, again.directions[::-1])


def test_the_bots_policy_leads_to_success():
    env, history, model = started("BabyAI-PickupLoc-v0", 7)
    for _ in range(64):
        probabilities = model.policy([history])
        assert probabilities.shape == (1, 7)
        assert probabilities.sum() == pytest.approx(1)
        action = int(probabilities[0].argmax())
        observation, reward, terminated, truncated, _ = env.step(action)
        history = history.extended(action, observation)
        if terminated or truncated:
            break
    assert reward > 0


def test_unknown_walls_leave_room_beyond():
    _, history, model = started("BabyAI-GoToObj-v0", 1, sees_hidden=False, knows_walls=False)
    state = model.rollout_state([history]).step([0]).step([0])
    moved = 0
    for _ in range(MARGIN):
        state = state.step([grid.FORWARD])
        moved += 1
    assert state.images[0][..., 0].max() <= grid.WALL or moved == MARGIN


def test_what_is_drawn_in_cells_never_seen_stays_there():
    _, history, model = started("BabyAI-GoToLocal-v0", 900005, sees_hidden=False)
    root = model.rollout_state([history]).select([0] * 40)
    generator = torch.Generator().manual_seed(0)
    drawn = root.step([grid.RIGHT] * 40, temperature=1.0, generator=generator)
    plain = root.step([grid.RIGHT] * 40)
    differs = (drawn.images != plain.images).any(-1)
    assert 0 < differs.any((1, 2)).sum() < 40 or differs.any()
    assert (plain.confidence[differs] < 1).all()
    assert np.isin(drawn.images[differs][:, 0], [5, 6, 7]).all()
    assert (drawn.confidence == 1).all()  # in this world that is how it is
    back = drawn.step([grid.LEFT] * 40).step([grid.RIGHT] * 40)
    np.testing.assert_array_equal(back.images, drawn.images)
    again = root.step([grid.RIGHT] * 40, temperature=1.0, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(again.images, drawn.images)
    np.testing.assert_array_equal(root.step([grid.RIGHT] * 40).images, plain.images)


def test_a_drawn_target_ends_the_mission():
    _, history, model = started("BabyAI-GoToRedBallGrey-v0", 900002, sees_hidden=False)
    state = model.rollout_state([history]).select([0] * 300)
    generator = torch.Generator().manual_seed(0)
    state = state.step([grid.LEFT] * 300, temperature=1.0, generator=generator)
    seen = np.flatnonzero(((state.images[..., 0] == 6) & (state.images[..., 1] == 0)).any((1, 2)))
    assert len(seen)
    lane = state.select(seen[:1])
    for _ in range(12):
        if lane.outcomes[0, Outcome.SUCCESS]:
            break
        lane = lane.step(lane.policy().argmax(1))
    assert lane.outcomes[0, Outcome.SUCCESS] == 1


def test_infilled_plans_of_the_right_length_succeed_and_are_surest():
    _, history, model = started("BabyAI-GoToLocal-v0", 900001)
    (plans,) = model.infill_plan([history], [1, 3, 5, 8, 12, 20])
    assert [len(plan.actions) for plan in plans] == [1, 3, 5, 8, 12, 20]
    state, needed = model.rollout_state([history]), 0
    while not state.outcomes[0, Outcome.SUCCESS]:
        state, needed = state.step(plans[-1].actions[needed : needed + 1]), needed + 1
    likelihoods = [-plan.action_log_prob for plan in plans]
    assert likelihoods == [abs(needed - horizon) for horizon in (1, 3, 5, 8, 12, 20)]
