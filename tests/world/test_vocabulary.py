"""The world's tokens in a text LLaDA2: rows, spelling, positions; what a grown checkpoint is and is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from wmtoolkit import AnyOrderWorldModel, Trajectory, WorldTokenizer
from wmtoolkit.errors import UserError
from wmtoolkit.llada2 import LLaDA2MoeConfig, LLaDA2MoeForCausalLM
from wmtoolkit.llada2.checkpoint import open_checkpoint
from wmtoolkit.llada2.convert import convert
from wmtoolkit.world import grid, masks, windows
from wmtoolkit.world.batching import block_causal_batch
from wmtoolkit.world.config import BEYOND_LLADA2, WorldConfig
from wmtoolkit.world.decoding import block_log_probs
from wmtoolkit.world.growth import grow
from wmtoolkit.world.network import WorldNetwork
from wmtoolkit.world.tokenizer import BLOCK, Visibility
from wmtoolkit.world.vocabulary import TextVocabulary, TextWorldConfig, describing_words, world_config

TOKENIZER = WorldTokenizer()
PLAIN = dict.fromkeys(("compositional", *BEYOND_LLADA2), False)


def tensor(folder: Path, key: str) -> torch.Tensor:
    return open_checkpoint(folder).tensors[key].load()


@pytest.fixture(scope="module")
def vocabulary(grown: Path) -> TextVocabulary:
    options = json.loads((grown / "world.json").read_text())["world"]
    world = world_config(options)
    assert isinstance(world, TextWorldConfig)
    return world.text


def test_growth_leaves_everything_else_bit_by_bit(text_checkpoint: Path, grown: Path) -> None:
    before, after = open_checkpoint(text_checkpoint), open_checkpoint(grown)
    assert after.layout == "separate"
    assert before.tensors.keys() == after.tensors.keys()
    for key, stored in before.tensors.items():
        new = after.tensors[key].load()
        assert new.dtype == stored.dtype
        assert torch.equal(new[: len(stored.load())], stored.load()), key
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (grown / name).read_bytes() == (text_checkpoint / name).read_bytes()


def test_every_new_token_starts_as_the_mean_of_the_words_that_describe_it(
    text_checkpoint: Path, grown: Path, vocabulary: TextVocabulary
) -> None:
    assert sorted(describing_words()) == vocabulary.new.tolist()
    tokenizer = Tokenizer.from_file(str(text_checkpoint / "tokenizer.json"))
    for key in ("model.word_embeddings.weight", "lm_head.weight"):
        old, new = tensor(text_checkpoint, key).float(), tensor(grown, key).float()

        def mean(*words: str, old: torch.Tensor = old) -> torch.Tensor:
            pieces = [piece for word in words for piece in tokenizer.encode(word).ids]
            return old[pieces].mean(0).bfloat16().float()

        def row(token: int, new: torch.Tensor = new) -> torch.Tensor:
            return new[vocabulary.rows[token]]

        ball = TOKENIZER.cell_ids(np.array([grid.OBJECTS.index("ball"), grid.COLORS.index("red"), 0]))
        assert torch.equal(row(int(ball)), mean(" red", " ball"))
        assert torch.equal(row(TOKENIZER.actions.start), mean(" turn", " left"))
        door = TOKENIZER.cell_ids(np.array([grid.DOOR, grid.COLORS.index("blue"), 1]))
        assert torch.equal(row(int(door)), mean(" blue", " door", " closed"))
        assert torch.allclose(row(TOKENIZER.masked_cell), old[vocabulary.mask], atol=1e-3)
        assert (new[vocabulary.first + len(vocabulary.new) :] == 0).all()


def test_missions_are_spelled_as_the_models_own_tokenizer_spells_them(
    text_checkpoint: Path, vocabulary: TextVocabulary
) -> None:
    tokenizer = Tokenizer.from_file(str(text_checkpoint / "tokenizer.json"))
    missions = ["go to the red ball, then pick up the blue key", "traverse the hallway", "open a door"]
    blocks = np.stack([TOKENIZER.mission_block(mission, "bot") for mission in missions])
    spelled = vocabulary.spelled(blocks)
    for mission, tokens in zip(missions, spelled, strict=True):
        assert tokens[0] in TOKENIZER.behaviours
        ids = vocabulary.rows[tokens[1:][tokens[1:] != TOKENIZER.pad]]
        assert ids.tolist() == tokenizer.encode(f" {mission}").ids
    assert (spelled[1] != TOKENIZER.pad).sum() > (blocks[1] != TOKENIZER.pad).sum()  # rare words come in pieces


def test_a_mission_longer_than_a_block_is_refused(vocabulary: TextVocabulary) -> None:
    block = TOKENIZER.mission_block(" ".join(["traverse"] * 50), "bot")
    with pytest.raises(UserError, match="more than a block's 64"):
        vocabulary.spelled(block[None])


@pytest.fixture(scope="module")
def text_model(grown: Path) -> AnyOrderWorldModel:
    return AnyOrderWorldModel.from_pretrained(grown, precision="float32")


def test_a_grown_checkpoint_answers_every_query(text_model: AnyOrderWorldModel, episodes: list[Trajectory]) -> None:
    histories = [episode.prefix(3) for episode in episodes[:3]]
    assert text_model.policy(histories) == pytest.approx(text_model.policy(histories))
    assert text_model.predict(histories, [0, 1, 2]).images.shape == (3, 7, 7, 3)
    visible = [Visibility.full(3) for _ in histories]
    for mask in visible:
        mask.images[2], mask.actions[1] = False, False
    assert all(completion.log_prob < 0 for completion in text_model.complete(histories, visible))
    assert np.isfinite(text_model.nll(histories)["nll_per_step"]).all()
    assert len(text_model.infill_plan(histories[:1], [2])[0][0].actions) == 2


def test_hidden_words_need_a_tokenizer_that_leaves_words_whole(
    text_model: AnyOrderWorldModel, episodes: list[Trajectory]
) -> None:
    visible = Visibility.full(2)
    visible.mission[0] = False
    strange = Trajectory(**{**episodes[0].prefix(2).__dict__, "mission": "traverse the hallway"})
    with pytest.raises(UserError, match="leaves every word whole"):
        text_model.complete([strange], [visible])


def networks(changes: dict) -> list[WorldNetwork]:
    """A network with a vocabulary of its own and a text network, both without any option of the front-end."""
    torch.manual_seed(0)
    llada2 = LLaDA2MoeConfig(**changes, initializer_range=0.2)
    own = WorldConfig(**PLAIN, memory=0, recent=3)
    words = tuple((40 + index,) for index in range(len(grid.WORDS)))
    text = TextVocabulary(size=640, first=100, pad=3, mask=7, words=words, block_length=64)
    over_text = TextWorldConfig(**PLAIN, memory=0, recent=3, text=text)
    return [WorldNetwork(WorldNetwork.fitted(llada2, world), world).eval() for world in (own, over_text)]


def test_a_text_network_computes_what_llada2_computes_on_its_ids(tiny: dict, episodes: list[Trajectory]) -> None:
    """With every option off the front-end adds nothing: ids through the plain network give the same hidden states."""
    for network in networks(tiny):
        world = network.world
        frames = windows.Frames.from_trajectories(episodes)
        window = windows.cut(frames, np.arange(3), np.array([0, 0, 0]), 3, world)
        drawn = masks.draw({"cell": 1.0}, (3, 2), np.random.default_rng(0))
        batch = block_causal_batch(window, drawn, np.zeros((3, 3), bool), world)
        ids = batch.tokens.ids if not isinstance(world, TextWorldConfig) else world.text.rows[batch.tokens.ids]
        length, stride = window.mission.length, world.block_length
        clean = [np.arange(BLOCK) + stride * block for block in (1, 2)]
        noisy = [np.arange(BLOCK) + stride * block for block in (2, 3)]
        positions = np.concatenate([np.arange(length), *clean, *noisy, [2 * stride], [3 * stride]])
        with torch.no_grad():
            plain = network.llada2.model(
                torch.as_tensor(ids), batch.attention("cpu"), torch.as_tensor(positions)[None].expand(3, -1)
            ).last_hidden_state
            ours = network(batch.tokens.tensors("cpu"), batch.attention("cpu"))
        valid = torch.as_tensor(batch.tokens.valid)
        torch.testing.assert_close(plain[valid], ours[valid], atol=1e-5, rtol=0)


def test_without_axes_a_cached_rollout_says_what_the_training_layout_says(
    tiny: dict, episodes: list[Trajectory]
) -> None:
    """A hidden block has the positions of the place it stands for, in training and in imagination."""
    for network in networks(tiny):
        model = AnyOrderWorldModel(network)
        histories = [episode.prefix(2) for episode in episodes[:3]]
        frames = windows.Frames.from_trajectories([episode.prefix(3) for episode in episodes[:3]])
        frames.missions[:, 0] = TOKENIZER.behaviours.start  # as the rollout asks, for the bot
        window = windows.cut(frames, np.arange(3), np.zeros(3, int), 4, network.world)
        drawn = masks.only("forward", (3, 3))
        batch = block_causal_batch(window, drawn, np.zeros((3, 4), bool), network.world)
        with torch.no_grad():
            hidden = network(batch.tokens.tensors("cpu"), batch.attention("cpu"))
            last = hidden[:, batch.first + 2 * BLOCK : batch.first + 3 * BLOCK]
            asked = hidden[:, -1]
            outcome = block_log_probs(network, last, batch.given[:, 2])[1][1][:, 0].exp().numpy()
            policy = network.logits(asked, range(TOKENIZER.actions.start, TOKENIZER.bos)).softmax(-1).numpy()
        actions = [int(episode.actions[2]) for episode in episodes[:3]]
        np.testing.assert_allclose(model.predict(histories, actions).outcome_probabilities, outcome, atol=1e-5)
        np.testing.assert_allclose(model.policy(histories), policy, atol=1e-5)


def test_only_the_worlds_own_rows_are_trained_and_written_back(
    text_model: AnyOrderWorldModel, episodes: list[Trajectory], tmp_path: Path
) -> None:
    network = text_model.network
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert {"input_rows", "output_rows"} <= trained
    assert not {"llada2.model.word_embeddings.weight", "llada2.lm_head.weight"} & trained
    before = network.input_rows.detach().clone()
    with torch.no_grad():
        network.input_rows += 0.5
    try:
        text_model.save_pretrained(tmp_path / "saved")
    finally:
        with torch.no_grad():
            network.input_rows.copy_(before)
    world = network.world
    assert isinstance(world, TextWorldConfig)
    table = open_checkpoint(tmp_path / "saved").tensors["model.word_embeddings.weight"].load()
    assert torch.equal(table[world.text.rows[world.text.new]], before + 0.5)
    changed = AnyOrderWorldModel.from_pretrained(tmp_path / "saved", precision="float32")
    plain = LLaDA2MoeForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(plain.model.word_embeddings.weight, changed.network.llada2.model.word_embeddings.weight)
    histories = [episodes[0].prefix(2)]
    assert not np.allclose(changed.policy(histories), text_model.policy(histories), atol=1e-6)


def test_growth_commutes_with_conversion(text_checkpoint: Path, grown: Path, tmp_path: Path) -> None:
    convert("merge", text_checkpoint, tmp_path / "merged")
    grow(tmp_path / "merged", tmp_path / "merged-grown")
    convert("split", tmp_path / "merged-grown", tmp_path / "split")
    assert open_checkpoint(tmp_path / "merged-grown").layout == "merged"
    for key, stored in open_checkpoint(grown).tensors.items():
        assert torch.equal(tensor(tmp_path / "split", key), stored.load()), key
    AnyOrderWorldModel.from_pretrained(tmp_path / "split")


def test_what_cannot_be_grown_says_why_in_one_line(text_checkpoint: Path, grown: Path, tmp_path: Path) -> None:
    def refused(words: str, folder: Path, **options: object) -> None:
        with pytest.raises(UserError, match=words) as failure:
            grow(folder, tmp_path / "out", **options)
        assert "\n" not in str(failure.value)
        assert not (tmp_path / "out").exists()

    refused("holds the world's tokens already", grown)
    refused("has no token '<MASK>'", text_checkpoint, mask_token="<MASK>")
    refused("is not a folder", tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(text_checkpoint, copy)
    (copy / "tokenizer.json").write_text("{}")
    refused("is no tokenizer", copy)
    (copy / "tokenizer.json").unlink()
    refused("tokenizer.json is missing", copy)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(UserError, match="is not empty"):
        grow(text_checkpoint, tmp_path / "full")


def test_a_text_world_is_never_compositional(vocabulary: TextVocabulary) -> None:
    with pytest.raises(ValueError, match="compositional must be false"):
        TextWorldConfig(text=vocabulary)
    with pytest.raises(ValueError, match="mission_features must be false"):
        TextWorldConfig(text=vocabulary, compositional=False, mission_features=True)
    with pytest.raises(ValueError, match="unknown world options"):
        world_config({"slots": True})


def test_random_rows_are_random(text_checkpoint: Path, tmp_path: Path) -> None:
    grow(text_checkpoint, tmp_path / "random", rows="random")
    file = next(file for file in (tmp_path / "random").glob("*.safetensors") if "lm_head.weight" in load_file(file))
    rows = load_file(file)["lm_head.weight"][352:].float()
    assert rows[:440].std() == pytest.approx(0.1, rel=0.1)
