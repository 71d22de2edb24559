"""The mission's words, added to every token behind the mission: only those that are visible, in their order."""

import numpy as np
import torch

from wmtoolkit import AnyOrderWorldModel, Trajectory
from wmtoolkit.training.batches import Sampler, draw_batch
from wmtoolkit.world import windows
from wmtoolkit.world.tokenizer import FIRST_WORD, WorldTokenizer
from wmtoolkit.world.tokens import frame_tokens, joined, mission_tokens

_TOKENIZER = WorldTokenizer()


def _added(model: AnyOrderWorldModel, missions: np.ndarray, frames: np.ndarray) -> torch.Tensor:
    """What the missions (B, W) add to the embeddings of their frame's tokens, (B, 52, H)."""
    tokens = joined(mission_tokens(missions), frame_tokens(frames[:, None], np.ones((len(frames), 1), np.int64)))
    length = tokens.length - frames.shape[1]
    bare = tokens.tensors("cpu")
    bare["words"] = torch.full_like(bare["words"], _TOKENIZER.pad)
    with torch.inference_mode():
        difference = model.network.embed(tokens.tensors("cpu"))[0] - model.network.embed(bare)[0]
    assert not difference[:, :length].any()
    return difference[:, length:]


def test_visible_words_are_added_each_by_its_place(world_model: AnyOrderWorldModel) -> None:
    mission = _TOKENIZER.mission_block("go to the red ball", "bot")
    hidden = mission.copy()
    hidden[FIRST_WORD + 3] = _TOKENIZER.mask
    frames = np.full((2, 52), _TOKENIZER.mask)
    network = world_model.network
    places = network.mission_places.detach().clone()
    try:
        with torch.no_grad():
            network.mission_places.copy_(torch.rand_like(places))
        whole, without = _added(world_model, np.stack([mission, hidden]), frames)
        index = [int(mission[FIRST_WORD + k]) - _TOKENIZER.words.start for k in range(5)]
        expected = [network.mission_rows[word] * network.mission_places[FIRST_WORD + k] for k, word in enumerate(index)]
        torch.testing.assert_close(whole, sum(expected).expand_as(whole), rtol=0, atol=1e-5)
        torch.testing.assert_close(whole - without, expected[3].expand_as(whole), rtol=0, atol=1e-5)
    finally:
        with torch.no_grad():
            network.mission_places.copy_(places)


def test_hidden_words_are_hidden_there_too(world_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    sampler = Sampler(8, 0.3, 1.0, {"cell": 1.0}, {"cell": 1.0}, mission_share=1.0)
    batch = draw_batch(windows.Frames.from_trajectories(episodes), sampler, world_model.network.world, 0, 0)
    assert batch.mission_target is not None
    asked = batch.mission_target >= 0
    assert asked.any()
    assert (batch.tokens.words[:, : asked.shape[1]][asked] == _TOKENIZER.mask).all()
