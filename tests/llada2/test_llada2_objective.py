import pytest
import torch

from wmtoolkit.llada2 import (
    add_noise,
    block_causal_mask,
    block_diffusion_loss,
    complement,
    draw_noise,
    masked_cross_entropy,
    training_mask_2l,
    weighted_cross_entropy,
)

MASK = 48


def test_noise_asks_the_generator_as_dfactory_does():
    ids = torch.arange(60).view(3, 20) % 40
    prompts = torch.tensor([0, 5, 20])
    noisy, labels = add_noise(ids, prompts, 0.3, 0.8, MASK, torch.Generator().manual_seed(7))
    draw = torch.Generator().manual_seed(7)
    for row, prompt in enumerate(prompts.tolist()):
        t = torch.rand(1, generator=draw) * (0.8 - 0.3) + 0.3
        for i, u in enumerate(torch.rand(20, generator=draw).tolist()):
            hidden = i >= prompt and u < t.item()
            assert noisy[row, i] == (MASK if hidden else ids[row, i])
            assert labels[row, i] == (ids[row, i] if hidden else -100)
    assert (noisy == MASK).any()
    assert torch.equal(ids, torch.arange(60).view(3, 20) % 40)  # the clean ids are left alone


def test_a_mask_in_the_clean_text_is_a_target_as_dfactory_labels_it():
    """It tells targets by the noisy id; in the prompt nothing is a target."""
    ids = torch.arange(60).view(3, 20) % 40
    ids[:, [2, 9]] = MASK
    noisy, labels = add_noise(ids, torch.tensor([5, 5, 5]), 0.0, 0.0, MASK)
    assert torch.equal(noisy, ids)
    assert torch.equal(labels != -100, (torch.arange(20) == 9).expand(3, 20))


def test_the_global_generator_is_used_when_none_is_given():
    ids = torch.zeros(1, 50, dtype=torch.long)
    torch.manual_seed(3)
    noisy, _ = add_noise(ids, torch.tensor([0]), 0.3, 0.8, MASK)
    torch.manual_seed(3)
    t = torch.rand(1) * 0.5 + 0.3
    assert torch.equal(noisy[0] == MASK, torch.rand(50) < t)


def test_ratios_are_those_the_rows_were_masked_with():
    ids = torch.zeros(8, 4000, dtype=torch.long)
    noisy, _, ratios = draw_noise(
        ids, torch.zeros(8, dtype=torch.long), 0.1, 0.9, MASK, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close((noisy == MASK).float().mean(1), ratios, atol=0.03, rtol=0)
    assert ratios.min() >= 0.1
    assert ratios.max() - ratios.min() > 0.2


def test_loss_is_the_mean_over_labels_of_the_whole_batch():
    logits = torch.randn(2, 5, 7)
    labels = torch.tensor([[1, -100, 2, -100, -100], [-100, -100, -100, -100, 6]])
    rows = [-logits[0, 0].log_softmax(0)[1], -logits[0, 2].log_softmax(0)[2], -logits[1, 4].log_softmax(0)[6]]
    torch.testing.assert_close(masked_cross_entropy(logits, labels), sum(rows) / 3)


def test_nothing_masked_is_zero_and_never_nan(model, ids):
    labels = torch.full_like(ids, -100)
    loss = model(ids, labels=labels).loss
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    logits = torch.randn(2, 12, 5, requires_grad=True)
    nothing = torch.zeros(2, 12, dtype=torch.bool)
    assert weighted_cross_entropy(logits, labels, torch.zeros(2), nothing).item() == 0
    assert block_diffusion_loss(model, ids, ids, labels, 4).item() == 0


def test_complement_masks_exactly_the_rest():
    ids = torch.arange(40).view(2, 20)
    prompts = torch.tensor([4, 0])
    noisy, labels = add_noise(ids, prompts, 0.3, 0.8, MASK, torch.Generator().manual_seed(1))
    other, other_labels = complement(ids, labels, prompts, MASK)
    answer = torch.arange(20) >= prompts[:, None]
    assert torch.equal((noisy == MASK) ^ (other == MASK), answer)
    assert torch.equal(other_labels, torch.where(other == MASK, ids, -100))
    assert torch.equal(torch.where(noisy == MASK, other, noisy), ids)


def test_weighting_by_one_over_t_makes_every_ratio_count_the_same():
    """A model that always answers with probability p: the expected loss is -log p whatever t."""
    logits = torch.log(torch.tensor([0.25, 0.75])).expand(4000, 6, 2)
    ids = torch.zeros(4000, 6, dtype=torch.long)
    answer = torch.ones_like(ids, dtype=torch.bool)
    draw = torch.Generator().manual_seed(0)
    for t in (0.2, 0.9):
        _, labels, ratios = draw_noise(ids, torch.zeros(4000, dtype=torch.long), t, t, 1, draw)
        loss = weighted_cross_entropy(logits, labels, ratios, answer)
        assert loss.item() == pytest.approx(-torch.tensor(0.25).log().item(), rel=0.05)


def test_one_pass_of_twice_the_length_equals_decoding_after_each_clean_past(model):
    """The equivalence that the training layout exists for."""
    length, block = 12, 4
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 40, (2, length), generator=draw)
    noisy, _ = add_noise(clean, torch.tensor([2, 0]), 0.3, 0.8, MASK, draw)
    mask = training_mask_2l(length, block)[None, None]
    positions = torch.arange(length).repeat(2)[None]
    both = model(torch.cat([noisy, clean], 1), attention_mask=mask, position_ids=positions).logits
    for k in range(length // block):
        start, end = k * block, (k + 1) * block
        partly = torch.cat([clean[:, :start], noisy[:, start:end]], 1)
        alone = model(partly, attention_mask=block_causal_mask(end, block)[None, None]).logits
        torch.testing.assert_close(both[:, start:end], alone[:, start:], atol=1e-5, rtol=0)
        clean_logits = model(clean, attention_mask=block_causal_mask(length, block)[None, None]).logits
        torch.testing.assert_close(
            both[:, length + start : length + end], clean_logits[:, start:end], atol=1e-5, rtol=0
        )


def test_block_diffusion_loss_is_the_loss_of_the_noisy_half(model):
    draw = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 40, (2, 12), generator=draw)
    noisy, labels = add_noise(clean, torch.tensor([2, 0]), 0.3, 0.8, MASK, draw)
    total = count = 0.0
    for k in range(3):
        partly = torch.cat([clean[:, : 4 * k], noisy[:, 4 * k : 4 * k + 4]], 1)
        mask = block_causal_mask(4 * k + 4, 4)[None, None]
        logits = model(partly, attention_mask=mask).logits[:, -4:]
        here = labels[:, 4 * k : 4 * k + 4]
        total += masked_cross_entropy(logits, here) * (here != -100).sum()
        count += (here != -100).sum()
    loss = block_diffusion_loss(model, clean, noisy, labels, 4)
    torch.testing.assert_close(loss, total / count)
    loss.backward()
    assert model.model.layers[2].mlp.gate.weight.grad.abs().max() > 0
