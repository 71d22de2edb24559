"""The packed store: the same episodes in flat arrays, by memory maps, whole or refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtoolkit.data import collect, load_trajectories, open_store
from wmtoolkit.data.files import whole_folder
from wmtoolkit.data.store import FRAME_ARRAYS, EpisodeStore, StoreWriter, merge_stores, verify
from wmtoolkit.errors import UserError
from wmtoolkit.world.trajectory import BEHAVIOURS, Outcome


def pack(folder, trajectories, splits):
    folder.mkdir(parents=True)
    with StoreWriter(folder) as writer:
        for index, (trajectory, split) in enumerate(zip(trajectories, splits, strict=True)):
            writer.add(trajectory, split, index)
    return EpisodeStore(folder)


ENDS = ("success", "failure", "truncated", "open")


@settings(max_examples=25, deadline=None, suppress_health_check=[])
@given(
    st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(ENDS), st.integers(0, 2), st.sampled_from(BEHAVIOURS)),
        min_size=1,
        max_size=8,
    )
)
def test_any_episodes_come_back_split_by_split(tmp_path_factory, facts):
    from wmtoolkit.world.trajectory import Trajectory

    trajectories = []
    for index, (steps, end, _, behaviour) in enumerate(facts):
        rng = np.random.default_rng(index)
        last = np.arange(steps) == steps - 1
        trajectories.append(
            Trajectory(
                mission=f"go to the {('red', 'green')[index % 2]} ball",
                images=rng.integers(0, 3, (steps + 1, 7, 7, 3)).astype(np.uint8),
                directions=rng.integers(0, 4, steps + 1),
                actions=rng.integers(0, 7, steps),
                rewards=(last * 0.7 * (end == "success")).astype(np.float32),
                terminations=last & (end in ("success", "failure")),
                truncations=last & (end == "truncated"),
                behaviour=behaviour,
                level=None if index % 3 == 0 else f"Level{index % 3}",
                seed=None if index % 4 == 0 else index,
            )
        )
    splits = [split for _, _, split, _ in facts]
    store = pack(tmp_path_factory.mktemp("store") / "packed", trajectories, splits)
    order = sorted(range(len(facts)), key=lambda index: splits[index])
    assert store.episode_ids.tolist() == order
    for episode, index in enumerate(order):
        found = store.trajectory(episode)
        assert found == trajectories[index]
        assert (found.level, found.seed) == (trajectories[index].level, trajectories[index].seed)
        frames = slice(store.offsets[episode], store.offsets[episode + 1])
        assert store.actions[frames].tolist() == [-1, *trajectories[index].actions.tolist()]
        assert store.outcomes[frames].tolist() == trajectories[index].outcomes.tolist()
        assert store.outcomes[store.offsets[episode]] == Outcome.START
    assert store.num_steps == sum(len(trajectory) for trajectory in trajectories)
    assert store.num_frames == store.num_steps + len(store)
    for number, name in enumerate(("train", "validation", "test")):
        part = EpisodeStore(store.folder, name)
        assert [part.trajectory(i) for i in range(len(part))] == [trajectories[i] for i in order if splits[i] == number]


def test_arrays_are_memory_maps_and_read_only(tmp_path, make_trajectory):
    store = pack(tmp_path / "s", [make_trajectory(4, seed=seed) for seed in range(3)], [0, 1, 2])
    part = EpisodeStore(store.folder, "validation")
    for name in FRAME_ARRAYS:
        assert isinstance(getattr(part, name), np.memmap), name
    with pytest.raises(ValueError, match="read-only"):
        part.images[0] = 0
    copied = part.trajectory(0)
    copied.images[:] = 0
    assert part.trajectory(0) == make_trajectory(4, seed=1)


def test_the_fingerprint_is_that_of_the_content(tmp_path, make_trajectory):
    trajectories = [make_trajectory(4, seed=seed, level_seed=seed) for seed in range(3)]
    prints = [
        pack(tmp_path / "a", trajectories, [0, 0, 1]).fingerprint,
        pack(tmp_path / "b", trajectories, [0, 0, 1]).fingerprint,
        pack(tmp_path / "c", trajectories, [0, 1, 1]).fingerprint,
        pack(tmp_path / "d", [*trajectories[:2], make_trajectory(4, seed=2, level_seed=9)], [0, 0, 1]).fingerprint,
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_merged_stores_hold_all_episodes_in_their_splits(tmp_path, make_trajectory):
    one = pack(tmp_path / "one", [make_trajectory(3, seed=1), make_trajectory(2, seed=2)], [0, 2])
    two = pack(tmp_path / "two", [make_trajectory(5, seed=3, mission="go to the blue key")], [0])
    (tmp_path / "both").mkdir()
    merge_stores([one, two], tmp_path / "both")
    both = EpisodeStore(tmp_path / "both")
    assert [both.trajectory(i) for i in range(3)] == [one.trajectory(0), two.trajectory(0), one.trajectory(1)]
    assert EpisodeStore(tmp_path / "both", "train").lengths.tolist() == [3, 5]


def test_any_cut_or_missing_file_is_named(tmp_path, make_trajectory):
    store = pack(tmp_path / "s", [make_trajectory(4, seed=seed) for seed in range(3)], [0, 1, 2])
    for path in sorted(store.folder.iterdir()):
        whole = path.read_bytes()
        for size in (0, 5, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            if path.name == "index.json" and size == len(whole) - 1:
                continue  # only the line end is missing
            with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
                EpisodeStore(store.folder)
        path.unlink()
        with pytest.raises(UserError, match=path.name.replace(".", r"\.")):
            EpisodeStore(store.folder)
        path.write_bytes(whole)
    EpisodeStore(store.folder)


def test_verify_finds_a_turned_bit(tmp_path, make_trajectory):
    store = pack(tmp_path / "s", [make_trajectory(4, seed=seed) for seed in range(3)], [0, 1, 2])
    verify(store.folder)
    path = store.folder / "images.npy"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"images\.npy"):
        verify(store.folder)


def test_a_store_is_rebuilt_where_it_is_missing_or_stale(tmp_path):
    path = collect("BabyAI-GoToObj-v0", 6, policy="random", out=tmp_path / "d", max_steps=3)
    expected = load_trajectories(path)
    index = path / "packed" / "index.json"
    index.unlink()
    assert load_trajectories(path) == expected
    assert index.exists()
    source = path / "packed" / "source.json"
    source.write_text(json.dumps({**json.loads(source.read_text()), "size": 1}))
    index.write_text("{}")
    assert load_trajectories(path) == expected
    assert json.loads(index.read_text())["fingerprint"]


def test_several_datasets_are_merged_once(tmp_path):
    paths = [
        collect("BabyAI-GoToObj-v0", 6, policy="random", out=tmp_path / name, max_steps=3, seed=seed)
        for name, seed in (("a", 0), ("b", 50))
    ]
    store = open_store(paths)
    stamp = (store.folder / "index.json").stat().st_mtime_ns
    assert (open_store(paths).folder / "index.json").stat().st_mtime_ns == stamp
    assert sorted(store.seeds.tolist()) == [*range(6), *range(50, 56)]
    below = open_store([tmp_path])
    assert below.fingerprint == store.fingerprint
    assert len(open_store([paths[0], paths[0]])) == 6


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "t"
    target.mkdir()
    (target / "old").write_text("old")

    def fill(fail):
        with whole_folder(target, overwrite=True) as folder:
            (folder / "new").write_text("new")
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fill(fail=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["t", "old"]
    fill(fail=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["t", "new"]


def test_no_such_dataset_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="wmtool collect"):
        open_store(["wmtoolkit/BabyAI-GoToLocal/mixed-v7"])
    with pytest.raises(UserError, match="no dataset given"):
        open_store([])
    with pytest.raises(UserError, match="climbs out"):
        open_store(["a/../../../etc/x-v0"])


def test_names_stay_cheap_to_import():
    code = "import sys, wmtoolkit.data; print([m for m in ('torch', 'minigrid', 'h5py', 'minari') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
