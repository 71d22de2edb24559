"""The task as dFactory runs it, from arguments to checkpoint, with a stand-in for VeOmni."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wmtoolkit import AnyOrderWorldModel, WorldTokenizer
from wmtoolkit.data import open_store
from wmtoolkit.dfactory.any_order.layout import Layout
from wmtoolkit.dfactory.any_order.step import any_order_loss, network_inputs
from wmtoolkit.dfactory.any_order.transform import WEIGHTS, AnyOrderTransform
from wmtoolkit.dfactory.sequences import sequences
from wmtoolkit.llada2.checkpoint import open_checkpoint
from wmtoolkit.llada2.convert import convert
from wmtoolkit.training.config import LossConfig
from wmtoolkit.training.objective import MaskedReconstruction, weigh
from wmtoolkit.world import masks, windows
from wmtoolkit.world.batching import block_causal_batch, full_attention_batch
from wmtoolkit.world.tokenizer import FIRST_CELL
from wmtoolkit.world.vocabulary import TextWorldConfig

FRAMES = 3
TOKENIZER = WorldTokenizer()
STRATEGIES = ("forward", "inverse", "outcome", "cell", "attribute", "belief")


@pytest.fixture(scope="module")
def model(merged: Path) -> AnyOrderWorldModel:
    return AnyOrderWorldModel.from_pretrained(merged, precision="float32")


@pytest.fixture(scope="module")
def transform(layout: Layout) -> Callable[..., AnyOrderTransform]:
    def make(**options: object) -> AnyOrderTransform:
        settings = {"seed": 42, "behaviour_dropout": 0.0, **options}
        return AnyOrderTransform(layout, (FRAMES + 1) * layout.block_size, **settings)

    return make


def collated(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def our_windows(data: Path, model: AnyOrderWorldModel, examples: list[dict]) -> tuple[windows.Window, np.ndarray]:
    """The same trajectories as our own trainer cuts them, a window a sequence; and whether the bot acted."""
    store = open_store([str(data)], "train")
    world = model.network.world
    assert isinstance(world, TextWorldConfig)
    place = {}
    for episode in range(len(store)):
        for part in sequences(store.trajectory(episode), world.text, (FRAMES + 1) * world.block_length):
            place[len(place)] = (episode, part["first_frame"])
    episode, start = (np.array(values) for values in zip(*(place[row["id"]] for row in examples), strict=True))
    frames = windows.Frames.from_store(store)
    window = windows.cut(frames, episode, start - 1, FRAMES + 1, world)
    window.valid[start > 0, 0] = False  # what lies before a part is no part of its sequence
    return window, np.repeat((frames.behaviours[episode] == 0)[:, None], FRAMES + 1, axis=1)


def drawn_masks(rows: list[dict], layout: Layout, strategy: str) -> masks.Masks:
    """The masks that the task drew, read from what it hid."""
    noisy = np.stack([row["noisy_input_ids"].numpy().reshape(-1, layout.block_size)[1:] for row in rows])
    slots = noisy[..., :FIRST_CELL] != layout.mask
    cells = layout.parts(np.where(noisy[..., 3:52] == layout.pad, layout.kinds["cell"][0], noisy[..., 3:52]))
    index = np.full(noisy.shape[:2], masks.NAMES.index(strategy))
    return masks.Masks(slots, cells != np.array(layout.attributes), index)


def our_loss(model: AnyOrderWorldModel, batch: object, weights: object) -> float:
    module = MaskedReconstruction(model.network).train()
    with torch.no_grad():
        total, _ = module(batch, weights)
    model.network.eval()
    return float(total) / weights.total


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_loss_is_that_of_our_own_trainer_on_the_same_batch_and_noise(
    data: Path, model: AnyOrderWorldModel, layout: Layout, examples: list[dict], transform: Callable, strategy: str
) -> None:
    chosen = examples[:8]
    rows = [transform(mixture={strategy: 1.0})(example)[0] for example in chosen]
    batch = collated(rows)
    with torch.no_grad():
        logits = model.network.llada2(**network_inputs(batch, layout, True)).logits
        total, _ = any_order_loss(logits, batch, layout, layout.choices())
    window, bot = our_windows(data, model, chosen)
    ours = block_causal_batch(window, drawn_masks(rows, layout, strategy), bot, model.network.world)
    ours.actions_asked = None
    weights = weigh(ours, LossConfig())
    assert weights.total == pytest.approx(float(batch["loss_weights"].sum()))
    assert float(total) / weights.total == pytest.approx(our_loss(model, ours, weights), abs=1e-5)


def test_the_policy_is_asked_as_our_own_trainer_asks_it(
    data: Path, model: AnyOrderWorldModel, layout: Layout, examples: list[dict], transform: Callable
) -> None:
    """By one masked action that sees the past and nothing else of its step."""
    chosen = [example for example in examples if example["prompt_lengths"] == layout.block_size][:8]
    rows = [transform(mixture={"policy": 1.0})(example)[0] for example in chosen]
    batch = collated(rows)
    with torch.no_grad():
        logits = model.network.llada2(**network_inputs(batch, layout, True)).logits
        total, _ = any_order_loss(logits, batch, layout, layout.choices())
    window, bot = our_windows(data, model, chosen)
    visible = masks.only("forward", (len(chosen), FRAMES))
    visible.slots[:, 1:], visible.cells[:, 1:] = True, True
    ours = block_causal_batch(window, visible, bot, model.network.world)
    weights = weigh(ours, LossConfig())
    assert weights.actions.sum() > 0
    assert weights.total == pytest.approx(float(batch["loss_weights"].sum()))
    assert float(total) / weights.total == pytest.approx(our_loss(model, ours, weights), abs=1e-5)


@pytest.mark.parametrize("twice", [True, False], ids=["2L", "L"])
@pytest.mark.parametrize("strategy", ["cell", "goal"])
def test_full_attention_is_that_of_our_own_trainer(
    data: Path,
    model: AnyOrderWorldModel,
    layout: Layout,
    examples: list[dict],
    transform: Callable,
    strategy: str,
    twice: bool,
) -> None:
    """Also where sequences under full attention share a batch of 2L tokens with others."""
    chosen = [example for example in examples if example["prompt_lengths"] == layout.block_size][:8]
    rows = [transform(full_mixture={strategy: 1.0}, full_share=1.0)(example)[0] for example in chosen]
    batch = collated(rows)
    with torch.no_grad():
        logits = model.network.llada2(**network_inputs(batch, layout, twice)).logits
        total, _ = any_order_loss(logits, batch, layout, layout.choices())
    window, bot = our_windows(data, model, chosen)
    part = {name: getattr(window, name)[:, 1:] for name in ("ids", "time", "position", "heading", "valid", "frame")}
    present = np.stack([row["attention_mask"].numpy().reshape(-1, layout.block_size)[1:, 0] for row in rows]) > 0
    shorter = windows.Window(window.mission, start=window.start, episode=window.episode, seen=None, **part)
    shorter.valid &= present  # what lies behind a goal takes no part
    ours = full_attention_batch(shorter, drawn_masks(rows, layout, strategy), bot[:, 1:], model.network.world)
    weights = weigh(ours, LossConfig())
    assert weights.total == pytest.approx(float(batch["loss_weights"].sum()))
    assert float(total) / weights.total == pytest.approx(our_loss(model, ours, weights), abs=1e-5)


@pytest.fixture(scope="module")
def few(examples: list[dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("few") / "few.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in examples[:8]))
    return file


@pytest.fixture(scope="module")
def settings(few: Path) -> tuple[object, ...]:
    """Eight sequences, all of them in every batch; three steps."""
    return (
        *("--data.train_path", few, "--train.global_batch_size", 8, "--train.num_train_epochs", 3),
        *("--train.save_epochs", 3, "--train.enable_fsdp_offload", "false", "--data.mask_mixture", '{"cell": 1.0}'),
        *("--data.full_attention_share", 0, "--data.behaviour_dropout", 0, "--train.lr_warmup_ratio", 0),
    )


@pytest.fixture(scope="module")
def one_process(run_task: Callable, settings: tuple, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("one")
    done = run_task(output, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def test_the_task_reports_the_loss_of_our_own_trainer(
    data: Path,
    model: AnyOrderWorldModel,
    layout: Layout,
    examples: list[dict],
    transform: Callable,
    one_process: Path,
    metrics: Callable,
) -> None:
    rows = [transform(mixture={"cell": 1.0})(example)[0] for example in examples[:8]]
    window, bot = our_windows(data, model, examples[:8])
    ours = block_causal_batch(window, drawn_masks(rows, layout, "cell"), bot, model.network.world)
    ours.actions_asked = None
    losses = [line["loss"] for line in metrics(one_process)]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(our_loss(model, ours, weigh(ours, LossConfig())), abs=1e-5)


def test_two_processes_equal_one(
    run_task: Callable, settings: tuple, one_process: Path, metrics: Callable, tmp_path: Path
) -> None:
    """Masks depend on example and epoch alone, the loss is normalised over the whole batch: ranks change nothing."""
    done = run_task(tmp_path, *settings, "--train.micro_batch_size", 1, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = metrics(one_process), metrics(tmp_path)
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-5)
    assert [line["gradient_norm"] for line in two] == pytest.approx([line["gradient_norm"] for line in one], rel=1e-4)
    weights = [
        load_file(path / "checkpoints/global_step_3/hf_ckpt/model.safetensors") for path in (one_process, tmp_path)
    ]
    for name, value in weights[0].items():
        torch.testing.assert_close(value.float(), weights[1][name].float(), atol=2e-3, rtol=2e-2)


def test_a_resumed_task_goes_on_as_if_it_had_not_stopped(
    run_task: Callable, settings: tuple, one_process: Path, metrics: Callable, tmp_path: Path
) -> None:
    first = run_task(tmp_path / "cut", *settings, "--train.save_steps", 2, "--train.save_hf_weights", "false")
    assert first.returncode == 0, first.stderr[-3000:]
    saved = tmp_path / "cut" / "checkpoints" / "global_step_2"
    done = run_task(tmp_path / "resumed", *settings, "--train.load_checkpoint_path", saved)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = metrics(tmp_path / "resumed")
    assert line["step"] == 3
    assert line["loss"] == pytest.approx(metrics(one_process)[2]["loss"], abs=1e-6)


def test_a_trained_checkpoint_is_read_back_as_a_world_model(
    one_process: Path, model: AnyOrderWorldModel, data: Path, tmp_path: Path
) -> None:
    saved = one_process / "checkpoints" / "global_step_3" / "hf_ckpt"
    assert json.loads((saved / "config.json").read_text())["model_type"] == "llada2_moe_veomni"
    convert("split", saved, tmp_path / "split")
    trained = AnyOrderWorldModel.from_pretrained(tmp_path / "split", precision="float32")
    assert trained.levels == ["BabyAI-GoToRedBallGrey-v0"]
    assert trained.network.world.recent == 2  # the export's sequences show two frames before another
    history = open_store([str(data)], "train").trajectory(0).prefix(2)
    assert not np.allclose(trained.policy([history]), model.policy([history]), atol=1e-4)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(trained.network.input_rows, model.network.input_rows)


def test_trap_11_routed_experts_and_their_gate_are_trained_and_the_bias_is_not(one_process: Path, merged: Path) -> None:
    """In evaluation mode the original gives them no gradient; the bias is a buffer that nothing updates."""
    after = load_file(one_process / "checkpoints" / "global_step_3" / "hf_ckpt" / "model.safetensors")
    for key, stored in open_checkpoint(merged).tensors.items():
        if ".mlp.experts." in key or key.endswith(".mlp.gate.weight"):
            assert not torch.equal(after[key], stored.load()), key
        if key.endswith("expert_bias"):
            assert torch.equal(after[key], stored.load().to(after[key].dtype))


def test_the_weights_are_those_of_the_recipe_and_all_ones_are_dfactorys_plain_mean(
    model: AnyOrderWorldModel, layout: Layout, examples: list[dict], transform: Callable
) -> None:
    ours = LossConfig()
    assert {name: getattr(ours, name) for name in WEIGHTS} == WEIGHTS
    plain = transform(weights=dict.fromkeys(WEIGHTS, 1.0))
    batch = collated([plain(example)[0] for example in examples[:8]])
    with torch.no_grad():
        logits = model.network.llada2(**network_inputs(batch, layout, True)).logits
        total, kinds = any_order_loss(logits, batch, layout, layout.choices())
    assert float(batch["loss_weights"].sum()) == float((batch["labels"] != -100).sum())
    assert float(total / batch["loss_weights"].sum()) == pytest.approx(float(kinds[:, 0].sum() / kinds[:, 1].sum()))
