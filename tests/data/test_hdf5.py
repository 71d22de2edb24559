"""Minari's file format: what is written is read back, by us and by Minari; what is damaged is named."""

import json

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from wmtoolkit.data import hdf5
from wmtoolkit.data.collection import collect
from wmtoolkit.data.datasets import load_trajectories, open_store
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Trajectory


def write(path, trajectories, split=0):
    with hdf5.EpisodeWriter(path) as writer:
        for trajectory in trajectories:
            writer.add(trajectory, split)


def read(path, episodes):
    return list(hdf5.read_episodes(path, episodes, behaviour="agent", level=None))


@st.composite
def episodes(draw):
    steps = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    last = np.arange(steps) == steps - 1
    end = draw(st.sampled_from(["success", "failure", "truncated", "open"]))
    words = draw(st.lists(st.sampled_from([word for word in grid.WORDS if word != ","]), min_size=1, max_size=8))
    return Trajectory(
        mission=" ".join(words),
        images=np.stack([rng.integers(0, n, (steps + 1, 7, 7)) for n in (11, 6, 3)], axis=-1).astype(np.uint8),
        directions=rng.integers(0, 4, steps + 1),
        actions=rng.integers(0, 7, steps),
        rewards=(last * rng.random() * (end == "success")).astype(np.float32),
        terminations=last & (end in ("success", "failure")),
        truncations=last & (end == "truncated"),
        behaviour=draw(st.sampled_from(["bot", "noisy", "random", "tour", "agent"])),
        seed=draw(st.one_of(st.none(), st.integers(0, 2**62))),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(episodes(), min_size=1, max_size=6), st.integers(0, 2))
def test_any_episodes_come_back_as_they_were_written(tmp_path_factory, trajectories, split):
    path = tmp_path_factory.mktemp("hdf5") / hdf5.FILE_NAME
    write(path, trajectories, split)
    found = read(path, len(trajectories))
    assert [trajectory for trajectory, _ in found] == trajectories
    assert [trajectory.seed for trajectory, _ in found] == [trajectory.seed for trajectory in trajectories]
    assert {name for _, name in found} == {("train", "validation", "test")[split]}
    assert found[0][0].images.dtype == np.uint8
    assert found[0][0].actions.dtype == np.int64


def test_minari_loads_a_collected_dataset(tmp_path):
    collect("BabyAI-GoToObj-v0", 12, out="wmtoolkit/BabyAI-GoToObj/mixed-v0")
    dataset = minari.load_dataset("wmtoolkit/BabyAI-GoToObj/mixed-v0")
    ours = load_trajectories("wmtoolkit/BabyAI-GoToObj/mixed-v0")
    by_seed = {trajectory.seed: trajectory for trajectory in ours}
    assert dataset.total_episodes == 12
    assert dataset.total_steps == sum(len(trajectory) for trajectory in ours)
    metadata = list(dataset.storage.get_episode_metadata(range(12)))
    for episode, facts in zip(dataset.iterate_episodes(), metadata, strict=True):
        trajectory = by_seed[facts["seed"]]
        assert facts["behaviour"].decode() == trajectory.behaviour
        assert np.array_equal(episode.observations["image"], trajectory.images)
        assert episode.observations["mission"] == [trajectory.mission] * len(trajectory.images)
        assert np.array_equal(episode.actions, trajectory.actions)
        assert np.array_equal(episode.terminations, trajectory.terminations)
        first = {key: value[0] for key, value in episode.observations.items()}
        assert dataset.observation_space.contains({**first, "direction": np.int64(first["direction"])})
    assert "wmtoolkit/BabyAI-GoToObj/mixed-v0" in minari.list_local_datasets()
    env = dataset.recover_environment()
    assert env.reset(seed=3)[0]["mission"] == by_seed[3].mission


def test_seeds_replay_the_first_observation(tmp_path):
    from wmtoolkit.data.levels import make_level, reset_level

    collect("BabyAI-PutNextS5N2Carrying-v0", 6, policy="random", out=tmp_path / "d", seed=40)
    env = make_level("BabyAI-PutNextS5N2Carrying-v0")
    for trajectory in load_trajectories(tmp_path / "d"):
        observation = reset_level(env, trajectory.seed)
        assert np.array_equal(observation["image"], trajectory.images[0])
        assert trajectory.images[0][grid.AGENT_CELL][0] != grid.EMPTY, "the carried object is in the first view"


DAMAGES = {
    "an action of 9": (lambda group: group["actions"].__setitem__(0, 9), "actions"),
    "an object id of 200": (lambda group: group["observations/image"].__setitem__((0, 0, 0, 0), 200), "object"),
    "a heading of 4": (lambda group: group["observations/direction"].__setitem__(0, 4), "directions"),
    "a reward of nan": (lambda group: group["rewards"].__setitem__(0, np.nan), "rewards"),
    "no actions": (lambda group: group.__delitem__("actions"), "incomplete"),
    "no image": (lambda group: group["observations"].__delitem__("image"), "image"),
    "a shorter array": (lambda group: replace(group, "actions", np.zeros(2, np.int64)), "shape"),
    "float actions": (lambda group: replace(group, "actions", np.zeros(5)), "integers"),
    "an unknown word": (lambda group: mission(group, "go to the red banana"), "banana"),
    "two missions": (lambda group: mission(group, "go to the red ball", "go to the red key"), "missions"),
    "an unknown behaviour": (lambda group: group.attrs.__setitem__("behaviour", "genius"), "genius"),
    "an unknown split": (lambda group: group.attrs.__setitem__("split", "dev"), "dev"),
    "an early end": (lambda group: replace(group, "terminations", np.arange(5) == 1), "before the last"),
    "a wider view": (
        lambda group: replace(group["observations"], "image", np.zeros((6, 9, 9, 3), np.uint8)),
        "9, 9, 3",
    ),
}


def replace(group, name, values):
    del group[name]
    group[name] = values


def mission(group, *texts):
    texts = (texts * 6)[:6]
    replace(group["observations"], "mission", np.array(texts, dtype=object).astype("S"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_episode_is_named(tmp_path, make_trajectory, damage):
    change, word = DAMAGES[damage]
    path = tmp_path / hdf5.FILE_NAME
    write(path, [make_trajectory(5, seed=seed, end="success") for seed in range(3)])
    with h5py.File(path, "r+") as file:
        change(file["episode_1"])
    with pytest.raises(UserError, match="episode 1") as caught:
        read(path, 3)
    assert word in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_cut_off_anywhere_is_named(tmp_path, make_trajectory):
    path = tmp_path / hdf5.FILE_NAME
    trajectories = [make_trajectory(4, seed=seed) for seed in range(4)]
    write(path, trajectories)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in [0, 1, 8, 96, len(whole) - 1, *rng.integers(0, len(whole), 60).tolist()]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=hdf5.FILE_NAME):
            read(path, len(trajectories))


def test_bytes_turned_over_never_end_in_a_traceback(tmp_path, make_trajectory):
    path = tmp_path / hdf5.FILE_NAME
    trajectories = [make_trajectory(3, seed=seed) for seed in range(3)]
    write(path, trajectories)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for place in rng.integers(0, len(whole), 200).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read(path, len(trajectories))
        except UserError:
            refused += 1
    assert refused > 20


def foreign(image_shape=(7, 7, 3), name="minigrid/BabyAI-GoToLocal/optimal-v0", seeded=True):
    """A dataset as others publish it: written by Minari, no behaviour, no split."""
    space = spaces.Dict(
        {
            "direction": spaces.Discrete(4),
            "image": spaces.Box(0, 255, image_shape, np.uint8),
            "mission": spaces.Text(100, charset="abcdefghijklmnopqrstuvwxyz ,"),
        }
    )
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            id=index,
            seed=100 + index if seeded else None,
            observations={
                "direction": rng.integers(0, 4, 4),
                "image": rng.integers(0, 3, (4, *image_shape)).astype(np.uint8),
                "mission": ["go to the red ball"] * 4,
            },
            actions=rng.integers(0, 7, 3),
            rewards=[0, 0, 0.9],
            terminations=[False, False, True],
            truncations=[False] * 3,
        )
        for index in range(5)
    ]
    minari.create_dataset_from_buffers(
        name,
        buffer=buffers,
        env="BabyAI-GoToLocal-v0",
        observation_space=space,
        action_space=spaces.Discrete(7),
        algorithm_name="BabyAIBot",
        author="them",
        author_email="them@example.org",
        code_permalink="https://example.org",
        description="theirs",
    )
    return name


def test_a_published_dataset_is_read_from_its_folder():
    trajectories = load_trajectories(foreign())
    assert sorted(trajectory.seed for trajectory in trajectories) == [100, 101, 102, 103, 104]
    assert {trajectory.behaviour for trajectory in trajectories} == {"bot"}
    assert {trajectory.level for trajectory in trajectories} == {"BabyAI-GoToLocal-v0"}
    assert all(trajectory.success and len(trajectory) == 3 for trajectory in trajectories)


def test_a_published_dataset_without_seeds_is_split_by_its_starts():
    name = foreign(seeded=False)
    assert all(trajectory.seed is None for trajectory in load_trajectories(name))
    assert open_store([name], "train").document()["train_seeds"] == {}


def test_a_published_dataset_with_other_views_is_refused():
    with pytest.raises(UserError, match=r"episode 0 has images uint8\[22, 22, 3\]"):
        load_trajectories(foreign((22, 22, 3), "minigrid/BabyAI-GoToLocal/optimal-fullobs-v0"))


def test_a_read_only_dataset_is_packed_in_the_cache(tmp_path, monkeypatch):
    import os

    name = foreign()
    folder = tmp_path / "datasets" / name
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    store = open_store([name])
    assert len(store) == 5
    assert store.folder.is_relative_to(tmp_path / "cache")
    assert not (folder / "packed").exists()


def test_a_changed_value_is_noticed_when_the_store_is_built_anew(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 5, policy="random", out=tmp_path / "d")
    before = open_store([path]).fingerprint
    (path / "packed" / "index.json").unlink()
    assert open_store([path]).fingerprint == before
    with h5py.File(path / "data" / hdf5.FILE_NAME, "r+") as file:
        actions = file["episode_2/actions"]
        actions[0] = (actions[0] + 1) % 7
    with pytest.raises(UserError, match="changed"):
        open_store([path])


def test_metadata_cut_off_or_of_another_format_is_named(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 3, policy="random", out=tmp_path / "d")
    file = path / "data" / "metadata.json"
    text = file.read_text()
    (path / "packed" / "index.json").unlink()
    for size in (0, 10, len(text) // 2):
        file.write_text(text[:size])
        with pytest.raises(UserError, match=r"metadata\.json"):
            load_trajectories(path)
    for damage in ({"split": {}}, {"split": None}, "x", ["split"]):
        file.write_text(json.dumps({**json.loads(text), "wmtoolkit": damage}))
        with pytest.raises(UserError, match=r"metadata\.json"):
            load_trajectories(path)
    file.write_text(json.dumps({**json.loads(text), "data_format": "arrow"}))
    with pytest.raises(UserError, match="arrow"):
        load_trajectories(path)
