"""The task's masks are the toolkit's own, drawn again where neither knows of the other."""

import numpy as np
import pytest
import torch

from wmtoolkit.dfactory.any_order.layout import IGNORED, Layout
from wmtoolkit.dfactory.any_order.masks import ask_goal, draw
from wmtoolkit.dfactory.any_order.step import network_inputs
from wmtoolkit.dfactory.any_order.transform import AnyOrderTransform
from wmtoolkit.llada2 import training_mask_2l
from wmtoolkit.world import masks
from wmtoolkit.world.tokenizer import ACTION, BLOCK, OUTCOME

COUNT = 6000


@pytest.mark.parametrize("name", [name for name in masks.STRATEGIES if name != "fixed"])
def test_each_strategy_hides_what_the_toolkits_strategy_hides(name: str) -> None:
    """The same share of every slot, cell and attribute, and the same distribution of how much is hidden."""
    slots, cells, strategy = draw({name: 1.0}, COUNT, np.random.default_rng(0))
    ours = masks.draw({name: 1.0}, (COUNT,), np.random.default_rng(1))
    assert set(strategy) == {name}
    error = 4 * np.sqrt(0.5 / COUNT)
    np.testing.assert_allclose(slots.mean(0), ours.slots.mean(0), atol=error)
    np.testing.assert_allclose(cells.mean(0), ours.cells.mean(0), atol=error)
    amounts = [(~part[0]).sum(-1) + (~part[1]).sum((-1, -2)) for part in ((slots, cells), (ours.slots, ours.cells))]
    quantiles = [np.quantile(amount, [0.1, 0.5, 0.9]) for amount in amounts]
    np.testing.assert_allclose(*quantiles, atol=9)
    assert (cells.all(-1) | ~cells.any(-1)).all() == (ours.cells.all(-1) | ~ours.cells.any(-1)).all()


def test_a_number_of_hidden_tokens_is_as_likely_as_any_other() -> None:
    slots, cells, _ = draw({"cell": 1.0}, COUNT, np.random.default_rng(0))
    hidden = (~slots).sum(-1) + (~cells.all(-1)).sum(-1)
    counts = np.bincount(hidden, minlength=BLOCK + 1)
    assert counts[0] == 0
    expected = COUNT / BLOCK
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 100  # chi-square of 51 degrees: 99.99 %


def test_noise_range_bounds_the_ratios() -> None:
    _, cells, _ = draw({"cell": 1.0}, 500, np.random.default_rng(0), (0.5, 0.6))
    share = (~cells.all(-1)).mean(-1)
    assert share.min() > 0.3
    assert share.max() < 0.8


def test_a_goal_shows_what_lies_before_it_and_the_wish() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        slots, cells = np.ones((6, 3), bool), np.ones((6, 49, 3), bool)
        upto = ask_goal(slots, cells, 5, True, 4, rng)
        goal = int(upto.sum()) - 1
        hidden = np.flatnonzero(~slots[:, ACTION])
        assert 1 <= len(hidden) <= 3
        assert hidden.tolist() == list(range(goal - len(hidden) + 1, goal + 1))
        assert slots[goal, OUTCOME]
        assert not cells[hidden[:-1]].any()
        if goal < 4:
            assert cells[goal].all()
        seen.add((goal, len(hidden), bool(cells[goal].all())))
    assert {(4, 1, True), (4, 1, False), (1, 1, True)} <= seen


def test_masks_depend_on_seed_epoch_and_example_alone(layout: Layout, examples: list[dict]) -> None:
    def noisy(example: dict, epoch: int = 0, seed: int = 0) -> torch.Tensor:
        transform = AnyOrderTransform(layout, len(example["input_ids"]), seed=seed)
        transform.epoch = epoch
        torch.manual_seed(int(np.random.default_rng().integers(1000)))
        return transform(example)[0]["noisy_input_ids"]

    first, second = examples[:2]
    assert torch.equal(noisy(first), noisy(first))
    assert not torch.equal(noisy(first), noisy(first, epoch=1))
    assert not torch.equal(noisy(first), noisy(first, seed=1))
    assert not torch.equal(noisy(first), noisy({**first, "id": second["id"]}))


def test_labels_are_the_clean_ids_where_anything_is_hidden_and_nowhere_else(
    layout: Layout, examples: list[dict]
) -> None:
    transform = AnyOrderTransform(layout, len(examples[0]["input_ids"]), seed=0, full_share=0.5)
    for example in examples[:60]:
        (row,) = transform(example)
        clean, noisy, labels = (row[name] for name in ("input_ids", "noisy_input_ids", "labels"))
        target = labels != IGNORED
        assert torch.equal(labels[target], clean[target])
        assert (noisy[target] != clean[target]).all()
        # what is hidden and no target takes no part: the other tokens of a step that asks for the policy
        assert (row["attention_mask"][(noisy != clean) & ~target] == 0).all()
        assert ((row["loss_weights"] > 0) == target).all()
        assert not target[: example["prompt_lengths"]].any()


def test_the_mask_is_that_of_block_diffusion_with_padding_hidden(layout: Layout, examples: list[dict]) -> None:
    """Of the mission's first token, who acts, only they know that ask for the policy."""
    mixture = {"cell": 0.5, "policy": 0.5}
    transform = AnyOrderTransform(layout, len(examples[0]["input_ids"]), seed=0, mixture=mixture)
    rows = [transform(example)[0] for example in examples[:8]]
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    inputs = network_inputs(batch, layout, True)
    length = batch["labels"].shape[1]
    keys = torch.cat([batch["attention_mask"].bool(), batch["input_ids"] != layout.pad], dim=1)
    expected = training_mask_2l(length, layout.block_size)[None] & keys[:, None, :]
    steps = batch["attention_mask"].reshape(len(rows), -1, layout.block_size)
    alone = torch.zeros_like(steps, dtype=torch.bool)
    alone[..., ACTION] = steps.sum(-1) == 1
    assert alone.any()
    expected[:, :length, length] &= alone.flatten(1)
    expected[:, length:, length] = expected[:, length] = False
    assert torch.equal(inputs["attention_mask"][:, 0], expected | torch.eye(2 * length, dtype=torch.bool))
    assert torch.equal(inputs["input_ids"], torch.cat([batch["noisy_input_ids"], batch["input_ids"]], dim=1))
    assert torch.equal(inputs["position_ids"][:, :length], inputs["position_ids"][:, length:])


def test_the_behaviour_is_hidden_now_and_then_in_both_copies(layout: Layout, examples: list[dict]) -> None:
    transform = AnyOrderTransform(layout, len(examples[0]["input_ids"]), seed=0, behaviour_dropout=0.5)
    rows = [transform(example)[0] for example in examples]
    assert 0.2 < np.mean([bool(row["input_ids"][0] == layout.mask) for row in rows]) < 0.8
    assert all(row["noisy_input_ids"][0] == row["input_ids"][0] for row in rows)
