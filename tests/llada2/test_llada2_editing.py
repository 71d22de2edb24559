"""LLaDA2.1's token editing: committed tokens may be overwritten until nothing changes."""

import pytest
import torch
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementScheduler

from wmtoolkit.llada2 import block_causal_mask

END, MASK = 47, 48
COMMON = {"block_length": 4, "steps": 4, "gen_length": 14, "eos_id": END, "mask_id": MASK}


def window_logits(model, x, block_length):
    """Full recompute of one row's window; logits of its last block."""
    mask = block_causal_mask(len(x), block_length)[None, None]
    return model(x[None], attention_mask=mask).logits[0, -block_length:]


@pytest.fixture
def model(make_model):
    model = make_model(seed=4, initializer_range=0.25)
    with torch.no_grad():
        model.lm_head.weight[46] = 0  # the pad token: never the likeliest
    return model


def prompts(count, length, seed=0):
    return torch.randint(0, 46, (count, length), generator=torch.Generator().manual_seed(seed))


def test_with_editing_only_early_stop_ends_a_row_at_its_end_token(make_model):
    model = make_model()
    bias = torch.zeros(50)
    bias[END] = 50.0
    model.lm_head.register_forward_hook(lambda _m, _i, out: out + bias)
    passes = []
    model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    counts = []
    for stop in (True, False):
        passes.clear()
        out = model.generate(prompts(1, 4), editing_threshold=0.5, eos_early_stop=stop, **COMMON)
        assert out.tolist() == [[END]]
        counts.append(len(passes))
    assert counts[0] < counts[1] / 2


def test_token_editing_is_that_of_diffusers_scheduler(model):
    edits = 0
    for editing in (0.3, 0.5):
        scheduler = BlockRefinementScheduler(block_length=4, num_inference_steps=4, threshold=0.6)
        scheduler.set_timesteps(4, block_length=4)
        batch = prompts(20, 6, seed=9)
        answers = model.generate(
            batch,
            block_length=4,
            gen_length=2,
            eos_id=49,
            mask_id=MASK,
            threshold=0.6,
            editing_threshold=editing,
            max_post_steps=5,
        )
        for row, answer in zip(batch, answers, strict=True):
            block = torch.cat([row[4:], torch.tensor([MASK, MASK])])[None]
            is_prompt = torch.tensor([True, True, False, False])
            post_steps = 0
            while True:
                masks = bool((block == MASK).any())
                post_steps += not masks
                if post_steps > 5:
                    break
                with torch.no_grad():
                    logits = window_logits(model, torch.cat([row[:4], block[0]]), 4)[None]
                out = scheduler.step(
                    logits, 0, block, mask_token_id=MASK, editing_threshold=editing, prompt_mask=is_prompt
                )
                block = out.prev_sample
                edits += int(out.editing_transfer_index.sum())
                if not masks and not out.editing_transfer_index.any():
                    break
            assert answer.tolist() == block[0, 2:].tolist()
    assert edits > 3


def test_editing_ends_even_if_the_model_answers_with_the_mask(make_model):
    model = make_model()
    bias = torch.zeros(50)
    bias[MASK] = 50.0
    model.lm_head.register_forward_hook(lambda _m, _i, out: out + bias)
    answers = model.generate(prompts(3, 5), editing_threshold=0.0, threshold=0.5, **COMMON)
    assert answers.shape == (3, 14)
    assert not (answers == MASK).any()
    # without editing the original commits the mask itself, once, and goes on when its steps are used up
    assert (model.generate(prompts(1, 5), **COMMON) == MASK).all()


@pytest.mark.parametrize("cached", [True, False])
def test_rows_of_any_prompt_are_edited_as_if_alone(model, cached):
    batch, lengths = prompts(6, 9), torch.tensor([9, 2, 3, 5, 8, 4])
    options = {**COMMON, "threshold": 0.5, "editing_threshold": 0.2, "max_post_steps": 3}
    together = model.generate(batch, prompt_lengths=lengths, use_cache=cached, **options)
    plain = model.generate(batch, prompt_lengths=lengths, **{**options, "editing_threshold": 2.0})
    assert not torch.equal(together, plain)  # something was edited
    for row, length, answer in zip(batch, lengths.tolist(), together, strict=True):
        alone = model.generate(row[None, :length], use_cache=False, **options)[0]
        assert torch.equal(answer[: len(alone)], alone)
        assert (answer[len(alone) :] == 46).all()
