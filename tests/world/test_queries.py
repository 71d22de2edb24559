"""The queries of the world model: nothing leaks, batches do not mix, caches change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.errors import UserError
from wmtoolkit.evaluation.prediction import model_predictions
from wmtoolkit.evaluation.transitions import all_steps
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.world import masks, windows
from wmtoolkit.world.batching import block_causal_batch
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.likelihood import target_log_probs
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.rollout import RolloutState
from wmtoolkit.world.tokenizer import ACTION, BEHAVIOUR, BLOCK, DIRECTION, FIRST_CELL, OUTCOME, Visibility
from wmtoolkit.world.trajectory import Outcome


def _histories(episodes: list[Trajectory]) -> list[Trajectory]:
    return [trajectory.prefix(min(len(trajectory), 3 + index)) for index, trajectory in enumerate(episodes)]


def _hidden_states(model: AnyOrderWorldModel, window: windows.Window, drawn: masks.Masks) -> torch.Tensor:
    bot = np.zeros(window.valid.shape, bool)
    batch = block_causal_batch(window, drawn, bot, model.network.world)
    with torch.inference_mode():
        return model.network(batch.tokens.tensors("cpu"), batch.attention("cpu"))[:, batch.first :]


@pytest.mark.parametrize("strategy", [name for name in masks.STRATEGIES if name != "fixed"])
def test_a_hidden_target_never_changes_what_the_network_computes(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory], strategy: str
) -> None:
    """The bound on the likelihood is honest: what is asked for is not given."""
    frames = windows.Frames.from_trajectories(episodes)
    episode = np.arange(len(episodes))
    start = np.minimum(4, frames.lengths - 2)
    drawn = masks.draw({strategy: 1.0}, (len(episodes), 1), np.random.default_rng(3))
    window = windows.cut(frames, episode, start, 2, world_model.network.world)
    states = _hidden_states(world_model, window, drawn)

    rng = np.random.default_rng(4)
    target = frames.offsets[episode] + start + 1
    images, directions = frames.images.copy(), np.array(frames.directions)
    actions, outcomes = np.array(frames.actions), np.array(frames.outcomes)
    for row, index in enumerate(target):
        hidden = ~drawn.cells[row, 0].reshape(7, 7, 3)
        other = np.stack([rng.integers(0, size, (7, 7)) for size in (11, 6, 3)], -1)
        images[index][hidden] = other[hidden]
        if not drawn.slots[row, 0, ACTION]:
            actions[index] = (actions[index] + 1) % 7
        if not drawn.slots[row, 0, DIRECTION]:
            directions[index] = (directions[index] + 1) % 4
        if not drawn.slots[row, 0, OUTCOME]:
            outcomes[index] = Outcome.SUCCESS if outcomes[index] != Outcome.SUCCESS else Outcome.CONTINUE
    # What follows the target is the future: it is changed as well.
    changed = windows.Frames._reckoned(
        images=images,
        directions=directions,
        actions=actions,
        outcomes=outcomes,
        offsets=frames.offsets,
        missions=frames.missions,
        behaviours=frames.behaviours,
        levels=frames.levels,
    )
    other_window = windows.cut(changed, episode, start, 2, world_model.network.world)
    assert (other_window.ids[:, 1] != window.ids[:, 1])[drawn.targets[:, 0]].any()
    torch.testing.assert_close(_hidden_states(world_model, other_window, drawn), states, rtol=0, atol=0)


def test_hidden_elements_do_not_reach_a_completion(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    trajectory = episodes[0].prefix(6)
    seen = Visibility.full(6)
    seen.images[3:5], seen.actions[2:4], seen.directions[4], seen.outcomes[4] = False, False, False, False
    spoiled = replace(
        trajectory,
        images=np.where(seen.images, trajectory.images, 2).astype(np.uint8),
        actions=np.where(seen.actions, trajectory.actions, 6),
        directions=np.where(seen.directions, trajectory.directions, 3),
    )
    first, second = world_model.complete([trajectory, spoiled], [seen, seen])
    assert first.trajectory == second.trajectory
    np.testing.assert_array_equal(first.confidence, second.confidence)
    np.testing.assert_array_equal(first.trajectory.images[seen.images], trajectory.images[seen.images])
    np.testing.assert_array_equal(first.trajectory.actions[seen.actions], trajectory.actions[seen.actions])
    assert (first.confidence[1:, FIRST_CELL:][seen.images.all(-1).reshape(7, 49)] == 1).all()


def test_lanes_do_not_depend_on_their_neighbours(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    histories = _histories(episodes)
    actions = np.arange(len(histories)) % 7
    together = world_model.predict(histories, actions)
    policy = world_model.policy(histories)
    for lane, history in enumerate(histories):
        alone = world_model.predict([history], actions[lane : lane + 1])
        np.testing.assert_array_equal(alone.images[0], together.images[lane])
        np.testing.assert_allclose(alone.log_prob[0], together.log_prob[lane], rtol=1e-4)
        np.testing.assert_allclose(world_model.policy([history])[0], policy[lane], atol=1e-5)


def test_sampling_in_a_lane_depends_on_its_own_generator(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    def generators(count: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(10 + lane) for lane in range(count)]

    histories = _histories(episodes)[:3]
    options = {"temperature": 1.0, "steps": 3}
    together = world_model.predict(histories, [0, 1, 2], generator=generators(3), **options)
    again = world_model.predict(histories, [0, 1, 2], generator=generators(3), **options)
    alone = world_model.predict(histories[:1], [0], generator=generators(1), **options)
    greedy = world_model.predict(histories, [0, 1, 2])
    np.testing.assert_array_equal(together.images, again.images)
    np.testing.assert_array_equal(together.images[0], alone.images[0])
    assert (together.images != greedy.images).any()


def test_a_cached_rollout_says_what_one_pass_over_the_past_says(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    frames = windows.Frames.from_trajectories(episodes)
    target = all_steps(frames)[:20]
    said = model_predictions(world_model, frames, target)
    episode = np.searchsorted(frames.offsets, target, side="right") - 1
    step = target - frames.offsets[episode] - 1
    histories = [episodes[owner].prefix(count) for owner, count in zip(episode, step, strict=True)]
    before = world_model.rollout_state(histories)
    np.testing.assert_allclose(before.policy(), said.actions, atol=1e-5)
    state = before.step(frames.actions[target])
    np.testing.assert_array_equal(world_model.tokenizer.cell_ids(state.images).reshape(-1, 49), said.cells)
    np.testing.assert_allclose(state.confidence.reshape(-1, 49), said.confidence, atol=1e-5)


def test_asking_for_the_policy_encodes_in_the_same_pass_what_the_next_step_needs(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    histories = [episode.prefix(9) for episode in episodes] * 3
    asked, silent = world_model.rollout_state(histories), world_model.rollout_state(histories)
    actions = np.arange(len(asked)) % 3
    before = world_model.forward_passes
    asked.policy()
    stepped = asked.step(actions)
    assert world_model.forward_passes - before == 2
    np.testing.assert_array_equal(stepped.images, silent.step(actions).images)
    np.testing.assert_allclose(stepped.log_prob, silent.step(actions).log_prob, rtol=1e-4)


def test_states_that_were_encoded_stay_so_in_company(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ask several states for the policy, lay them side by side, branch and step: nothing is encoded twice."""
    parts = [world_model.rollout_state([episode.prefix(count) for episode in episodes[:2]]) for count in (1, 9, 20)]
    fresh = RolloutState.cat(parts)
    policies = np.concatenate([part.policy() for part in parts])
    np.testing.assert_allclose(fresh.policy(), policies, atol=1e-5)
    joint = RolloutState.cat(parts)
    passes = []
    forward = world_model.network.forward
    monkeypatch.setattr(world_model.network, "forward", lambda *a, **k: (passes.append(1), forward(*a, **k))[1])
    rows, actions = np.array([0, 5, 5, 2, 3, 3, 1, 4]), np.array([0, 1, 2, 2, 0, 5, 2, 3])
    stepped = joint.select(rows).step(actions)
    assert len(passes) == 1
    alone = fresh.select(rows).step(actions)
    np.testing.assert_array_equal(stepped.images, alone.images)
    np.testing.assert_allclose(stepped.log_prob, alone.log_prob, rtol=1e-4)
    np.testing.assert_allclose(joint.select(rows).policy(), policies[rows], atol=1e-5)


def test_states_that_were_not_encoded_are_in_one_pass_beside_those_that_were(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    histories = [[episode.prefix(count) for episode in episodes[:3]] for count in (1, 9, 20, 4, 12)]
    parts, alone = ([world_model.rollout_state(some) for some in histories] for _ in range(2))
    for state in (parts[1], parts[3], *alone):
        state._encode_context()
    before = world_model.forward_passes
    joint, expected = RolloutState.cat(parts), RolloutState.cat(alone)
    assert world_model.forward_passes - before == 1
    actions = np.arange(len(joint)) % 7
    stepped, other = joint.step(actions), expected.step(actions)
    assert world_model.forward_passes - before == 3
    np.testing.assert_array_equal(stepped.images, other.images)
    np.testing.assert_allclose(stepped.log_prob, other.log_prob, rtol=1e-4)
    np.testing.assert_allclose(joint.policy(), expected.policy(), atol=1e-5)
    again = parts[4].step(actions[-3:])  # what was encoded is kept by each state
    assert world_model.forward_passes - before == 6
    np.testing.assert_array_equal(again.images, other.images[-3:])


def test_who_acts_is_known_to_the_policy_alone(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    histories = _histories(episodes)[:3]
    frames = windows.Frames.from_trajectories(histories)
    episode, start = np.arange(3), frames.lengths - 2
    drawn = masks.only("forward", (3, 1))
    states = []
    for behaviour in ("bot", "random"):
        window = windows.cut(frames, episode, start, 2, world_model.network.world)
        window.mission.ids[:, BEHAVIOUR] = world_model.tokenizer.mission_block("", behaviour)[BEHAVIOUR]
        states.append(_hidden_states(world_model, window, drawn))
    torch.testing.assert_close(states[0][:, :BLOCK], states[1][:, :BLOCK], rtol=0, atol=0)
    assert (states[0][:, BLOCK:] != states[1][:, BLOCK:]).any()


def test_branches_copies_and_order_do_not_change_a_lane(
    world_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    histories = _histories(episodes)[:4]
    state = world_model.rollout_state(histories).step([2, 0, 1, 3])
    branched = state.select([3, 1, 1, 0]).step([0, 1, 2, 2])
    straight = state.step([2, 1, 0, 0])
    np.testing.assert_array_equal(branched.images[[3, 1, 0]], straight.images[[0, 1, 3]])
    np.testing.assert_allclose(branched.total_log_prob[[3, 1, 0]], straight.total_log_prob[[0, 1, 3]], rtol=1e-4)
    replaced = state.replace([2], world_model.rollout_state(histories[:1]))
    assert (replaced.images[2] == histories[0].images[-1]).all()
    np.testing.assert_array_equal(replaced.step([2, 1, 0, 0]).images[[0, 1, 3]], straight.images[[0, 1, 3]])


@pytest.mark.parametrize(
    "world",
    [
        WorldConfig(egomotion=False, memory=0),
        WorldConfig(egomotion=False, memory=0, axes=False, slot_features=False, action_features=False,
                    compositional=False),
    ],
)  # fmt: skip
def test_every_option_of_the_front_end_can_be_off(world: WorldConfig, episodes: list[Trajectory], tiny: dict) -> None:
    model = AnyOrderWorldModel.create(LLaDA2MoeConfig(**tiny), world)
    histories = _histories(episodes)[:3]
    state = model.rollout_state(histories)
    for _ in range(world.recent + 1):
        state = state.step([0, 1, 2])
    assert np.isfinite(state.total_log_prob).all()
    assert np.isfinite(model.nll(histories)["nll_per_step"]).all()
    seen = [Visibility.full(len(history), visible=False) for history in histories]
    assert all(np.isfinite(item.log_prob) for item in model.complete(histories, seen, steps=2))


def test_the_free_part_ties_colour_and_state_to_the_object(tiny: dict) -> None:
    """Half a wall, which is grey, and half a red ball: no sum of rows says so, the free part does."""
    results = {}
    for residual in (False, True):
        torch.manual_seed(0)
        world = WorldConfig(residual=residual)
        network = WorldNetwork(WorldNetwork.fitted(LLaDA2MoeConfig(**tiny), world), world)
        wall, ball = (network.tokenizer.cell_ids(np.array(cell)) for cell in ((2, 5, 0), (6, 0, 0)))
        targets = network.completion_index(torch.tensor([int(wall), int(ball)]))
        state = torch.nn.functional.normalize(torch.randn(1, tiny["hidden_size"])) * 8
        masked = torch.tensor([network.tokenizer.masked_cell])
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(300):
            loss = -network.cell_logits(state, masked).log_softmax(-1)[0, targets].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results[residual] = loss.item()
    assert results[True] < np.log(2) + 0.1
    assert results[False] > 2 * np.log(2) - 0.1


def test_an_attribute_that_is_visible_stays(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    trajectory = episodes[1].prefix(2)
    seen = Visibility.full(2)
    seen.images[1, :, :, 1:] = False
    (done,) = world_model.complete([trajectory], [seen])
    np.testing.assert_array_equal(done.trajectory.images[1, ..., 0], trajectory.images[1, ..., 0])


def test_the_bound_averages_over_masks(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    found = world_model.nll(episodes[:2], samples=2, seed=1)
    parts = found["action"] + found["outcome"] + found["direction"] + found["cell"]
    np.testing.assert_allclose(parts, found["nll_per_step"])
    np.testing.assert_allclose(found["nll_per_step"] - found["action"], found["dynamics_per_step"])
    assert (found["standard_error"] > 0).all()
    same = world_model.nll(episodes[:2], samples=2, seed=1)
    np.testing.assert_array_equal(found["nll_per_step"], same["nll_per_step"])


def test_a_target_is_scored_by_its_own_probability(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    frames = windows.Frames.from_trajectories([replace(episodes[0], behaviour="bot")])
    window = windows.cut(frames, np.array([0]), np.array([2]), 2, world_model.network.world)
    scored = target_log_probs(world_model.network, window, masks.only("forward", (1, 1)))
    state = world_model.rollout_state([episodes[0].prefix(2)]).step([episodes[0].actions[2]])
    true = int(episodes[0].outcomes[3])
    assert scored[0, OUTCOME] == pytest.approx(float(np.log(state.outcomes[0, true])), abs=1e-4)
    assert scored[0, ACTION] == 0


def test_dreams_start_from_nothing_but_the_mission(world_model: AnyOrderWorldModel) -> None:
    def dream(seed: int) -> RolloutState:
        return world_model.dream(["go to the red ball"] * 2, generator=torch.Generator().manual_seed(seed))

    draw = [dream(0), dream(0), dream(1)]
    np.testing.assert_array_equal(draw[0].images, draw[1].images)
    assert (draw[0].images != draw[2].images).any()
    assert (draw[0].sampled_outcomes == Outcome.START).all()
    assert len(draw[0].step([2, 2])) == 2


def test_wrong_arguments_are_named(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    with pytest.raises(ValueError, match=r"integers in 0\.\.6"):
        world_model.predict(episodes[:2], [0, 7])
    with pytest.raises(UserError, match="its mask has"):
        world_model.complete(episodes[:1], [Visibility.full(2)])


def test_a_network_is_fitted_to_the_vocabulary(tiny: dict) -> None:
    config = WorldNetwork.fitted(LLaDA2MoeConfig(**tiny), WorldConfig())
    assert config.rope_axes == 3
    assert config.vocab_size > 420
