"""The whole way of a text LLaDA2: hub, dFactory's layout, the world's tokens, training, and back to a planner."""

import importlib.util
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.agents import make_agent
from wmtoolkit.cli.main import main
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.llada2 import LLaDA2MoeForCausalLM, add_noise, block_diffusion_loss
from wmtoolkit.llada2.checkpoint import open_checkpoint
from wmtoolkit.llada2.hub import download
from wmtoolkit.training.config import load_config
from wmtoolkit.training.loop import train
from wmtoolkit.world.growth import grow
from wmtoolkit.world.vocabulary import describing_words

LEVEL = "BabyAI-GoToRedBallGrey-v0"
STEPS = 240


def read_text(folder: Path, steps: int = 300, batch: int = 8, length: int = 64) -> None:
    """Train a tiny text LLaDA2 on lists of words that repeat with small changes: as a real one, it learns to copy."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = sorted({word for words in describing_words().values() for word in words if word})
    spelled = [tokenizer.encode(f" {word}").ids for word in words]
    network = LLaDA2MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 20) * (1 - step / steps))
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = []
        for _ in range(batch):
            listed = [piece for word in rng.integers(0, len(words), length) for piece in spelled[word]][:length]
            text = list(listed)
            for _ in range(2):
                again = text[-length:]
                for place in rng.integers(0, length, 6):
                    again[place] = listed[rng.integers(length)]
                text += again
            rows.append(text)
        ids = torch.tensor(rows)
        mask = tokenizer.token_to_id("<|mask|>")
        noisy, labels = add_noise(ids, torch.zeros(batch, dtype=torch.long), 0.3, 1.0, mask, generator)
        optimizer.zero_grad()
        block_diffusion_loss(network, ids, noisy, labels, length).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    network.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")


@pytest.fixture(scope="module")
def well_read(text_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text LLaDA2 after some reading, with the files that a repository on the hub has."""
    folder = tmp_path_factory.mktemp("read") / "LLaDA2-tiny"
    shutil.copytree(text_checkpoint, folder)
    read_text(folder)
    (folder / "README.md").write_text("# a text LLaDA2")
    (folder / "modeling_llada2_moe.py").write_text("# the original's code, never run here")
    return folder


@pytest.fixture
def hub(well_read: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a hub on this machine that serves the folder, by the real hub's protocol."""
    file = Path(__file__).parents[1] / "llada2" / "test_llada2_hub.py"
    spec = importlib.util.spec_from_file_location("hub_of_our_own", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # nothing leaves this machine all the same
    server = module.Hub(well_read)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"{module.REPO} {server.address}"
    server.shutdown()
    server.server_close()


def wmtool(*arguments: object) -> dict:
    done = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_from_the_hub_through_dfactory_to_a_planner(
    hub: str, data: Path, run_task: Callable, metrics: Callable, tmp_path: Path
) -> None:
    repository, address = hub.split()
    assert download(repository, tmp_path / "hub", endpoint=address)["layout"] == "separate"
    wmtool("convert", "--mode", "merge", "-i", tmp_path / "hub", "-o", tmp_path / "merged")
    losses = {}
    for rows in ("words", "random"):
        grown = tmp_path / f"grown-{rows}"
        wmtool("export", "--target", "grown", "--checkpoint", tmp_path / "merged", "--out", grown, "--rows", rows)
        task = tmp_path / f"dFactory-{rows}"
        length = ("--max-seq-len", 256, "--ranks", 1, "--micro-batch-size", 4)
        wmtool("export", "--data", data, "--checkpoint", grown, "--out", task, *length)
        options = ("--train.global_batch_size", 4, "--train.micro_batch_size", 4, "--train.num_train_epochs", 3)
        steps = ("--train.max_steps", STEPS // 3, "--train.save_epochs", 3)
        done = run_task(tmp_path / f"output-{rows}", *options, *steps, folder=task)
        assert done.returncode == 0, done.stderr[-3000:]
        losses[rows] = [line["loss"] for line in metrics(tmp_path / f"output-{rows}")]
    print(
        {
            name: [round(float(np.mean(part)), 3) for part in np.array_split(values, 4)]
            for name, values in losses.items()
        }
    )
    assert len(losses["words"]) == len(losses["random"]) == STEPS
    assert np.mean(losses["words"][-20:]) < 0.5 * np.mean(losses["words"][:5])
    assert losses["words"][0] < losses["random"][0]
    for words, random in zip(np.array_split(losses["words"], 3), np.array_split(losses["random"], 3), strict=True):
        assert words.mean() < random.mean()  # at equal steps, early and late

    trained = tmp_path / "output-words" / "checkpoints" / f"global_step_{STEPS}" / "hf_ckpt"
    wmtool("convert", "--mode", "split", "-i", trained, "-o", tmp_path / "split")
    assert open_checkpoint(tmp_path / "split").layout == "separate"
    model = AnyOrderWorldModel.from_pretrained(tmp_path / "split", precision="float32")
    env = make_level(LEVEL)
    observation = reset_level(env, 5)
    agent = make_agent("best-first", world_model=model, env=env, max_nodes=20)
    agent.reset(5)
    for _ in range(3):
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        if terminated or truncated:
            break
    env.close()
    chosen = ("--agent", "policy", "--level", LEVEL, "--imagined", "--episodes", 1)
    rolled = wmtool("rollout", "--checkpoint", tmp_path / "split", *chosen)
    assert rolled["metrics"]["success_rate"]["n"] == 1


def test_our_own_trainer_starts_better_from_text_than_from_random_rows_or_from_scratch(
    well_read: Path, text_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    """On the same batches, at equal steps; from scratch is the same network with random weights.

    On held-out windows rows made of words are ahead early, and random rows catch up within these steps.
    """
    config = tmp_path / "text.yaml"
    config.write_text(
        "base: tiny\n"
        "model: {num_hidden_layers: 3, num_experts: 8, n_group: 4, topk_group: 2, partial_rotary_factor: 0.5,\n"
        "        rope_theta: 10000}\n"
        "world: {compositional: false, slot_features: false, action_features: false, axes: false, egomotion: false,\n"
        "        start_heading: false, mission_features: false, expectation: false, memory: 0}\n"
        "masking: {mission_share: 0}\n"
        "scale: {optimizer: adamw}\n"
        f"training: {{steps: {STEPS}, checkpoint_every: {STEPS // 4}, batch_size: 8, learning_rate: 1.0e-3,\n"
        "           validation_windows: 128}\n"
        "logging: {every: 1, trackers: []}\n"
    )
    losses, held_out = {}, {}
    for name, source, rows in (
        ("words", well_read, "words"),
        ("random rows", well_read, "random"),
        ("scratch", text_checkpoint, "random"),
    ):
        grow(source, tmp_path / "start" / name, rows=rows)
        train(load_config(str(config)), tmp_path / "run" / name, [str(data)], init=tmp_path / "start" / name)
        lines = [json.loads(line) for line in (tmp_path / "run" / name / "metrics.jsonl").read_text().splitlines()]
        losses[name] = np.array([line["loss"] for line in lines if "loss" in line])
        held_out[name] = [line["validation_nll_per_step"] for line in lines if "validation_nll_per_step" in line]
    parts = {name: [float(part.mean()) for part in np.array_split(values, 6)] for name, values in losses.items()}
    print("loss", parts, "validation NLL", held_out)
    for other in ("random rows", "scratch"):
        assert losses["words"][0] < losses[other][0]
        assert all(words < others for words, others in zip(parts["words"], parts[other], strict=True))
        assert held_out["words"][0] < held_out[other][0]
    assert held_out["words"][-1] < held_out["scratch"][-1]
