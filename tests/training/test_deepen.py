"""A deeper network that starts from a shallower one computes the same, and learns."""

import torch

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.training.batches import draw_batch
from wmtoolkit.training.config import load_config
from wmtoolkit.training.loop import make_optimizers, make_sampler
from wmtoolkit.training.objective import MaskedReconstruction, weigh
from wmtoolkit.training.start import starting_network
from wmtoolkit.world import windows


def test_added_layers_change_nothing_at_first_and_learn(episodes: list[Trajectory], tmp_path) -> None:
    shallow, deep = (load_config("tiny", [f"model.num_hidden_layers={depth}"]) for depth in (3, 6))
    torch.manual_seed(0)
    before, _ = starting_network(shallow, None)
    AnyOrderWorldModel(before).save_pretrained(tmp_path / "shallow")
    after, _ = starting_network(deep, tmp_path / "shallow")
    batch = draw_batch(windows.Frames.from_trajectories(episodes), make_sampler(deep), deep.world, 0, 0)
    tokens = batch.tokens.tensors("cpu")
    attention = batch.attention("cpu")
    torch.testing.assert_close(after(tokens, attention), before(tokens, attention), rtol=1e-5, atol=1e-5)
    silent = [name for name, value in after.named_parameters() if "layers." in name and not value.any()]
    assert {name.split("layers.")[1].split(".")[0] for name in silent} == {
        "2",
        "3",
        "5",
    }  # 0, then 1 three times and 2 twice
    total, _ = MaskedReconstruction(after)(batch, weigh(batch, deep.loss))
    total.backward()
    for optimizer in make_optimizers(after, deep).values():
        optimizer.step()
    assert all(value.any() for name, value in after.named_parameters() if name in silent)
