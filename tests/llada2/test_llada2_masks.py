import pytest
import torch

from wmtoolkit.llada2 import BlockCache, additive_mask, block_causal_mask, training_mask_2l


@pytest.mark.parametrize(("length", "block"), [(8, 4), (10, 4), (6, 1), (5, 8)])
def test_block_causal_mask_element_by_element(length, block):
    mask = block_causal_mask(length, block)
    assert mask.dtype == torch.bool
    for i in range(length):
        for j in range(length):
            assert mask[i, j].item() == (i // block >= j // block)


@pytest.mark.parametrize(("length", "block"), [(8, 4), (10, 4), (6, 1), (5, 8)])
def test_training_mask_element_by_element(length, block):
    mask = training_mask_2l(length, block)
    for q in range(2 * length):
        for k in range(2 * length):
            clean_q, clean_k = q >= length, k >= length
            block_q, block_k = q % length // block, k % length // block
            same_half_same_block = block_q == block_k and clean_q == clean_k
            noisy_to_earlier_clean = not clean_q and clean_k and block_q > block_k
            clean_to_clean = clean_q and clean_k and block_q >= block_k
            assert mask[q, k].item() == (same_half_same_block or noisy_to_earlier_clean or clean_to_clean), (q, k)


@pytest.fixture(params=["sdpa", "eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def attention(request):
    with torch.set_grad_enabled(request.param != "flex_attention"):  # which has no backward pass on a CPU
        yield request.param


def test_no_mask_and_a_mask_of_ones_see_everything(make_model, attention, ids):
    model = make_model()
    model.set_attn_implementation(attention)
    expected = make_model()(ids).logits
    ones = torch.ones_like(ids)
    everything = torch.ones(2, 1, 12, 12, dtype=torch.bool)
    for mask in (None, ones, ones.bool(), everything, everything[:1], torch.zeros(2, 1, 12, 12)):
        torch.testing.assert_close(model(ids, attention_mask=mask).logits, expected, atol=1e-5, rtol=0)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 40
    assert (model(changed).logits[:, 0] - expected[:, 0]).abs().max() > 1e-3  # the first token sees the last


def test_a_padding_mask_hides_keys_and_stays_bidirectional(make_model, attention, ids):
    model = make_model()
    model.set_attn_implementation(attention)
    padding = torch.ones_like(ids)
    padding[0, 8:] = 0
    padding[1, :3] = 0
    out = model(ids, attention_mask=padding).logits
    torch.testing.assert_close(out[0, :8], model(ids[:1, :8]).logits[0], atol=1e-5, rtol=0)
    positions = torch.arange(3, 12)[None]
    left_padded = model(ids[1:, 3:], position_ids=positions).logits[0]
    torch.testing.assert_close(out[1, 3:], left_padded, atol=1e-5, rtol=0)
    assert out.isfinite().all()


def test_additive_and_bool_masks_agree(make_model, attention, ids):
    model = make_model()
    model.set_attn_implementation(attention)
    allowed = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.4
    allowed |= torch.eye(12, dtype=torch.bool)
    additive = torch.zeros(2, 1, 12, 12).masked_fill(~allowed, float("-inf"))
    torch.testing.assert_close(
        model(ids, attention_mask=allowed).logits, model(ids, attention_mask=additive).logits, atol=1e-6, rtol=0
    )
    model.set_attn_implementation("eager")
    expected = model(ids, attention_mask=allowed).logits
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model(ids, attention_mask=allowed).logits, expected, atol=1e-5, rtol=0)


def test_an_additive_mask_is_added_as_it_is(make_model, ids):
    model = make_model()
    bias = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    model.set_attn_implementation("eager")
    eager = model(ids, attention_mask=bias).logits
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(ids, attention_mask=bias).logits, eager, atol=1e-5, rtol=0)
    assert (model(ids).logits - eager).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_may_see_nothing_give_no_nan(make_model, attention, ids, dtype):
    for mask in (
        torch.zeros_like(ids),
        torch.zeros(2, 1, 12, 12, dtype=torch.bool),
        torch.full((2, 1, 12, 12), float("-inf")),
    ):
        model = make_model().to(dtype)
        model.set_attn_implementation(attention)
        out = model(ids, attention_mask=mask, labels=ids)
        assert out.logits.isfinite().all()
        if torch.is_grad_enabled():
            out.loss.backward()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_a_row_that_may_see_nothing_sees_itself_alone(make_model, attention, ids, kind):
    """Or what is hidden would reach the rows that see it."""
    allowed = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    allowed[..., 5, :] = False  # token 5 sees nothing, all but 7 see it
    allowed[..., 7] = False  # nobody sees token 7
    alone = allowed.clone()
    alone[..., 5, 5] = True
    if kind == "additive":
        allowed = torch.zeros(1, 1, 12, 12).masked_fill(~allowed, float("-inf"))
    model = make_model()
    model.set_attn_implementation(attention)
    out = model(ids, attention_mask=allowed).logits
    torch.testing.assert_close(out, make_model()(ids, attention_mask=alone).logits, atol=1e-5, rtol=0)
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 40
    others = torch.arange(12) != 7
    torch.testing.assert_close(model(changed, attention_mask=allowed).logits[:, others], out[:, others])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_lowest_value_of_another_type_hides_all_the_same(make_model, ids, dtype):
    """The original builds its mask in bfloat16, whose lowest value float32 can hold."""
    allowed = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    allowed[..., 5, :] = False
    allowed[..., 3, :6] = False
    additive = torch.zeros(1, 1, 12, 12, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    model = make_model()
    expected = model(ids, attention_mask=allowed).logits
    torch.testing.assert_close(model(ids, attention_mask=additive).logits, expected, atol=1e-6, rtol=0)


def test_behind_a_cache_the_own_keys_are_the_last(model, ids):
    cache = BlockCache()
    model(ids[:, :8], past_key_values=cache)
    blind = torch.zeros(1, 1, 4, 12, dtype=torch.bool)
    own = blind.clone()
    own[..., 8:] = torch.eye(4, dtype=torch.bool)
    cache.writing = False
    expected = model(ids[:, 8:], attention_mask=own, past_key_values=cache).logits
    torch.testing.assert_close(model(ids[:, 8:], attention_mask=blind, past_key_values=cache).logits, expected)


def test_a_padded_row_does_not_disturb_the_others(make_model, ids):
    model = make_model()
    padding = torch.stack([torch.ones(12), torch.zeros(12)]).long()
    torch.testing.assert_close(
        model(ids, attention_mask=padding).logits[0], model(ids[:1]).logits[0], atol=1e-5, rtol=0
    )


def test_a_mask_of_another_rank_is_refused():
    with pytest.raises(ValueError, match="2-D or 4-D"):
        additive_mask(torch.ones(2, 3, 3), torch.float32)
    assert additive_mask(None, torch.float32) is None
