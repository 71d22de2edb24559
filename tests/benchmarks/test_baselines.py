"""Baselines: what they must not see, what they compute, and that all are measured alike."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.benchmarks.baselines import acting, autoregressive, convolutional, fitting, measure
from wmtoolkit.benchmarks.fresh import fresh_data
from wmtoolkit.benchmarks.rollouts import run_episode
from wmtoolkit.benchmarks.suites import run_suite
from wmtoolkit.envs.real import make_real_env
from wmtoolkit.evaluation.held_out import held_out_frames
from wmtoolkit.evaluation.prediction import StepPredictions
from wmtoolkit.evaluation.transitions import all_steps, transitions
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.training.config import LossConfig, load_config
from wmtoolkit.world import windows
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.tokenizer import ACTION, BLOCK, DIRECTION, FIRST_CELL, OUTCOME

LEVEL = "BabyAI-GoToLocalS5N2-v0"


@pytest.fixture
def network(tiny: dict) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        world = WorldConfig(mission_features=True, expectation=True)
        return AnyOrderWorldModel.create(LLaDA2MoeConfig(**tiny, initializer_range=0.2), world).network


def _frames(*trajectories: Trajectory) -> windows.Frames:
    return windows.Frames.from_trajectories(trajectories)


def _altered(trajectory: Trajectory, step: int) -> Trajectory:
    """The same past, and another future from the frame that ``step`` leads to, the action but for that step's."""
    images, directions, actions = (getattr(trajectory, name).copy() for name in ("images", "directions", "actions"))
    images[step + 1 :] = np.flip(images[step + 1 :], axis=(1, 2))
    directions[step + 1 :] = (directions[step + 1 :] + 1) % 4
    actions[step + 1 :] = (actions[step + 1 :] + 1) % 7
    return replace(trajectory, images=images, directions=directions, actions=actions)


def test_left_to_right_sees_nothing_to_the_right(network, episodes) -> None:
    step = 6
    said = []
    for episode in (episodes[0], _altered(episodes[0], step)):
        frames = _frames(episode)
        said.append(autoregressive.continued(network, frames, np.array([step + 1])))
    true, altered = said
    np.testing.assert_array_equal(true.cells, altered.cells)
    np.testing.assert_array_equal(true.headings, altered.headings)
    np.testing.assert_array_equal(true.outcomes, altered.outcomes)
    # One pass over the truth: each token is scored before it is seen, so up to the first difference nothing changes.
    other = replace(episodes[0], images=episodes[0].images.copy())
    other.images[step + 1, 6, 6] = (8, 1, 0)
    again = autoregressive.continued(network, _frames(other), np.array([step + 1]))
    np.testing.assert_allclose(true.log_probs[:, :-1], again.log_probs[:, :-1], atol=1e-5)
    assert true.log_probs[0, -1] != pytest.approx(again.log_probs[0, -1])
    # And the policy knows nothing of the action that was taken.
    acted = replace(episodes[0], actions=episodes[0].actions.copy())
    acted.actions[step] = (acted.actions[step] + 1) % 7
    policies = [
        autoregressive.policy(network, _frames(episode), np.array([step + 1]))
        for episode in (episodes[0], _altered(episodes[0], step), acted)
    ]
    np.testing.assert_allclose(policies[1], policies[0], atol=1e-6)
    np.testing.assert_allclose(policies[2], policies[0], atol=1e-6)


def test_telling_token_by_token_equals_one_pass(network, episodes) -> None:
    frames = _frames(*episodes[:3])
    target = all_steps(frames)[::9]
    window = autoregressive._pair(network, frames, target)
    everything = np.ones((len(target), BLOCK), bool)
    ids, log_probs = autoregressive._tell(network, window, everything)
    np.testing.assert_array_equal(ids, window.ids[:, 1])
    truth, visible = autoregressive._teach(network, window)
    np.testing.assert_allclose(log_probs, truth, atol=1e-4)
    assert (visible <= 1e-5).all()
    given = np.arange(BLOCK) % 2 == 0
    filled = autoregressive.filled(network, frames, target, np.tile(given, (len(target), 1)))
    np.testing.assert_array_equal(filled[:, given], window.ids[:, 1][:, given])


def test_bayes_rule_by_hand(network, episodes) -> None:
    frames = _frames(episodes[0])
    found = autoregressive.inverse(network, frames, np.array([5]))[0]
    scores = []
    for action in range(7):
        other = replace(episodes[0], actions=episodes[0].actions.copy())
        other.actions[4] = action
        scores.append(autoregressive.continued(network, _frames(other), np.array([5])).log_probs.sum())
    expected = np.exp(np.array(scores) - np.max(scores))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-3)


def test_the_loss_of_an_indifferent_network_counts_the_choices(network, episodes) -> None:
    with torch.no_grad():
        network.output_rows.zero_()
    frames = _frames(*episodes[:2])
    window = windows.cut(frames, np.array([0, 1]), np.array([3, 5]), 3, network.world)
    weights = LossConfig(action=2.0, outcome=3.0, direction=5.0, cell=0.5, other_behaviour=0.1)
    total, weight = autoregressive.next_token_loss(network, window, np.array([True, False]), weights)
    choices = len(network.completions)
    bot = 2.0 * np.log(7) + 3 * np.log(4) + 5 * np.log(4) + 49 * 0.5 * np.log(choices)
    other = bot - 0.9 * 2.0 * np.log(7)
    assert total.item() == pytest.approx(3 * (bot + other), rel=1e-5)
    assert weight == pytest.approx(3 * (2 + 0.2) + 6 * (3 + 5 + 49 * 0.5))
    # Frames that are not there, and the action and outcome that begin an episode, ask for nothing.
    start = windows.cut(frames, np.array([0]), np.array([-1]), 2, network.world)
    _, weight = autoregressive.next_token_loss(network, start, np.array([True]), weights)
    assert weight == pytest.approx(5 + 49 * 0.5)


def test_the_chain_of_a_step_by_hand(network, episodes) -> None:
    frames = _frames(*episodes[:2])
    target = all_steps(frames)[::9]
    found = autoregressive.chain(network, frames, target)
    assert (found[:, ACTION] == 0).all()  # it is given
    np.testing.assert_allclose(
        found[:, OUTCOME:], -autoregressive.continued(network, frames, target).log_probs[:, OUTCOME:], rtol=1e-4
    )
    # Over all 16 outcomes and headings a step may have, their chances add up to 1, and one tells of the other.
    log_probs = np.zeros((4, 4, 2))
    for outcome, heading in np.ndindex(4, 4):
        outcomes, headings = np.array(frames.outcomes), np.array(frames.directions)
        outcomes[target[0]], headings[target[0]] = outcome, heading
        other = replace(frames, outcomes=outcomes, directions=headings)
        log_probs[outcome, heading] = autoregressive.continued(network, other, target[:1]).log_probs[
            0, OUTCOME:FIRST_CELL
        ]
    np.testing.assert_allclose(np.exp(log_probs.sum(-1)).sum(), 1, rtol=1e-4)
    assert np.ptp(np.exp(log_probs[..., 1]), axis=0).max() > 1e-4
    with torch.no_grad():
        network.output_rows.zero_()
    indifferent = 2 * np.log(4) + 49 * np.log(len(network.completions))
    np.testing.assert_allclose(autoregressive.chain(network, frames, target).sum(-1), indifferent, rtol=1e-5)


def test_left_to_right_acts_as_it_is_asked(network, episodes) -> None:
    frames = _frames(episodes[0])
    expected = autoregressive.policy(network, frames, all_steps(frames)).argmax(-1)
    agent = acting.left_to_right(network)
    said = []
    for step in range(len(episodes[0])):
        said.append(agent.act(episodes[0].observation(step)))
        agent._action = int(episodes[0].actions[step])  # what was done, whatever it would have
    assert said == expected.tolist()


def test_convolutions_see_one_view_and_the_action(episodes) -> None:
    torch.manual_seed(0)
    network, cloned = convolutional.StepNetwork(32).eval(), convolutional.CloningNetwork(32).eval()
    step = 6
    said = [
        convolutional.predicted(network, _frames(episode), np.array([step + 1]))
        for episode in (episodes[0], _altered(episodes[0], step))
    ]
    np.testing.assert_array_equal(said[0].cells, said[1].cells)
    np.testing.assert_array_equal(said[0].outcomes, said[1].outcomes)
    np.testing.assert_array_equal(said[0].headings, said[1].headings)
    acted = replace(episodes[0], actions=(episodes[0].actions + 1) % 7)
    policies = [
        convolutional.cloned_actions(cloned, _frames(episode), np.array([step + 1])) for episode in (episodes[0], acted)
    ]
    np.testing.assert_array_equal(*policies)


def test_what_convolutions_say_of_a_step_by_hand(episodes) -> None:
    """A network that knows nothing finds all of a kind alike; one that is given the outcome says it."""
    frames, target = _frames(episodes[0]), np.array([3, 7])

    def network(inputs):
        outcome = torch.zeros(2, 4)
        outcome[:, 1] = np.log(3.0)  # CONTINUE: 3 of 6
        return torch.zeros(2, 49, 264), outcome, torch.zeros(2, 4)

    said = convolutional.predicted(network, frames, target)
    assert said.log_probs is not None
    expected = np.full((2, BLOCK), -np.log(264))
    expected[:, ACTION], expected[:, OUTCOME], expected[:, DIRECTION] = 0, -np.log(2), -np.log(4)
    np.testing.assert_allclose(said.log_probs, expected, rtol=1e-5)
    np.testing.assert_allclose(said.visible, np.log(240 / 264), rtol=1e-4)  # one kind of eleven is unseen
    assert (said.outcomes == 1).all()


def test_an_agent_acts_as_its_network(episodes) -> None:
    torch.manual_seed(0)
    cloned = convolutional.CloningNetwork(32).eval()
    frames = _frames(episodes[0])
    expected = convolutional.cloned_actions(cloned, frames, all_steps(frames)).argmax(-1)
    agent = convolutional.CloningAgent(cloned)
    said = [agent.act(episodes[0].observation(step)) for step in range(len(episodes[0]))]
    assert said == expected.tolist()
    env = make_real_env(LEVEL)
    assert run_episode(convolutional.CloningAgent(cloned, temperature=1.0), env, 3).error is None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(fresh_data(LEVEL, tmp_path_factory.mktemp("data"), episodes=80))


def _config(steps: int):
    return load_config("tiny", [f"training.steps={steps}", "training.batch_size=8"])


def test_baselines_learn_and_repeat(data) -> None:
    frames = fitting.training_frames([data])
    target = all_steps(frames)[:64]

    def cell_nll(said: StepPredictions) -> float:
        return -said.log_probs[:, FIRST_CELL:].mean()

    first, second, again = (fitting.fit_steps(_config(steps), frames) for steps in (1, 15, 15))
    nll = [cell_nll(convolutional.predicted(network, frames, target)) for network in (first, second, again)]
    assert nll[1] < 0.5 * nll[0]
    assert nll[1] == nll[2]
    nll = [
        cell_nll(autoregressive.continued(fitting.fit_autoregressive(_config(n), frames), frames, target))
        for n in (1, 12)
    ]
    assert nll[1] < 0.7 * nll[0]
    everywhere = all_steps(frames)
    owner = np.searchsorted(frames.offsets, everywhere, side="right") - 1
    by_bot = everywhere[frames.behaviours[owner] == fitting.BOT]
    cloned = fitting.fit_cloning(_config(40), frames)
    right = convolutional.cloned_actions(cloned, frames, by_bot).argmax(-1) == frames.actions[by_bot]
    most_common = np.bincount(frames.actions[by_bot]).max() / len(by_bot)
    assert right.mean() > most_common


def test_frequencies_are_counted_in_the_training_episodes(data) -> None:
    frames = fitting.training_frames([data])
    target = all_steps(frames)
    said = measure.frequencies(frames, 10**6, np.random.default_rng(0)).steps(frames, target[:3])
    counts = np.bincount(np.asarray(frames.directions)[target], minlength=4) + 0.01
    assert (said.headings == counts.argmax()).all()
    heading = int(frames.directions[target[0]])
    assert said.log_probs[0, DIRECTION] == pytest.approx(np.log(counts[heading] / counts.sum()))
    # The agent's own column is most often empty or wall close by, whatever is asked.
    assert (said.cells == said.cells[0]).all()
    steps = transitions(frames, target)
    for place in (0, 24, 48):
        ids, found = np.unique(steps.cells[:, place], return_counts=True)
        assert said.cells[0, place] == ids[found.argmax()]


def test_all_are_measured_alike(data) -> None:
    parts = held_out_frames([data])

    def truth(frames, target):
        steps = transitions(frames, target)
        return StepPredictions(steps.cells, steps.headings, steps.outcomes)

    def acted(frames, target):
        return np.eye(7)[np.asarray(frames.actions)[target]]

    def whole(frames, target, given):
        window = windows.cut(
            frames,
            np.searchsorted(frames.offsets, target, side="right") - 1,
            target - frames.offsets[np.searchsorted(frames.offsets, target, side="right") - 1],
            1,
            load_config("tiny").world,
        )
        return np.where(given, window.ids[:, 0], window.ids[:, 0])

    found = measure.measure(measure.Predictor(truth, acted, acted, acted, whole), parts, 60)
    for name in ("known_cell_accuracy", "known_frame_exact", "outcome_f1", "action_accuracy", "belief_accuracy"):
        assert found[name]["value"] == 1
    assert found["inverse_accuracy_changed"]["value"] == found["inverse_bayes_changed"]["value"] == 1
    nothing = measure.measure(measure.untrained("copy-last-frame"), parts, 60)
    assert set(nothing) < set(found)
    assert nothing["known_cell_accuracy"]["value"] < 1
    assert nothing["known_cell_accuracy"]["n"] == found["known_cell_accuracy"]["n"]  # the same steps
    assert nothing["outcome_f1"]["value"] == 0


def test_the_heading_of_a_likelihood_and_belief_by_hand(data) -> None:
    parts, asked = held_out_frames([data]), []

    def chain(frames, target):
        return np.tile(np.arange(BLOCK), (len(target), 1))  # the token in slot k costs k nats

    def fill(frames, target, given):
        """Every second cell wrong."""
        asked.append(~given[:, FIRST_CELL:])
        ids = np.zeros((len(target), BLOCK), np.int64)
        ids[:, FIRST_CELL:] = transitions(frames, target).cells
        ids[:, FIRST_CELL::2] += 1
        return ids

    predictor = measure.Predictor(measure.untrained("copy-last-frame").steps, chain=chain, fill=fill, at_once=False)
    nats = measure._likelihoods(predictor, parts[0].frames, all_steps(parts[0].frames)[:3])
    total = 51 * 52 / 2
    assert {name: tally.value for name, tally in nats.items()} == {
        "chain_nll": total, "chain_nll_heading": DIRECTION, "chain_nll_rest": total - DIRECTION,
    }  # fmt: skip
    found = measure.measure(measure.Predictor(fill=fill), parts, 60)
    (hidden,) = asked
    assert found["belief_accuracy"]["value"] == pytest.approx(hidden[:, 1::2].sum() / hidden.sum())
    assert found["belief_accuracy"]["n"] == hidden.sum()


def test_the_world_model_answers_every_query(world_model, data) -> None:
    found = measure.measure(measure.any_order(world_model), held_out_frames([data]), 20)
    answers = ("forward_nll", "chain_nll", "action_accuracy", "inverse_accuracy_changed", "belief_accuracy")
    for name in (*answers, "inverse_bayes_changed", "goal_accuracy", "exact/turn"):
        assert np.isfinite(found[name]["value"])


def test_likelihoods_are_of_the_same_targets_and_steps(world_model, network, data) -> None:
    parts = held_out_frames([data])
    torch.manual_seed(0)
    ours, rival, plain = (
        measure.measure(predictor, parts, 20)
        for predictor in (
            measure.any_order(world_model),
            measure.left_to_right(network),
            measure.one_step(convolutional.StepNetwork(32).eval()),
        )
    )
    assert ours["chain_nll"]["n"] == rival["chain_nll"]["n"] == plain["chain_nll"]["n"] == 5
    assert ours["forward_nll"]["n"] == 5
    for found in (ours, rival, plain):
        parts_of_it = found["chain_nll_heading"]["value"] + found["chain_nll_rest"]["value"]
        assert parts_of_it == pytest.approx(found["chain_nll"]["value"])
    assert plain["chain_nll"]["value"] == plain["forward_nll"]["value"]  # its tokens are independent: both are one
    assert "forward_nll" not in rival  # it cannot fill at once
    assert "goal_accuracy" not in rival


@pytest.mark.parametrize("rival", ["any-order", "autoregressive"])
def test_a_hidden_cell_is_not_given_away(rival, world_model, network, episodes) -> None:
    frames = _frames(episodes[0])
    given = np.ones((1, BLOCK), bool)
    given[0, FIRST_CELL + 20 : FIRST_CELL + 30] = False
    predictor = measure.any_order(world_model) if rival == "any-order" else measure.left_to_right(network)
    said = predictor.fill(frames, np.array([5]), given)
    images = episodes[0].images.copy()
    hidden = ~given[0, FIRST_CELL:].reshape(7, 7)
    images[5][hidden] = (8, 1, 0)
    again = predictor.fill(_frames(replace(episodes[0], images=images)), np.array([5]), given)
    np.testing.assert_array_equal(said[0, FIRST_CELL:][hidden.ravel()], again[0, FIRST_CELL:][hidden.ravel()])
    assert said[0, ACTION] == again[0, ACTION]
    assert said[0, OUTCOME] == again[0, OUTCOME]


def test_the_suite_trains_measures_and_lets_play(tmp_path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "config: tiny\nset: [training.steps=3, data.episodes=40]\nsamples: 10\nepisodes: 1\n"
        "baselines: [autoregressive, convolutional, cloning, model-free PPO, empirical prior, copy-last-frame]\n"
    )
    document = run_suite("baselines", tmp_path / "out", plan=plan)
    assert document["units"]["missing"] == 0, document["units"]
    rows = {row["variant"]: row for row in document["rows"] if row["table"] == "variants"}
    assert "action_accuracy" in rows["cloning"]
    assert "known_cell_accuracy" not in rows["cloning"]
    assert rows["cloning"]["success_rate/policy"] in (0, 1)
    assert "belief_accuracy" in rows["autoregressive"]
    # Model-free PPO acts for as many real steps as the others learn from.
    (begun,) = (tmp_path / "out" / "baselines" / "runs").glob("ppo-*/config.json")
    frames = fitting.training_frames([str(path) for path in (tmp_path / "out" / "data").glob("training-*/*")])
    assert json.loads(begun.read_text())["steps"] == frames.lengths.sum() - len(frames.lengths) > 100
    assert rows["model-free PPO"]["success_rate/policy"] in (0, 1)
    assert rows["model-free PPO"]["parameters"] > 0
    assert "known_cell_accuracy" not in rows["model-free PPO"]
    assert rows["copy-last-frame"]["parameters"] == 0
    # Training data and fresh episodes of one level lie apart.
    assert len(list((tmp_path / "out" / "data").glob("*/BabyAI-GoToRedBallGrey-v0"))) == 2
    plan.write_text("baselines: [oracle]")
    with pytest.raises(Exception, match="unknown baseline 'oracle'"):
        run_suite("baselines", tmp_path / "out", plan=plan)
