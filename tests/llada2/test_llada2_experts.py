"""Four ways to run the experts, one answer. (Their gradients are compared with the formulas in test_llada2_network.)"""

import pytest
import torch

from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
from wmtoolkit.llada2.experts import SORTED_MM
from wmtoolkit.llada2.modeling import LLaDA2MoeExperts

OTHERS = ["grouped_mm", "batched_mm", "eager"]


def layer(config, implementation):
    torch.manual_seed(0)
    config._experts_implementation = implementation
    experts = LLaDA2MoeExperts(config)
    with torch.no_grad():
        experts.gate_up_proj.normal_(std=0.3)
        experts.down_proj.normal_(std=0.3)
    return experts


def routed(tokens, used=8):
    draw = torch.Generator().manual_seed(1)
    ids = torch.rand(tokens, used, generator=draw).topk(3).indices
    return torch.randn(tokens, 32, generator=draw), ids, torch.rand(tokens, 3, generator=draw)


def test_the_default_is_the_one_measured_fastest_on_a_cpu(make_config, tmp_path):
    assert LLaDA2MoeForCausalLM(make_config()).config._experts_implementation == SORTED_MM
    assert LLaDA2MoeForCausalLM(make_config(experts_implementation="eager")).config._experts_implementation == "eager"
    model = LLaDA2MoeForCausalLM(make_config())
    model.save_pretrained(tmp_path)  # the choice is this machine's and is not stored
    assert "sorted" not in (tmp_path / "config.json").read_text()
    loaded = LLaDA2MoeForCausalLM.from_pretrained(tmp_path, experts_implementation="grouped_mm")
    assert loaded.config._experts_implementation == "grouped_mm"


@pytest.mark.parametrize("tokens", [1, 2, 57])
@pytest.mark.parametrize("used", [8, 3])
@pytest.mark.parametrize("other", OTHERS)
def test_outputs_and_gradients_agree(make_config, tokens, used, other):
    """Also with experts that no token chose."""
    results = []
    for name in (SORTED_MM, other):
        experts = layer(make_config(), name)
        hidden, ids, weights = routed(tokens, used)
        hidden.requires_grad_()
        weights.requires_grad_()
        out = experts(hidden, ids, weights)
        out.square().sum().backward()
        results.append([out, hidden.grad, weights.grad, experts.gate_up_proj.grad, experts.down_proj.grad])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("other", OTHERS)
def test_bfloat16_agrees_within_its_rounding(make_config, other):
    outputs = []
    for name in (SORTED_MM, other):
        hidden, ids, weights = routed(57)
        out = layer(make_config(moe_intermediate_size=16), name).to(torch.bfloat16)(hidden.bfloat16(), ids, weights)
        assert out.dtype == torch.bfloat16
        outputs.append(out.float())
    torch.testing.assert_close(outputs[0], outputs[1], atol=0.05, rtol=0.02)


def test_autocast_is_followed(make_config):
    experts = layer(make_config(), SORTED_MM)
    hidden, ids, weights = routed(57)
    with torch.autocast("cpu", torch.bfloat16):
        out = experts(hidden, ids, weights)
    plain = experts(hidden, ids, weights)
    assert out.dtype == torch.bfloat16
    assert 0 < (out - plain).abs().max() < 0.1


def test_sizes_that_grouped_mm_cannot_take(make_config):
    """It wants rows of a multiple of 16 bytes."""
    config = make_config(moe_intermediate_size=7)
    hidden, ids, weights = routed(20)
    torch.testing.assert_close(
        layer(config, SORTED_MM)(hidden, ids, weights),
        layer(make_config(moe_intermediate_size=7), "eager")(hidden, ids, weights),
    )


def test_no_tokens(make_config):
    hidden, ids, weights = routed(0)
    assert layer(make_config(), SORTED_MM)(hidden, ids, weights).shape == (0, 32)
