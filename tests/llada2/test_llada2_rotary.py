"""Rotary positions: which channels turn, by which angle, with which stretching of the frequencies."""

import math

import pytest
import torch

from wmtoolkit.llada2 import LLaDA2MoeConfig
from wmtoolkit.llada2.rotary import LLaDA2MoeRotaryEmbedding, rotate

THETA, LONGEST = 600000, 64


def embedding(factor=0.5, head_dim=16, **changes):
    return LLaDA2MoeRotaryEmbedding(
        LLaDA2MoeConfig(
            head_dim=head_dim,
            partial_rotary_factor=factor,
            rope_theta=THETA,
            max_position_embeddings=LONGEST,
            **changes,
        )
    )


@pytest.mark.parametrize("factor", [0.0, 0.125, 0.25, 0.5, 0.75, 1.0])
def test_the_first_channels_turn_in_pairs_and_the_rest_pass(factor):
    dim = int(16 * factor)
    states = torch.randn(1, 1, 3, 16, generator=torch.Generator().manual_seed(0))
    positions = [0, 7, 2000]
    turned = rotate(states, *embedding(factor)(torch.tensor([positions]), torch.float32))
    assert torch.equal(turned[..., dim:], states[..., dim:])
    for i, position in enumerate(positions):
        for j in range(dim // 2):
            angle = position * THETA ** (-2 * j / dim)
            x, y = states[0, 0, i, j].item(), states[0, 0, i, j + dim // 2].item()
            expected = (x * math.cos(angle) - y * math.sin(angle), y * math.cos(angle) + x * math.sin(angle))
            found = (turned[0, 0, i, j].item(), turned[0, 0, i, j + dim // 2].item())
            assert found == pytest.approx(expected, abs=2e-4)  # float32 holds angle 2000 to about 1e-4


def plain(j, dim=8):
    return THETA ** (-2 * j / dim)


def linear(j, length):
    return plain(j) / 4


def dynamic(j, length):
    """NTK-aware: a larger base once the text outgrows the longest one trained on."""
    stretch = 4 * max(length, LONGEST) / LONGEST - 3
    return (THETA * stretch ** (8 / 6)) ** (-2 * j / 8)


def yarn(j, length, original=32):
    """Peng et al. 2023 (arXiv:2309.00071): between 32 and 1 turns over the original length, a linear ramp."""

    def pair_that_turns(times):
        return 8 * math.log(original / (times * 2 * math.pi)) / (2 * math.log(THETA))

    low, high = max(math.floor(pair_that_turns(32)), 0), min(math.ceil(pair_that_turns(1)), 7)
    kept = 1 - min(max((j - low) / (high - low), 0), 1)
    return plain(j) * kept + plain(j) / 4 * (1 - kept)


def llama3(j, length):
    turns = 32 * plain(j) / (2 * math.pi)  # over the original length
    share = min(max((turns - 1) / (4 - 1), 0), 1)
    return plain(j) / 4 * (1 - share) + plain(j) * share


SCALED = [
    ({"type": "linear", "factor": 4.0}, linear, 1.0),
    ({"type": "dynamic", "factor": 4.0}, dynamic, 1.0),
    ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, yarn, 0.1 * math.log(4) + 1),
    ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.5}, lambda j, n: yarn(j, n, original=LONGEST), 0.5),
    (
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        llama3,
        1.0,
    ),
    ({"rope_type": "default"}, lambda j, n: plain(j), 1.0),
]


@pytest.mark.parametrize(("scaling", "frequency", "factor"), SCALED, ids=[str(scaling) for scaling, _, _ in SCALED])
@pytest.mark.parametrize("length", [10, 200])
def test_rope_scaling_stretches_the_frequencies_as_the_original_does(scaling, frequency, factor, length):
    cos, sin = embedding(rope_scaling=scaling)(torch.arange(length)[None], torch.float32)
    last = length - 1
    for j in range(4):
        angle = last * frequency(j, length)
        assert cos[0, 0, last, j].item() == pytest.approx(factor * math.cos(angle), abs=1e-4)
        assert sin[0, 0, last, j + 4].item() == pytest.approx(factor * math.sin(angle), abs=1e-4)


@pytest.mark.parametrize("kind", ["dynamic", "yarn"])
def test_decoding_is_the_same_with_and_without_cache_whatever_the_scaling(make_model, kind):
    """Past the longest text trained on, where the dynamic kind turns earlier tokens anew."""
    model = make_model(max_position_embeddings=8, rope_scaling={"type": kind, "factor": 4.0}, initializer_range=0.3)
    prompts = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(0))
    options = {"block_length": 4, "steps": 4, "gen_length": 13, "eos_id": 47, "mask_id": 48}
    cached, recomputed = (model.generate(prompts, use_cache=use, **options) for use in (True, False))
    assert torch.equal(cached, recomputed)


def test_equal_axes_turn_as_one_axis_does(make_model, ids):
    plain, axes = make_model(), make_model(rope_axes=3)
    axes.load_state_dict(plain.state_dict())
    positions = torch.randint(0, 100, ids.shape)
    expected = plain(ids, position_ids=positions).logits
    torch.testing.assert_close(axes(ids, position_ids=positions).logits, expected)
    torch.testing.assert_close(axes(ids, position_ids=positions.expand(3, -1, -1)).logits, expected)
    different = torch.stack([positions, positions.flip(1), positions])  # a shift would change nothing
    assert (axes(ids, position_ids=different).logits - expected).abs().max() > 1e-3


def test_positions_of_other_axes_than_the_config_has_are_refused(make_model, ids):
    for axes in (1, 3):
        with pytest.raises(ValueError, match=f"rope_axes is {axes}"):
            make_model(rope_axes=axes)(ids, position_ids=torch.zeros(2, *ids.shape, dtype=torch.long))


def test_an_axis_turns_its_own_pairs(make_model):
    rotary = make_model(rope_axes=2).model.rotary_emb
    positions = torch.tensor([[[3]], [[8]]])
    cos, sin = rotary(positions, torch.float32)
    for j in range(3):
        angle = (3, 8)[j % 2] * 600000 ** (-2 * j / 6)
        assert cos[0, 0, 0, j].item() == pytest.approx(math.cos(angle), abs=1e-5)
        assert sin[0, 0, 0, j + 3].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_frequencies_survive_a_change_of_type(make_model, ids):
    """In bfloat16 the angle of position 5000 would be off by tens of radians."""
    far = torch.arange(5000, 5012)[None]
    model = make_model()
    expected = model(ids, position_ids=far).logits
    again = make_model().to(torch.bfloat16).float()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(ids, position_ids=far).logits, expected)
