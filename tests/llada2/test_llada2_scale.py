import json

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from wmtoolkit.cli.main import main
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM
from wmtoolkit.llada2.layouts import expected_tensors, from_fused
from wmtoolkit.llada2.released import released_config
from wmtoolkit.llada2.scale import cache_bytes_per_token, count_parameters, forward_flops, inference_cost, training_cost


@pytest.mark.parametrize(("name", "total", "active"), [("mini", 16.256e9, 1.433e9), ("flash", 102.890e9, 6.152e9)])
def test_released_models_have_the_published_number_of_parameters(name, total, active):
    config = released_config(name)
    with torch.device("meta"):
        model = LLaDA2MoeForCausalLM(config)
    built = sum(p.numel() for p in model.parameters())
    counts = count_parameters(config)
    assert counts["total"] == built
    assert counts["layer"] == sum(p.numel() for p in model.model.layers[1].parameters())
    assert built == pytest.approx(total, abs=0.5e6)
    assert counts["active"] == pytest.approx(active, abs=0.5e6)
    idle = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n) * (256 - 8) // 256
    assert counts["active"] == built - idle
    for layout in ("separate", "merged"):  # every key and shape of a real checkpoint, without its weights
        shapes = {key: tuple(tensor.shape) for key, tensor in from_fused(model.state_dict(), layout).items()}
        assert shapes == expected_tensors(config, layout)


@pytest.mark.parametrize("changes", [{}, {"num_shared_experts": None}, {"num_key_value_heads": 4}])
def test_flops_are_those_that_are_executed(make_model, changes):
    model = make_model(**changes)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # weighs the experts' answers without a matrix product
    ids = torch.randint(0, 40, (1, 64))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    assert forward_flops(model.config, 64, 64) == counter.get_total_flops()


def test_cache_bytes_are_those_that_are_held(model):
    cache = model(torch.zeros(1, 16, dtype=torch.long), use_cache=True).past_key_values
    held = sum(key.numel() * 4 + value.numel() * 4 for key, value in cache.layers)
    assert held == 16 * cache_bytes_per_token(model.config, bytes_each=4)


def test_costs_grow_as_they_should():
    mini = released_config("mini")
    one, eight = training_cost(mini, 2048, devices=1), training_cost(mini, 2048, devices=8)
    assert one["weight_bytes"] == 16 * count_parameters(mini)["total"] == 8 * eight["weight_bytes"]
    assert one["gathered_bytes"] == eight["gathered_bytes"] == 2 * count_parameters(mini)["layer"]
    assert one["flops"] == eight["flops"]
    assert training_cost(mini, 2048, batch=3)["activation_bytes"] == 3 * one["activation_bytes"]
    few, many = inference_cost(mini, 2048, passes=4), inference_cost(mini, 2048, passes=32)
    assert many["flops_per_token"] / few["flops_per_token"] == pytest.approx(33 / 5)
    assert few["weight_bytes"] == pytest.approx(32.5e9, rel=0.01)


def test_the_command_computes_the_table(model, tmp_path):
    run = CliRunner().invoke(main, ["scale"])
    assert run.exit_code == 0, run.stderr
    for number in ("16.256B", "1.433B", "102.890B", "6.152B"):
        assert number in run.stdout
    assert "neither a released model" in CliRunner().invoke(main, ["scale", "--model", "midi"]).stderr
    model.save_pretrained(tmp_path)
    run = CliRunner().invoke(main, ["scale", "--model", str(tmp_path), "--length", "64", "--json"])
    rows = json.loads(run.stdout)["rows"]
    assert [row["use"] for row in rows] == ["training", "inference"]
    assert rows[0]["parameters"] == sum(p.numel() for p in model.parameters())
    parts = ("weight", "gathered", "activation", "logits", "cache")
    assert all(row["memory_bytes"] == sum(row[f"{part}_bytes"] for part in parts) for row in rows)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_experts": 0}))
    run = CliRunner().invoke(main, ["scale", "--model", str(tmp_path)])
    assert run.stderr == f"wmtool: {tmp_path}/config.json: config field num_experts must be positive; it is 0\n"
