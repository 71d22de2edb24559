"""The sampler against the rules written out for one row, and against diffusers' scheduler."""

from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_block_refinement import BlockRefinementScheduler

from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import block_causal_mask

END, MASK = 47, 48
COMMON = {"block_length": 4, "steps": 4, "gen_length": 14, "eos_id": END, "mask_id": MASK}


def window_logits(model, x, block_length):
    """Full recompute of one row's window; logits of its last block."""
    mask = block_causal_mask(len(x), block_length)[None, None]
    return model(x[None], attention_mask=mask).logits[0, -block_length:]


@torch.no_grad()
def plainly(model, prompt, *, block_length, steps, gen_length, eos_id, mask_id, threshold=0.95, minimal_topk=1):
    """LLaDA2.0's rules for one row at temperature 0; also how many tokens each pass committed."""
    steps = min(steps, gen_length // minimal_topk)
    total = -(-(len(prompt) + gen_length) // block_length) * block_length
    x = torch.full((total,), mask_id)
    x[: len(prompt)] = prompt
    due = [block_length // steps + (1 if s < block_length % steps else 0) for s in range(steps)]
    history = []
    for block in range(len(prompt) // block_length, total // block_length):
        start, end = block * block_length, (block + 1) * block_length
        for n in due:
            masked = [i for i in range(start, end) if x[i] == mask_id]
            if not masked:
                break
            probabilities = window_logits(model, x[:end], block_length).softmax(-1)
            confidence = {i: probabilities[i - start].max().item() for i in masked}
            high = [i for i in masked if confidence[i] > threshold]
            ranked = sorted(masked, key=lambda i: -confidence[i])
            chosen = high if len(high) >= n else ranked[: min(n, len(masked))]
            for i in chosen:
                x[i] = probabilities[i - start].argmax()
            history.append(len(chosen))
        if (x[len(prompt) : end] == eos_id).any():
            break
    answer = x[len(prompt) : len(prompt) + gen_length].tolist()
    return answer[: answer.index(eos_id) + 1] if eos_id in answer else answer, history


def rows(answers, pad=46):
    """Answers without their padding (no model here ever answers with the pad token by itself)."""
    return [[i for i in row if i != pad] for row in answers.tolist()]


@pytest.fixture
def model(make_model):
    """A network whose confidence varies: some tokens pass a threshold of one half, and some answers end early."""
    model = make_model(seed=4, initializer_range=0.25)
    with torch.no_grad():
        model.lm_head.weight[46] = 0  # never the likeliest
    return model


def prompts(count, length, seed=0):
    return torch.randint(0, 46, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.5},
        {"threshold": 0.2},
        {"steps": 2},
        {"steps": 3},
        {"steps": 9, "threshold": 0.4},
        {"minimal_topk": 7},
        {"block_length": 8, "steps": 8, "gen_length": 9},
        {"gen_length": 1, "steps": 1},
    ],
)
def test_each_row_of_a_batch_is_decoded_by_the_rules(model, options, cached):
    options = {**COMMON, **options}
    batch = prompts(12, 7)
    answers = rows(model.generate(batch, use_cache=cached, **options))
    for row, answer in zip(batch, answers, strict=True):
        assert answer == plainly(model, row, **options)[0]


def test_the_cases_above_are_not_all_alike(model):
    """Early ends, full answers, passes that commit one token and passes that commit several."""
    found = [plainly(model, row, **COMMON, threshold=0.5) for row in prompts(12, 7)]
    lengths = {len(answer) for answer, _ in found}
    assert 14 in lengths
    assert len(lengths) > 2
    assert {1, 2, 3} <= {n for _, history in found for n in history}


@pytest.mark.parametrize("length", [0, 3, 4, 5, 8])
def test_blocks_are_aligned_to_index_zero_whatever_the_prompt(model, length):
    batch = prompts(4, length)
    answers = rows(model.generate(batch, **COMMON))
    for row, answer in zip(batch, answers, strict=True):
        assert answer == plainly(model, row, **COMMON)[0]


def test_a_mask_in_a_prompt_is_filled_where_decoding_begins_and_nowhere_before(model):
    batch, lengths = prompts(2, 7), torch.tensor([7, 2])
    batch[0, [1, 5]] = MASK  # in a block of prompt alone, and in the first block decoded
    together = rows(model.generate(batch, prompt_lengths=lengths, **COMMON))
    for row, length, answer in zip(batch, lengths.tolist(), together, strict=True):
        assert answer == plainly(model, row[:length], **COMMON)[0]


@pytest.mark.parametrize("early", [False, True])
def test_prompts_of_different_lengths_in_one_batch(model, early):
    batch, lengths = prompts(6, 9), torch.tensor([9, 2, 0, 5, 8, 4])
    answers = rows(model.generate(batch, prompt_lengths=lengths, eos_early_stop=early, **COMMON))
    for row, length, answer in zip(batch, lengths.tolist(), answers, strict=True):
        assert answer == plainly(model, row[:length], **COMMON)[0]


def test_stopping_early_changes_the_work_and_not_the_answer(model):
    """What is committed is final, so the tokens up to the end are the same; the prompt's end tokens do not count."""
    batch = prompts(12, 7)
    batch[:, 2] = END
    passes = []
    model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    full = model.generate(batch[:1], **COMMON)
    counted = len(passes)
    assert rows(model.generate(batch[:1], eos_early_stop=True, **COMMON)) == rows(full)
    assert len(passes) - counted <= counted
    early, late = (model.generate(batch, eos_early_stop=stop, **COMMON) for stop in (True, False))
    assert rows(early) == rows(late)
    assert any(row[-1] == END for row in rows(early))


def test_early_stop_saves_passes_inside_a_block(make_model):
    model = make_model()
    with torch.no_grad():  # the end token everywhere, surest at the block's start
        model.lm_head.weight.zero_()
    bias = torch.zeros(50)
    bias[END] = 1.0
    model.lm_head.register_forward_hook(lambda _m, _i, out: out + bias)
    counts = []
    for stop in (True, False):
        passes = []
        hook = model.model.register_forward_hook(lambda *_, seen=passes: seen.append(1))
        out = model.generate(prompts(1, 4), eos_early_stop=stop, order="fixed", **COMMON)
        hook.remove()
        assert out.tolist() == [[END]]
        counts.append(len(passes))
    assert counts[0] < counts[1]


def test_steps_are_those_of_diffusers_scheduler(model):
    """Block by block with its ``step``; thresholds from never to nearly always."""
    for threshold in (0.99, 0.5, 0.2):
        for steps in (2, 3, 4):
            scheduler = BlockRefinementScheduler(block_length=4, num_inference_steps=steps, threshold=threshold)
            batch = prompts(8, 8, seed=steps)
            answers = model.generate(
                batch, block_length=4, steps=steps, gen_length=4, eos_id=49, mask_id=MASK, threshold=threshold
            )
            for row, answer in zip(batch, answers, strict=True):
                scheduler.set_timesteps(steps, block_length=4)
                block = torch.full((1, 4), MASK)
                for step in range(steps):
                    if not (block == MASK).any():
                        break
                    with torch.no_grad():
                        logits = window_logits(model, torch.cat([row, block[0]]), 4)[None]
                    block = scheduler.step(logits, step, block, mask_token_id=MASK, temperature=0.0).prev_sample
                assert answer.tolist() == block[0].tolist()


def test_glm4_moe_under_diffusers_scheduler_generates_the_same(model, twin):
    """Network, masks and sampler all by other hands: every id of several blocks."""
    other = twin(model)
    scheduler = BlockRefinementScheduler(block_length=4, num_inference_steps=4, threshold=0.5)
    scheduler.set_timesteps(4, block_length=4)
    batch = prompts(10, 6, seed=2)
    answers = model.generate(batch, **{**COMMON, "gen_length": 10, "eos_id": 49}, threshold=0.5)
    for row, answer in zip(batch, answers, strict=True):
        x = torch.cat([row, torch.full((10,), MASK)])
        for start in range(4, 16, 4):
            allowed = torch.zeros(start + 4, start + 4)
            for i in range(start + 4):
                allowed[i, (i // 4 + 1) * 4 :] = float("-inf")
            for step in range(4):
                with torch.no_grad():
                    logits = other(x[None, : start + 4], attention_mask=allowed[None, None]).logits[:, -4:]
                block = x[None, start : start + 4]
                x[start : start + 4] = scheduler.step(logits, step, block, mask_token_id=MASK).prev_sample[0]
        assert answer.tolist() == x[6:].tolist()


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 8, "top_p": 0.8}])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.8])
def test_draws_are_those_of_diffusers_scheduler(model, temperature, filters):
    """From a generator in the same state, token for token."""
    scheduler = BlockRefinementScheduler(block_length=4, num_inference_steps=3, threshold=0.4)
    scheduler.set_timesteps(3, block_length=4)
    for seed, row in enumerate(prompts(8, 8, seed=3)):
        options = {"temperature": temperature, **filters}
        answer = model.generate(
            row[None],
            **{**COMMON, "steps": 3, "gen_length": 4, "eos_id": 49},
            **options,
            threshold=0.4,
            generator=torch.Generator().manual_seed(seed),
        )
        draw, block = torch.Generator().manual_seed(seed), torch.full((1, 4), MASK)
        for step in range(3):
            if not (block == MASK).any():
                break
            with torch.no_grad():
                logits = window_logits(model, torch.cat([row, block[0]]), 4)[None]
            block = scheduler.step(logits, step, block, mask_token_id=MASK, generator=draw, **options).prev_sample
        assert answer.tolist() == block.tolist()


def test_orders_commit_the_share_due(make_model):
    """Recorded through the passes: which positions were filled when."""
    model = make_model(seed=4)
    batch = prompts(3, 4)
    for order in ("fixed", "entropy", "random", "confidence"):
        seen = []
        hook = model.model.register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append((args[0][:, -4:] == MASK).clone())
        )
        draw = torch.Generator().manual_seed(0)
        options = {**COMMON, "gen_length": 4, "threshold": 1.0, "eos_id": 49}
        model.generate(batch, order=order, use_cache=False, generator=draw, **options)
        hook.remove()
        assert [int(mask.sum()) for mask in seen] == [12, 9, 6, 3]
        filled = [(a & ~b).int().argmax(-1) for a, b in pairwise(seen)]
        if order == "fixed":
            assert [f.tolist() for f in filled] == [[0] * 3, [1] * 3, [2] * 3]
        if order == "random":
            assert len({tuple(f[row].item() for f in filled) for row in range(3)}) > 1
        if order == "entropy":
            with torch.no_grad():
                first = torch.stack(
                    [window_logits(model, torch.cat([row, torch.full((4,), MASK)]), 4) for row in batch]
                )
            entropy = torch.distributions.Categorical(logits=first).entropy()
            assert filled[0].tolist() == entropy.argmin(-1).tolist()


def test_sampling_draws_from_the_generator_and_top_k_one_is_greedy(model):
    batch = prompts(8, 5)
    options = {**COMMON, "gen_length": 11, "eos_id": 49}

    def sample(seed, **more):
        return model.generate(batch, temperature=1.5, generator=torch.Generator().manual_seed(seed), **options, **more)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))
    greedy = sample(0, top_k=1)
    # every confidence is one, so a whole block is committed in its first pass
    whole = model.generate(batch, **{**options, "threshold": -1.0})
    assert torch.equal(greedy, whole)
    assert torch.equal(sample(3, top_p=1e-6), greedy)


def test_top_k_and_top_p_leave_the_right_tokens(make_model):
    """One position, a known distribution, many draws."""
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    wanted = torch.full((50,), 1e-9)
    wanted[:4] = torch.tensor([0.4, 0.3, 0.2, 0.1])
    model.lm_head.register_forward_hook(lambda _m, _i, out: out + wanted.log())
    batch = torch.zeros(4000, 0, dtype=torch.long)

    def shares(**more):
        draw = torch.Generator().manual_seed(0)
        options = {"block_length": 1, "steps": 1, "gen_length": 1, "mask_id": MASK, "eos_id": END}
        out = model.generate(batch, temperature=1.0, generator=draw, **options, **more)
        return torch.bincount(out.flatten(), minlength=4)[:4] / len(batch)

    torch.testing.assert_close(shares(), torch.tensor([0.4, 0.3, 0.2, 0.1]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(top_k=2), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(top_p=0.65), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.03, rtol=0)
    torch.testing.assert_close(shares(top_k=3, top_p=0.5), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.03, rtol=0)
    hot = torch.tensor([0.4, 0.3, 0.2, 0.1]) ** 0.5
    draw = torch.Generator().manual_seed(0)
    out = model.generate(
        batch, temperature=2.0, top_k=4, generator=draw, block_length=1, steps=1, gen_length=1, mask_id=MASK, eos_id=END
    )
    torch.testing.assert_close(
        torch.bincount(out.flatten(), minlength=4)[:4] / 4000, hot / hot.sum(), atol=0.03, rtol=0
    )


def test_the_cache_saves_work_and_changes_nothing(model):
    batch = prompts(5, 30)
    tokens = {}
    for cached in (True, False):
        seen = []
        hook = model.model.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0].numel()))
        answer = model.generate(batch, use_cache=cached, **{**COMMON, "eos_id": 49})
        hook.remove()
        tokens[cached] = sum(seen), answer
    assert torch.equal(tokens[True][1], tokens[False][1])
    assert tokens[True][0] < tokens[False][0] / 4


@pytest.mark.parametrize(("threshold", "passes"), [(1.0, 4), (0.999, 1)])
def test_only_what_exceeds_the_threshold_is_committed_beyond_the_share(model, threshold, passes):
    """With one candidate left every confidence is exactly one."""
    seen = []
    hook = model.model.register_forward_hook(lambda *_: seen.append(1))
    options = {**COMMON, "gen_length": 4, "eos_id": None, "use_cache": False}
    model.generate(prompts(1, 4), temperature=1.0, top_k=1, threshold=threshold, **options)
    hook.remove()
    assert len(seen) == passes


def test_answers_do_not_depend_on_the_neighbours(model):
    batch = prompts(6, 7)
    together = rows(model.generate(batch, threshold=0.5, **COMMON))
    alone = [rows(model.generate(batch[i : i + 1], threshold=0.5, **COMMON))[0] for i in range(6)]
    assert together == alone


def test_bfloat16_decodes(make_model):
    """The 4-D mask and the cache take the model's type."""
    model = make_model(seed=4).to(torch.bfloat16)
    for cached in (True, False):
        answers = model.generate(prompts(3, 7), use_cache=cached, **COMMON)
        assert not (answers == MASK).any()
        assert answers.shape == (3, 14)


def test_without_an_end_token_no_row_ends(model):
    batch = prompts(12, 7)
    assert any(END in row for row in model.generate(batch, **COMMON).tolist())
    endless = model.generate(batch, **{**COMMON, "eos_id": None})
    assert torch.equal(endless, model.generate(batch, **{**COMMON, "eos_id": 49}))
    assert endless.shape == (12, 14)


def test_prompts_go_by_the_originals_name_too(model):
    batch = prompts(2, 7)
    assert torch.equal(model.generate(inputs=batch, **COMMON), model.generate(batch, **COMMON))
    for wrong in ({}, {"inputs": batch, "input_ids": batch}):
        with pytest.raises(TypeError, match="input_ids"):
            model.generate(**wrong, **COMMON)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mask_id": 156895}, "mask_id 156895"),
        ({"block_length": 0}, "block_length"),
        ({"gen_length": 0}, "gen_length"),
        ({"steps": 0}, "steps"),
        ({"minimal_topk": 20}, "steps is 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"prompt_lengths": torch.tensor([9])}, "prompt_lengths"),
        ({"order": "randm"}, "order is 'randm'"),
        ({"editing_threshold": 0.5, "num_to_transfer": 0}, "num_to_transfer"),
    ],
)
def test_wrong_options_are_named(model, wrong, named):
    with pytest.raises(UserError, match=named):
        model.generate(prompts(1, 7), **{**COMMON, **wrong})
    with pytest.raises(UserError, match="input_ids"):
        model.generate(prompts(1, 7)[0], **COMMON)
