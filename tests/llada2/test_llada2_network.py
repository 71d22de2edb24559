"""The network against the formulas written out plainly: one token, one head, one expert at a time."""

import math

import pytest
import torch

from wmtoolkit.llada2 import LLaDA2MoeForCausalLM, block_causal_mask
from wmtoolkit.llada2.layouts import from_fused


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).mean() + eps) * weight


def silu(x):
    return x * torch.sigmoid(x)


def mlp(x, w, prefix):
    gate, up, down = (w[f"{prefix}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return down @ (silu(gate @ x) * (up @ x))


def rotate(x, position, config):
    """Pairs (j, j + d/2) of the first d channels turn by position * theta^(-2j/d)."""
    dim = int(config.head_dim * config.partial_rotary_factor)
    half = dim // 2
    out = [x[c] for c in range(len(x))]
    for j in range(half):
        angle = position * config.rope_theta ** (-2 * j / dim)
        c, s = math.cos(angle), math.sin(angle)
        out[j] = x[j] * c - x[j + half] * s
        out[j + half] = x[j + half] * c + x[j] * s
    return torch.stack(out)


def attention(rows, w, prefix, positions, allowed, config):
    """rows: list of (hidden,) vectors; allowed[i][j]: i sees j."""
    n, k, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    queries, keys, values = [], [], []
    for x, position in zip(rows, positions, strict=True):
        heads = (w[f"{prefix}.query_key_value.weight"] @ x + w.get(f"{prefix}.query_key_value.bias", 0)).view(-1, d)
        q_weight, k_weight = w[f"{prefix}.query_layernorm.weight"], w[f"{prefix}.key_layernorm.weight"]
        eps = config.rms_norm_eps
        queries.append([rotate(rms_norm(heads[h], q_weight, eps), position, config) for h in range(n)])
        keys.append([rotate(rms_norm(heads[n + h], k_weight, eps), position, config) for h in range(k)])
        values.append([heads[n + k + h] for h in range(k)])
    out = []
    for i in range(len(rows)):
        heads = []
        for h in range(n):
            g = h // (n // k)
            seen = [j for j in range(len(rows)) if allowed[i][j]]
            scores = torch.stack([queries[i][h] @ keys[j][g] / math.sqrt(d) for j in seen])
            heads.append(sum(p * values[j][g] for p, j in zip(scores.softmax(0), seen, strict=True)))
        out.append(w[f"{prefix}.dense.weight"] @ torch.cat(heads) + w.get(f"{prefix}.dense.bias", 0))
    return out


def route(x, w, prefix, config):
    """Expert ids, in order of their biased scores, and weights."""
    logits = w[f"{prefix}.weight"] @ x
    scores = torch.sigmoid(logits)
    biased = scores + w[f"{prefix}.expert_bias"]
    size = config.num_experts // config.n_group
    groups = [range(g * size, (g + 1) * size) for g in range(config.n_group)]
    value = [sum(sorted((biased[e].item() for e in group), reverse=True)[:2]) for group in groups]
    best = sorted(range(config.n_group), key=lambda g: -value[g])[: config.topk_group]
    reachable = [e for g in best for e in groups[g]]
    chosen = sorted(reachable, key=lambda e: -biased[e].item())[: config.num_experts_per_tok]
    total = sum(scores[e] for e in chosen) + 1e-20
    weights = [scores[e] / (total if len(chosen) > 1 else 1) * config.routed_scaling_factor for e in chosen]
    return logits, chosen, weights


def network(ids, w, config, positions, allowed):
    """Logits, the layers' outputs, and the router's choices, of one row of ids."""
    rows = [w["model.word_embeddings.weight"][i] for i in ids]
    states, routing = [torch.stack(rows)], []
    for layer in range(config.num_hidden_layers):
        p, eps = f"model.layers.{layer}", config.rms_norm_eps
        normed = [rms_norm(x, w[f"{p}.input_layernorm.weight"], eps) for x in rows]
        attended = attention(normed, w, f"{p}.attention", positions, allowed, config)
        rows = [x + a for x, a in zip(rows, attended, strict=True)]
        routing.append([])
        for i, x in enumerate(rows):
            y = rms_norm(x, w[f"{p}.post_attention_layernorm.weight"], eps)
            if layer < config.first_k_dense_replace:
                rows[i] = x + mlp(y, w, f"{p}.mlp")
                continue
            logits, chosen, weights = route(y, w, f"{p}.mlp.gate", config)
            routing[-1].append((logits, chosen))
            mixed = mlp(y, w, f"{p}.mlp.shared_experts")
            for e, weight in zip(chosen, weights, strict=True):
                mixed = mixed + weight * mlp(y, w, f"{p}.mlp.experts.{e}")
            rows[i] = x + mixed
        states.append(torch.stack(rows))
    rows = [rms_norm(x, w["model.norm.weight"], config.rms_norm_eps) for x in rows]
    states[-1] = torch.stack(rows)
    table = w["model.word_embeddings.weight" if config.tie_word_embeddings else "lm_head.weight"]
    return torch.stack([table @ x for x in rows]), states, routing


def everything(length):
    return [[True] * length for _ in range(length)]


def test_logits_states_and_router_are_those_of_the_formulas(model, ids):
    weights = from_fused(model.state_dict(), "separate")
    out = model(ids, output_hidden_states=True, output_router_logits=True)
    assert out.logits.dtype == torch.float32
    config = model.config
    assert len(out.hidden_states) == config.num_hidden_layers + 1
    assert len(out.router_logits) == config.num_hidden_layers - config.first_k_dense_replace
    for row in range(len(ids)):
        logits, states, routing = network(ids[row], weights, config, range(12), everything(12))
        torch.testing.assert_close(out.logits[row], logits, atol=1e-5, rtol=0)
        for mine, theirs in zip(out.hidden_states, states, strict=True):
            torch.testing.assert_close(mine[row], theirs, atol=1e-5, rtol=0)
        for (mine_logits, mine_ids), layer in zip(out.router_logits, routing[1:], strict=True):
            assert mine_ids[row].tolist() == [chosen for _, chosen in layer]
            torch.testing.assert_close(mine_logits[row], torch.stack([x for x, _ in layer]), atol=1e-5, rtol=0)


def test_the_bias_and_the_groups_change_the_choice(model, ids):
    """Else the parity above would say nothing about them."""
    config = model.config
    weights = from_fused(model.state_dict(), "separate")
    _, _, routing = network(ids[0], weights, config, range(12), everything(12))
    plain, ungrouped, negative = 0, 0, 0
    for layer, tokens in enumerate(routing[1:], start=1):
        bias = weights[f"model.layers.{layer}.mlp.gate.expert_bias"]
        for logits, chosen in tokens:
            scores = torch.sigmoid(logits)
            plain += set(chosen) != set(scores.topk(3).indices.tolist())
            ungrouped += set(chosen) != set((scores + bias).topk(3).indices.tolist())
            negative += min((scores + bias)[chosen]).item() < 0
    assert plain > 5
    assert ungrouped > 5
    assert negative > 0


def test_positions_and_masks_are_arbitrary(model, ids):
    """Positions that jump and repeat, a random mask, and embeddings in place of ids."""
    draw = torch.Generator().manual_seed(3)
    positions = torch.randint(0, 5000, ids.shape, generator=draw)
    allowed = torch.rand(2, 1, 12, 12, generator=draw) < 0.5
    allowed |= torch.eye(12, dtype=torch.bool)
    embeds = model.get_input_embeddings()(ids)
    out = model(inputs_embeds=embeds, position_ids=positions, attention_mask=allowed)
    weights = from_fused(model.state_dict(), "separate")
    for row in range(2):
        logits, _, _ = network(ids[row], weights, model.config, positions[row].tolist(), allowed[row, 0].tolist())
        torch.testing.assert_close(out.logits[row], logits, atol=3e-5, rtol=0)


@pytest.mark.parametrize("experts", ["sorted_mm", "grouped_mm", "batched_mm", "eager"])
@pytest.mark.parametrize("train", [False, True])
def test_gradients_are_those_of_the_formulas(make_model, ids, experts, train):
    """In evaluation mode too: routed experts and router learn from both."""
    model = make_model(num_hidden_layers=2)
    model.set_experts_implementation(experts)
    model.train(train)
    labels = ids[:1, :6].clone()
    labels[0, ::2] = -100
    model(ids[:1, :6], labels=labels).loss.backward()
    weights = {
        key: tensor.detach().clone().requires_grad_(not key.endswith("expert_bias"))
        for key, tensor in from_fused(model.state_dict(), "separate").items()
    }
    logits, _, _ = network(ids[0, :6], weights, model.config, range(6), everything(6))
    picked = [-logits[i].log_softmax(-1)[ids[0, i]] for i in (1, 3, 5)]
    (sum(picked) / 3).backward()
    mine = from_fused({name: p.grad for name, p in model.named_parameters()}, "separate")
    for key, gradient in mine.items():
        expected = weights[key].grad if weights[key].grad is not None else torch.zeros_like(gradient)
        torch.testing.assert_close(gradient, expected, atol=2e-6, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    assert mine["model.layers.1.mlp.gate.weight"].abs().max() > 0


def test_the_pad_row_gets_no_gradient(model):
    pad = model.config.pad_token_id
    ids = torch.tensor([[1, pad, 2]])
    model(ids, labels=ids).loss.backward()
    assert not model.model.word_embeddings.weight.grad[pad].any()
    assert model.lm_head.weight.grad[pad].any()
    assert not LLaDA2MoeForCausalLM(model.config).model.word_embeddings.weight[pad].any()


def test_labels_are_compared_at_the_same_position(model, ids):
    labels = ids.clone()
    labels[:, ::3] = -100
    out = model(ids, labels=labels)
    kept = labels != -100
    expected = -out.logits.log_softmax(-1)[kept].gather(1, labels[kept][:, None]).mean()
    torch.testing.assert_close(out.loss, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_group": 1, "topk_group": 1},
        {"num_experts_per_tok": 1},
        {"num_shared_experts": None},
        {"first_k_dense_replace": 0},
        {"partial_rotary_factor": 1.0},
        {"num_key_value_heads": 4},
        {"routed_scaling_factor": 1.0},
        {"use_qkv_bias": True, "use_bias": True},
        {"tie_word_embeddings": True},
        {"rms_norm_eps": 0.1},
        # what the original never reads changes nothing
        {
            "use_qk_norm": True,
            "norm_topk_prob": False,
            "score_function": "softmax",
            "router_dtype": "bf16",
            "moe_router_enable_expert_bias": False,
            "rotary_dim": 2,
            "embedding_dropout": 0.5,
            "output_dropout": 0.5,
            "norm_head": True,
            "use_sliding_window": True,
            "sliding_window": 2,
            "max_position_embeddings": 4,
        },
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_the_architecture(make_model, ids, changes):
    model = make_model(**changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.3)
    if "embedding_dropout" in changes:
        model.train()  # attention's dropout, the only one there is, is 0
    weights = from_fused(model.state_dict(), "separate")
    if changes.get("num_shared_experts", 1) is None:
        for layer in (1, 2):
            for name in ("gate_proj", "up_proj"):
                weights[f"model.layers.{layer}.mlp.shared_experts.{name}.weight"] = torch.zeros(1, 32)
            weights[f"model.layers.{layer}.mlp.shared_experts.down_proj.weight"] = torch.zeros(32, 1)
    logits, _, _ = network(ids[0], weights, model.config, range(12), everything(12))
    torch.testing.assert_close(model(ids[:1]).logits[0], logits, atol=2e-5, rtol=0)


def test_glm4_moe_with_the_same_weights_gives_the_same(model, twin, twin_names, ids):
    """The closest network in Transformers, by the map of names; it needs a 4-D mask, or it is causal."""
    other = twin(model)
    see_all = torch.zeros(2, 1, 12, 12)
    torch.testing.assert_close(model(ids).logits, other(ids, attention_mask=see_all).logits, atol=1e-5, rtol=0)
    block_causal = torch.zeros(1, 1, 12, 12).masked_fill(~block_causal_mask(12, 4), float("-inf"))
    mine, theirs = (network(ids, attention_mask=block_causal).logits for network in (model, other))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)

    model(ids, labels=ids).loss.backward()
    logits = other(ids, attention_mask=see_all).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
    gradients = {name: p.grad for name, p in other.named_parameters()}
    compared = twin_names({name: p.grad for name, p in model.named_parameters()}, model.config)
    assert compared.keys() == gradients.keys()
    for name, gradient in compared.items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=1e-4, msg=lambda m, name=name: name + m)


def test_attention_weights_are_put_out_where_there_are_any(model, ids):
    with pytest.raises(ValueError, match="eager"):
        model(ids, output_attentions=True)
    assert model(ids).attentions is None
    model.set_attn_implementation("eager")
    weights = model(ids, output_attentions=True).attentions
    assert [tuple(layer.shape) for layer in weights] == [(2, 4, 12, 12)] * 3
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 4, 12))


def test_bfloat16_router_stays_in_float32(make_model, ids):
    model = make_model()
    half = make_model().to(torch.bfloat16)
    for layer in (1, 2):
        gate = half.model.layers[layer].mlp.gate
        assert gate.expert_bias.dtype == torch.float32
        assert torch.equal(gate.expert_bias, model.model.layers[layer].mlp.gate.expert_bias)
    out = half(ids, output_router_logits=True)
    assert out.logits.dtype == out.router_logits[0][0].dtype == torch.float32
    # layer 1 is the first router: what comes before differs by bfloat16's rounding only
    close = (out.router_logits[0][0] - model(ids, output_router_logits=True).router_logits[0][0]).abs()
    assert close.max() < 0.2
    loss = half(ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite()
    assert half.model.layers[1].mlp.experts.down_proj.grad.dtype == torch.bfloat16


def test_the_norm_is_cast_back_before_its_weight(make_model):
    """The order of the original: another one rounds differently in bfloat16."""
    norm = make_model().to(torch.bfloat16).model.norm
    hidden = torch.randn(20, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    wide = hidden.float()
    wide = wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + norm.eps)
    assert torch.equal(norm(hidden), wide.bfloat16() * norm.weight)
    assert not torch.equal(norm(hidden), (wide * norm.weight.float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_router_computes_in_float32_and_divides_by_a_sum_that_is_never_zero(make_model, dtype):
    gate = make_model().to(dtype).model.layers[1].mlp.gate
    hidden = torch.randn(50, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits, weights, chosen = gate(hidden)
    assert logits.dtype == weights.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ gate.weight.float().T, atol=1e-5, rtol=0)
    scores = logits.sigmoid().gather(1, chosen)
    torch.testing.assert_close(weights, 2.5 * scores / scores.sum(-1, keepdim=True), atol=1e-6, rtol=0)
    with torch.no_grad():
        gate.weight.fill_(-10.0)  # every score underflows to zero
    _, weights, _ = gate(torch.ones(1, 32, dtype=dtype))
    assert torch.equal(weights, torch.zeros(1, 3))


def test_the_config_can_ask_for_outputs(make_model, ids):
    out = make_model(output_router_logits=True, output_hidden_states=True)(ids)
    assert (len(out.router_logits), len(out.hidden_states)) == (2, 4)
    silent = make_model()(ids)
    assert silent.router_logits is silent.hidden_states is silent.loss is None


def test_gradient_checkpointing_changes_nothing(make_model, ids):
    plain, checkpointed = make_model().train(), make_model().train()
    checkpointed.activation_checkpointing_enable()
    for model in (plain, checkpointed):
        model(ids, labels=ids).loss.backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_unknown_and_doubled_arguments_are_refused(model, ids):
    with pytest.raises(TypeError):
        model(ids, noisy_input_ids=ids)  # the original swallows it and leaks the answer
    with pytest.raises(ValueError, match="input_ids"):
        model(ids, inputs_embeds=model.get_input_embeddings()(ids))
    assert isinstance(model(ids, return_dict=False), tuple)


def test_zero_shared_experts_is_an_empty_mlp_as_in_the_original(make_model, ids):
    empty, none = make_model(num_shared_experts=0), make_model(num_shared_experts=None)
    assert empty.state_dict()["model.layers.1.mlp.shared_experts.down_proj.weight"].shape == (32, 0)
    none.load_state_dict(empty.state_dict(), strict=False)
    torch.testing.assert_close(empty(ids).logits, none(ids).logits)
