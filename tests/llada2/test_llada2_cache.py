import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtoolkit.llada2 import BlockCache, block_causal_mask

BLOCK = 4


def recomputed(model, ids):
    return model(ids, attention_mask=block_causal_mask(ids.shape[1], BLOCK)[None, None]).logits


def write(model, cache, ids):
    """Blocks, one forward pass each, into the cache; their logits."""
    cache.writing = True
    return torch.cat([model(block, past_key_values=cache).logits for block in ids.split(BLOCK, dim=1)], dim=1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_block_by_block_equals_the_full_recompute(make_model, ids, attention):
    model = make_model()
    model.set_attn_implementation(attention)
    torch.testing.assert_close(write(model, BlockCache(), ids), recomputed(model, ids), atol=1e-5, rtol=0)


def test_several_blocks_can_enter_at_once(model, ids):
    cache = BlockCache()
    mask = block_causal_mask(8, BLOCK)[None, None]
    first = model(ids[:, :8], attention_mask=mask, past_key_values=cache).logits
    last = model(ids[:, 8:], past_key_values=cache).logits
    torch.testing.assert_close(torch.cat([first, last], 1), recomputed(model, ids), atol=1e-5, rtol=0)


def test_a_pass_for_the_cache_alone_writes_the_same(model, ids):
    whole, short = BlockCache(), BlockCache()
    mask = block_causal_mask(8, BLOCK)[None, None]
    model(ids[:, :8], attention_mask=mask, past_key_values=whole)
    model.model(ids[:, :8], attention_mask=mask, past_key_values=short, keep=0)
    assert short.position == whole.position == 8
    torch.testing.assert_close(short.layers, whole.layers, atol=0, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_tokens_alone_are_the_same_and_learn_the_same(make_model, ids, attention):
    model = make_model()
    model.set_attn_implementation(attention)
    mask = block_causal_mask(ids.shape[1], BLOCK)[None, None]
    wanted = model.model(ids, attention_mask=mask).last_hidden_state[:, -5:]
    found = model.model(ids, attention_mask=mask, keep=5).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    weights = [value for value in model.model.parameters() if value.requires_grad]
    gradients = [
        torch.autograd.grad(part.square().sum(), weights, allow_unused=True, retain_graph=True)
        for part in (wanted, found)
    ]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_looking_does_not_write(model, ids):
    cache = BlockCache()
    write(model, cache, ids[:, :8])
    before = [(key.clone(), value.clone()) for key, value in cache.layers]
    cache.writing = False
    noisy = ids[:, 8:].clone()
    noisy[:, 1:] = 48
    for _ in range(2):
        looked = model(noisy, past_key_values=cache).logits
        torch.testing.assert_close(
            looked, recomputed(model, torch.cat([ids[:, :8], noisy], 1))[:, 8:], atol=1e-5, rtol=0
        )
    assert cache.get_seq_length() == cache.position == 8
    for (key, value), (old_key, old_value) in zip(cache.layers, before, strict=True):
        assert torch.equal(key, old_key)
        assert torch.equal(value, old_value)
    write(model, cache, ids[:, 8:])
    assert cache.get_seq_length() == 12


def test_rows_branch_and_are_reordered(model, ids):
    cache = BlockCache()
    write(model, cache, ids[:, :8])
    rows = torch.tensor([1, 0, 1, 1])
    branches = cache.select(rows)
    ends = torch.randint(0, 40, (4, BLOCK), generator=torch.Generator().manual_seed(5))
    out = model(ends, past_key_values=branches).logits
    histories = torch.cat([ids[rows, :8], ends], 1)
    torch.testing.assert_close(out, recomputed(model, histories)[:, 8:], atol=1e-5, rtol=0)
    # the branch has grown, its origin has not, and goes on as if nothing had been
    assert (branches.get_seq_length(), cache.get_seq_length()) == (12, 8)
    torch.testing.assert_close(write(model, cache, ids[:, 8:]), recomputed(model, ids)[:, 8:], atol=1e-5, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.one_of(st.just("write"), st.just("look"), st.lists(st.integers(0, 5), min_size=1, max_size=4))),
    st.integers(0, 100),
)
def test_whatever_is_written_looked_at_and_branched_equals_the_recompute(make_model, actions, seed):
    """Rows as a planner treats them: lengthened, copied, dropped, re-ordered, in any succession."""
    model, draw = make_model(), torch.Generator().manual_seed(seed)
    cache, history = BlockCache(), torch.zeros(2, 0, dtype=torch.long)
    for action in [*actions, "look"]:
        if isinstance(action, list):
            rows = torch.tensor(action) % len(history)
            cache, history = cache.select(rows), history[rows]
            continue
        block = torch.randint(0, 40, (len(history), BLOCK), generator=draw)
        cache.writing = action == "write"
        out = model(block, past_key_values=cache).logits
        longer = torch.cat([history, block], 1)
        torch.testing.assert_close(out, recomputed(model, longer)[:, -BLOCK:], atol=1e-5, rtol=0)
        history = longer if cache.writing else history
        assert cache.get_seq_length() == cache.position == history.shape[1]


def test_a_branch_of_a_branch(model, ids):
    cache = BlockCache()
    write(model, cache, ids[:, :BLOCK])
    first = cache.select(torch.tensor([0, 0]))
    write(model, first, ids[:, BLOCK:8])
    second = first.select(torch.tensor([1]))
    out = write(model, second, ids[:1, 8:])
    history = torch.cat([ids[:1, :BLOCK], ids[1:, BLOCK:8], ids[:1, 8:]], 1)
    torch.testing.assert_close(out, recomputed(model, history)[:, 8:], atol=1e-5, rtol=0)


def test_memory_is_bounded_and_positions_go_on(model):
    """A row of many blocks with room for two: as if each block saw the two before it, at their true positions."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 40, (2, 24), generator=draw)
    cache = BlockCache(max_length=8)
    out = write(model, cache, ids)
    assert cache.get_seq_length() == 8
    assert cache.position == 24
    for key, value in cache.layers:
        assert key.untyped_storage().nbytes() == key.numel() * 4  # what is forgotten is freed
        assert value.untyped_storage().nbytes() == value.numel() * 4
    # the first layer's view is exactly this window; deeper ones saw further through what they remember
    block = torch.arange(24) // BLOCK
    distance = block[:, None] - block[None, :]
    window = (distance >= 0) & (distance <= 2)
    torch.testing.assert_close(out, model(ids, attention_mask=window[None, None]).logits, atol=1e-5, rtol=0)


def test_keep_drops_tokens_for_all_rows(model, ids):
    cache = BlockCache()
    write(model, cache, ids[:, :8])
    cache.keep(torch.tensor([0, 1, 4, 5, 6, 7]))
    assert cache.get_seq_length() == 6
    assert cache.position == 8  # what follows keeps its place
    out = model(ids[:, 8:], past_key_values=cache).logits
    mask = block_causal_mask(12, BLOCK)
    mask[8:, 2:4] = False
    torch.testing.assert_close(out, model(ids, attention_mask=mask[None, None]).logits[:, 8:], atol=1e-5, rtol=0)


def test_a_cache_is_started_only_on_request(model, ids):
    assert model(ids).past_key_values is None
    assert model(ids[:, :4], use_cache=True).past_key_values.get_seq_length() == 4
