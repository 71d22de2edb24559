"""Batches, objective and optimiser."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import random_episode
from wmtoolkit import Trajectory
from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.training.batches import draw_batch, starts
from wmtoolkit.training.config import LossConfig, load_config
from wmtoolkit.training.loop import make_optimizers, make_sampler
from wmtoolkit.training.objective import MaskedReconstruction, weigh
from wmtoolkit.training.optim import MatrixMuon, hidden_matrices, schedule
from wmtoolkit.world import grid, windows
from wmtoolkit.world.config import WorldConfig
from wmtoolkit.world.grid import WORDS
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import ACTION, BLOCK, OUTCOME, WorldTokenizer
from wmtoolkit.world.trajectory import Outcome

MISSIONS = ("go to the red ball", "go to the blue ball", "go to a ball")
CONFIG = load_config("tiny", ["training.batch_size=32"])


@pytest.fixture(scope="module")
def frames(episodes: list[Trajectory]) -> windows.Frames:
    ended = [
        replace(
            trajectory.prefix(8 + index),
            behaviour="bot" if index % 2 else "random",
            terminations=np.arange(8 + index) == 7 + index,
            rewards=(np.arange(8 + index) == 7 + index).astype(np.float32),
        )
        for index, trajectory in enumerate(episodes)
        if len(trajectory) >= 8 + index
    ]
    return windows.Frames.from_trajectories([*episodes, *ended])


def _draw(frames: windows.Frames, step: int, **changes: float):
    return draw_batch(frames, replace(make_sampler(CONFIG), **changes), CONFIG.world, 0, step)


def test_a_batch_is_a_function_of_seed_and_step(frames: windows.Frames) -> None:
    first, same, other = _draw(frames, 3), _draw(frames, 3), _draw(frames, 4)
    np.testing.assert_array_equal(first.tokens.ids, same.tokens.ids)
    np.testing.assert_array_equal(first.attention("cpu"), same.attention("cpu"))
    assert first.tokens.ids.shape != other.tokens.ids.shape or (first.tokens.ids != other.tokens.ids).any()


def test_endings_stand_at_every_place_of_a_window(frames: windows.Frames) -> None:
    """An outcome tied to a place in the window would be learnt as such."""
    places = np.zeros(CONFIG.world.recent)
    success = WorldTokenizer().outcomes[Outcome.SUCCESS]
    for step in range(40):
        batch = _draw(frames, step, full_share=0.0, ending_share=1.0)
        places += ((batch.target[..., OUTCOME] == success) & batch.valid).sum(axis=0)
    assert places.min() > 0.7 * places.max()
    assert places.sum() > 500


def test_events_are_what_was_handled_or_tried_on_an_object() -> None:
    played = [random_episode("BabyAI-PutNextLocal-v0", seed, 120) for seed in range(6)]
    frames = windows.Frames.from_trajectories(played)
    found = set(frames.events.tolist())
    things, kinds = {"key", "ball", "box", "door"}, set()
    for index in np.flatnonzero(frames.actions >= 0):
        name = grid.ACTIONS[frames.actions[index]]
        before, after = frames.images[index - 1], frames.images[index]
        changed = any((before[cell] != after[cell]).any() for cell in (grid.AGENT_CELL, grid.FRONT_CELL))
        front = grid.OBJECTS[before[grid.FRONT_CELL][0]]
        handled = name in ("pickup", "drop", "toggle") and (changed or front in things)
        assert (index in found) == handled
        kinds |= {(name, front, changed)} if handled else set()
    assert len(np.unique(np.diff(frames.event_chances, prepend=0).round(12))) <= len(kinds)
    assert {changed for _, _, changed in kinds} == {True, False}


def test_near_misses_look_like_successes_of_their_level(frames: windows.Frames) -> None:
    near, outcomes = frames.near_misses, np.asarray(frames.outcomes)
    assert 0 < len(near) < len(frames.images)
    assert (outcomes[near] == Outcome.CONTINUE).all()
    level = np.repeat(frames.levels, frames.lengths)

    def looks(frame: int) -> tuple[int, ...]:
        ahead, hand = (frames.images[frame][cell][0] for cell in (grid.FRONT_CELL, grid.AGENT_CELL))
        return int(level[frame]), int(frames.actions[frame]), int(ahead), int(hand)

    successes = {looks(frame) for frame in np.flatnonzero(outcomes == Outcome.SUCCESS)}
    assert {looks(frame) for frame in near} <= successes
    others = np.setdiff1d(np.flatnonzero(outcomes == Outcome.CONTINUE), near)
    assert not {looks(frame) for frame in others} & successes
    sampler = replace(make_sampler(load_config("tiny")), near_share=0.5, ending_share=0.0, event_share=0.0)
    rng = np.random.default_rng(0)
    held = []
    for share in (0.0, 0.5):
        episode, start = starts(frames, replace(sampler, near_share=share), 4000, 2, rng)
        begin = frames.offsets[episode] + start
        last = frames.offsets[episode + 1] - 1
        supervised = [np.isin(np.minimum(begin + step, last), near) for step in (1, 2)]
        held.append(np.mean(supervised[0] | supervised[1]))
    assert held[1] > 0.49 + 0.4 * held[0]


def test_padding_and_what_is_visible_are_not_supervised(frames: windows.Frames) -> None:
    for step in range(6):
        batch = _draw(frames, step, full_share=0.5, ending_share=0.8)
        weights = weigh(batch, LossConfig())
        assert (weights.blocks[~batch.valid] == 0).all()
        assert (weights.blocks[~batch.masks.targets] == 0).all()
        assert (batch.given != batch.target)[weights.blocks > 0].all()


def test_a_noisy_block_sees_its_past_and_not_its_clean_copy(frames: windows.Frames) -> None:
    batch = _draw(frames, 1, full_share=0.0)
    count, recent = batch.given.shape[1], CONFIG.world.recent
    clean = batch.first - recent * BLOCK
    for index in range(count):
        row = batch.attention("cpu")[0, 0, batch.first + index * BLOCK]
        for block in range(recent):  # clean frame `block` comes before noisy frame `block`, which is one step later
            seen = row[clean + block * BLOCK : clean + (block + 1) * BLOCK]
            valid = batch.tokens.valid[0, clean + block * BLOCK]
            assert seen.all() == (valid and block <= index)
            assert seen.any() == (valid and block <= index)
        others = row[batch.first : batch.first + count * BLOCK].reshape(count, BLOCK).any(axis=1)
        assert not others[np.arange(count) != index].any()
        assert not row[batch.first + count * BLOCK :].any()
    assert not batch.attention("cpu")[:, :, : batch.first, batch.first :].any()


def test_a_swapped_mission_is_not_fulfilled_and_nobody_acted_for_it(episodes: list[Trajectory]) -> None:
    tokenizer = WorldTokenizer()
    words = [[tokenizer.words[0] + WORDS.index(word) for word in text.split()] for text in MISSIONS]
    ended = [
        replace(
            episodes[0].prefix(6),
            mission=text,
            behaviour="bot",
            terminations=np.arange(6) == 5,
            rewards=(np.arange(6) == 5).astype(np.float32),
        )
        for text in MISSIONS
    ]
    batch = _draw(windows.Frames.from_trajectories(ended), 0, full_share=0.0, ending_share=1.0, swap_share=0.5)
    outcome = np.where(batch.valid, batch.target[..., OUTCOME], -1)
    own = np.isin(outcome, tokenizer.outcomes[Outcome.SUCCESS]).any(axis=1)
    assert 4 < own.sum() < 28
    np.testing.assert_array_equal(batch.bot.all(axis=1), own)
    asked = {tuple(row[1:6]) for row in batch.tokens.ids[~own]}
    assert asked == {tuple(text[:5]) for text in words[:2]}  # the third shares its ball with both
    assert (outcome[~own].max(axis=1) == tokenizer.outcomes[Outcome.CONTINUE]).all()


def test_nothing_hidden_gives_a_loss_of_zero_and_no_nan(frames: windows.Frames) -> None:
    torch.manual_seed(0)
    network = WorldNetwork(WorldNetwork.fitted(CONFIG.model.llada2(), CONFIG.world), CONFIG.world)
    batch = _draw(frames, 0, full_share=1.0, mission_share=0.0)
    batch.masks.slots[:], batch.masks.cells[:] = True, True
    weights = weigh(batch, LossConfig())
    assert weights.total == 0
    total, parts = MaskedReconstruction(network)(batch, weights)
    total.backward()
    assert float(total.detach()) == 0
    assert not parts
    assert all(torch.isfinite(value.grad).all() for value in network.parameters() if value.grad is not None)


def test_actions_of_others_teach_the_policy_less(frames: windows.Frames) -> None:
    batch = _draw(frames, 2, full_share=0.0)
    weights = weigh(batch, LossConfig(action=10, other_behaviour=0.1))
    assert set(np.unique(weights.actions)) == {0.0, 1.0, 10.0}
    assert (weights.actions[batch.bot & batch.actions_asked] == 10).all()


def test_likelihood_weights_are_l_over_hidden(frames: windows.Frames) -> None:
    batch = _draw(frames, 5, full_share=1.0, full_mixture={"cell": 1.0})
    config = LossConfig(action=1, outcome=1, direction=1, outcome_alone=1, likelihood=True)
    weights = weigh(batch, config).blocks[batch.valid]
    hidden = batch.masks.targets[batch.valid]
    np.testing.assert_allclose(weights, hidden * (BLOCK / np.maximum(hidden.sum(-1, keepdims=True), 1)), rtol=1e-6)


def test_muon_moves_the_fused_parameters_themselves() -> None:
    torch.manual_seed(0)
    network = WorldNetwork(WorldNetwork.fitted(CONFIG.model.llada2(), CONFIG.world), CONFIG.world)
    layer = network.llada2.model.layers[-1]
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    covered = {id(source) for source, _ in hidden_matrices(network)}
    optimizers = make_optimizers(network, CONFIG)
    sum(value.square().sum() + value.sum() for value in network.parameters() if value.requires_grad).backward()
    for optimizer in optimizers.values():
        optimizer.step()
    for name, value in layer.named_parameters():
        assert (value != before[name]).any(), name
    assert id(layer.mlp.experts.gate_up_proj) in covered
    assert id(layer.mlp.gate.weight) not in covered
    update = (layer.attention.dense.weight - before["attention.dense.weight"]).detach()
    spread = torch.linalg.svdvals(update)
    assert spread.median() > 0.5 * spread.max()  # orthogonalised: no direction dominates


def test_muon_is_torchs_muon_on_each_matrix_of_a_fused_parameter() -> None:
    torch.manual_seed(0)
    fused, options = torch.nn.Parameter(torch.randn(3, 6, 4)), {"lr": 0.1, "weight_decay": 0.1}
    alone = [torch.nn.Parameter(fused.detach()[row].clone()) for row in range(3)]
    ours = MatrixMuon([(fused, (row,)) for row in range(3)], **options)
    theirs = torch.optim.Muon(alone, **options)
    for _ in range(4):
        fused.grad = torch.randn_like(fused)
        for row, parameter in enumerate(alone):
            parameter.grad = fused.grad[row].clone()
        ours.step()
        theirs.step()
    # torch rounds the orthogonalisation to bfloat16
    torch.testing.assert_close(fused.detach(), torch.stack([value.detach() for value in alone]), rtol=0, atol=1e-2)


def test_the_rate_rises_holds_and_falls() -> None:
    rates = [schedule("wsd", step, 100, warmup=0.1, decay=0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == pytest.approx([1.0] * 41)
    assert rates[-1] == pytest.approx(0.02)
    assert sorted(rates[50:], reverse=True) == rates[50:]
    cosine = [schedule("cosine", step, 100, warmup=0.1, decay=0.5) for step in range(100)]
    assert max(cosine) == cosine[9] == 1
    assert cosine[54] == pytest.approx(0.5)
    assert cosine[-1] == pytest.approx(0)


def test_the_router_and_embeddings_are_trained_by_adamw(tiny: dict) -> None:
    network = WorldNetwork(WorldNetwork.fitted(LLaDA2MoeConfig(**tiny), WorldConfig()), WorldConfig())
    adamw = make_optimizers(network, CONFIG)["adamw"].param_groups[0]["params"]
    assert any(value is network.input_rows for value in adamw)
    assert any(value is network.llada2.model.layers[-1].mlp.gate.weight for value in adamw)
    assert all(value.requires_grad for value in adamw)


def test_the_action_token_alone_is_asked_of_the_policy(frames: windows.Frames) -> None:
    batch = _draw(frames, 0, full_share=1.0, full_mixture={"policy": 1.0})
    weights = weigh(batch, LossConfig()).blocks
    asked = batch.valid & batch.masks.targets.any(-1)
    assert asked.any()
    assert (weights[..., ACTION][asked] > 0).all()
    assert (weights[..., ACTION + 1 :] == 0).all()


def test_lone_outcomes_are_told_what_a_step_that_is_to_be_imagined_is_told(frames: windows.Frames) -> None:
    batch = _draw(frames, 1, full_share=0.0, mixture={"forward": 1.0}, lone_outcomes=True)
    assert batch.outcomes_asked is not None
    count = batch.given.shape[1]
    block = batch.first + np.arange(count) * BLOCK + OUTCOME
    lone = batch.tokens.length - count + np.arange(count)
    asked = batch.outcomes_asked
    for name in ("ids", "slot", "action", "time", "x", "y", "known", "valid"):
        values = getattr(batch.tokens, name)
        np.testing.assert_array_equal(values[:, lone][asked], values[:, block][asked])
    plain = _draw(frames, 1, full_share=0.0, mixture={"forward": 1.0})
    np.testing.assert_array_equal(batch.tokens.ids[:, : -batch.given.shape[1]], plain.tokens.ids)


def test_lone_outcomes_see_neither_the_step_that_they_ask_about_nor_who_acts(frames: windows.Frames) -> None:
    torch.manual_seed(0)
    network = WorldNetwork(WorldNetwork.fitted(CONFIG.model.llada2(), CONFIG.world), CONFIG.world).eval()
    batch = _draw(frames, 1, full_share=0.0, lone_outcomes=True)
    count, clean = batch.given.shape[1], batch.first - batch.given[0].size
    lone = batch.tokens.length - count

    def asked() -> torch.Tensor:
        with torch.no_grad():
            return network(batch.tokens.tensors("cpu"), batch.attention("cpu"))[:, lone:]

    before, place = asked(), 0
    batch.tokens.ids[:, 0] = WorldTokenizer.mask  # who acts
    batch.tokens.ids[:, batch.first : lone] = WorldTokenizer().cells.start  # what is masked, and the lone actions
    batch.tokens.ids[:, clean + (place + 1) * BLOCK : batch.first] = WorldTokenizer().cells.start  # the step, and later
    after = asked()
    torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1])
    assert not torch.allclose(after[:, place + 1 :], before[:, place + 1 :])


def test_lone_outcomes_weigh_as_outcomes_and_are_learnt_from(frames: windows.Frames) -> None:
    torch.manual_seed(0)
    network = WorldNetwork(WorldNetwork.fitted(CONFIG.model.llada2(), CONFIG.world), CONFIG.world)
    batch = _draw(frames, 1, full_share=0.0, lone_outcomes=True)
    assert batch.outcomes_asked is not None
    weights = weigh(batch, LossConfig(outcome=7))
    assert weights.total > weights.blocks.sum() + weights.actions.sum()
    np.testing.assert_array_equal(weights.outcomes, 7 * batch.outcomes_asked)
    _, parts = MaskedReconstruction(network)(batch, weights)
    assert int(parts["lone_outcome"][1]) == batch.outcomes_asked.sum()
    kept = batch.rows(slice(0, 4))
    total, _ = MaskedReconstruction(network)(kept, weights.rows(slice(0, 4)))
    weights.outcomes[:] = 0
    without, parts = MaskedReconstruction(network)(kept, weights.rows(slice(0, 4)))
    assert float(total.detach()) > float(without.detach())
    assert "lone_outcome" not in parts
