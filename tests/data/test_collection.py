"""Collecting: the same data for a seed whatever the workers and interruptions; faults are named, whole data stay."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref

import gymnasium
import numpy as np
import pytest

from wmtoolkit.data import collect, load_trajectories, open_store
from wmtoolkit.data import workers as workers_module
from wmtoolkit.data.collection import collect_plan
from wmtoolkit.data.files import only_one
from wmtoolkit.data.hdf5 import EpisodeWriter
from wmtoolkit.data.inspection import inspect_dataset
from wmtoolkit.data.plan import CollectionPlan, default_dataset_id
from wmtoolkit.data.recording import time_limit
from wmtoolkit.data.shards import read_shard
from wmtoolkit.errors import UserError

LEVEL = "BabyAI-GoToObj-v0"


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(workers_module, "SHARD_EPISODES", 5)


def test_two_runs_and_any_number_of_workers_give_the_same_fingerprint(tmp_path):
    first = open_store([collect(LEVEL, 120, out=tmp_path / "one", seed=7)])
    second = open_store([collect(LEVEL, 120, out=tmp_path / "two", seed=7, workers=2)])
    other = open_store([collect(LEVEL, 120, out=tmp_path / "other", seed=8)])
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert sorted(first.seeds.tolist()) == list(range(7, 127))


def test_a_longer_collection_begins_like_a_shorter_one(tmp_path):
    short = load_trajectories(collect(LEVEL, 10, out=tmp_path / "short"))
    long = load_trajectories(collect(LEVEL, 20, out=tmp_path / "long"))
    by_seed = {trajectory.seed: trajectory for trajectory in long}
    assert all(by_seed[trajectory.seed] == trajectory for trajectory in short)


def test_every_event_that_matters_is_in_the_default_mix(tmp_path):
    events = {}
    for level in ("BabyAI-PutNextLocal-v0", "BabyAI-UnlockPickup-v0"):
        found = inspect_dataset(collect(level, 60, out=tmp_path / level))["events"]
        events = {name: events.get(name, 0) + count for name, count in found.items()}
    assert all(count > 0 for count in events.values()), events


def test_the_bot_label_means_success_and_behaviours_have_their_shares(tmp_path):
    shares = {"bot": 0.5, "tour": 0.5}
    trajectories = load_trajectories(collect(LEVEL, 200, shares=shares, out=tmp_path / "d"))
    bots = [trajectory for trajectory in trajectories if trajectory.behaviour == "bot"]
    assert all(trajectory.success for trajectory in bots)
    assert 70 <= len(bots) <= 130


def test_a_bot_that_fails_or_hangs_is_counted_and_goes_on_at_random(tmp_path):
    broken = collect("BabyAI-KeyInBox-v0", 3, policy="bot", max_steps=20, out=tmp_path / "broken")
    document = inspect_dataset(broken)
    assert document["errors"] == [{"bot: AssertionError": 3}]
    assert document["behaviours"] == {"noisy": {"episodes": 3, "steps": 60, "success_rate": 0.0}}
    hanging = collect("BabyAI-UnlockToUnlock-v0", 1, policy="bot", seed=4, out=tmp_path / "hanging")
    assert inspect_dataset(hanging)["errors"] == [{"bot: runs in circles": 1}]


class Sleeper:
    def reset(self, seed):
        self.slow = seed == 2

    def act(self, observation):
        while self.slow:
            time.sleep(0.01)
        return 2


def test_an_episode_out_of_time_is_left_out_and_counted(tmp_path):
    path = collect(
        LEVEL, 4, policy="sleeper", make_agent=lambda name, env: Sleeper(), seconds=0.3, max_steps=5, out=tmp_path / "d"
    )
    assert [trajectory.seed for trajectory in load_trajectories(path)] != []
    assert sorted(trajectory.seed for trajectory in load_trajectories(path)) == [0, 1, 3]
    assert inspect_dataset(path)["errors"] == [{"agent: timeout": 1}]


def test_the_time_limit_leaves_other_timers_alone():
    fired = []
    handler = signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.2)
    began = time.monotonic()
    try:
        with time_limit(5):
            time.sleep(0.05)
        while not fired and time.monotonic() - began < 2:
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, handler)
    assert 0.15 < fired[0] - began < 1


def test_the_time_limit_also_holds_outside_the_main_thread(tmp_path):
    class Dawdler(Sleeper):
        def act(self, observation):
            time.sleep(0.1 if self.slow else 0)
            return 2

    def run():
        collect(
            LEVEL, 4, policy="x", make_agent=lambda name, env: Dawdler(), seconds=0.3, max_steps=9, out=tmp_path / "d"
        )

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert sorted(trajectory.seed for trajectory in load_trajectories(tmp_path / "d")) == [0, 1, 3]


class Turner:
    """An agent that records what it was shown."""

    def __init__(self, env):
        self.env = env

    def reset(self, seed):
        self.first = None

    def act(self, observation):
        assert observation["mission"] == self.env.mission
        return 0


def test_an_agent_of_any_kind_is_recorded(tmp_path):
    made = []

    def make_agent(name, env):
        made.append(name)
        return Turner(env)

    path = collect(LEVEL, 3, policy="turner", make_agent=make_agent, max_steps=4, out=tmp_path / "d")
    trajectories = load_trajectories(path)
    assert made == ["turner"]
    assert all(trajectory.behaviour == "agent" for trajectory in trajectories)
    assert all(trajectory.actions.tolist() == [0, 0, 0, 0] for trajectory in trajectories)
    assert all(trajectory.truncations[-1] for trajectory in trajectories)


def test_levels_of_ones_own_and_levels_without_an_instruction(tmp_path, monkeypatch):
    (tmp_path / "my_levels.py").write_text(
        "import gymnasium\ngymnasium.register('MyRoom-v0', 'minigrid.envs.babyai:GoToObj', kwargs={'room_size': 5})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        own = load_trajectories(collect("my_levels:MyRoom-v0", 4, out=tmp_path / "own"))
        assert {trajectory.level for trajectory in own} == {"MyRoom-v0"}
    finally:
        gymnasium.registry.pop("MyRoom-v0", None)
    doors = load_trajectories(collect("MiniGrid-DoorKey-5x5-v0", 20, policy="bot", out=tmp_path / "doors"))
    assert all(trajectory.success and trajectory.behaviour == "bot" for trajectory in doors)
    with pytest.raises(UserError, match="no bot"):
        collect("MiniGrid-Fetch-5x5-N2-v0", 3, out=tmp_path / "fetch")
    assert len(load_trajectories(collect("MiniGrid-Fetch-5x5-N2-v0", 3, policy="tour", out=tmp_path / "fetch"))) == 3


def test_a_level_that_fails_is_named_with_its_seed(tmp_path, monkeypatch):
    (tmp_path / "broken_levels.py").write_text(
        "import gymnasium\n"
        "from minigrid.envs.babyai import GoToObj\n"
        "class Broken(GoToObj):\n"
        "    def step(self, action):\n"
        "        return super().step(action) if self.mission.count('box') else 1 / 0\n"
        "class Absent(GoToObj):\n"
        "    def gen_mission(self):\n"
        "        import no_such_package\n"
        "for name in ('Broken', 'Absent'):\n"
        "    gymnasium.register(f'{name}-v0', f'broken_levels:{name}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(UserError, match=r"level Broken-v0 fails at level seed \d+: ZeroDivisionError"):
            collect("broken_levels:Broken-v0", 20, policy="random", out=tmp_path / "d")
        with pytest.raises(UserError, match=r"level Absent-v0 fails at level seed 7: .*no_such_package"):
            collect("broken_levels:Absent-v0", 20, seed=7, out=tmp_path / "d")
    finally:
        for name in ("Broken-v0", "Absent-v0"):
            gymnasium.registry.pop(name, None)
    assert not (tmp_path / "d").exists()


def test_an_agent_is_mixed_with_other_behaviours_and_written_down_with_its_weights(tmp_path, small_shards):
    options = {
        "policy": "sb3:best.zip",
        "shares": {"agent": 0.5, "random": 0.5},
        "max_steps": 3,
        "make_agent": lambda name, env: Turner(env),
    }
    path = collect(LEVEL, 40, out=tmp_path / "d", weights="abc123", **options)
    behaviours = [trajectory.behaviour for trajectory in load_trajectories(path)]
    assert 10 <= behaviours.count("agent") <= 30
    assert set(behaviours) == {"agent", "random"}
    card = (path / "README.md").read_text()
    assert "50% agent sb3:best.zip" in card
    assert "sha256 `abc123`" in card
    assert collect(LEVEL, 40, out=path, weights="abc123", resume=True, **options) == path
    with pytest.raises(UserError, match="--overwrite"):
        collect(LEVEL, 40, out=path, weights="of another training", resume=True, **options)


def test_names_of_datasets():
    assert default_dataset_id("BabyAI-GoToLocal-v0", "mix") == "wmtoolkit/BabyAI-GoToLocal/mixed-v0"
    assert default_dataset_id("my_levels:MyRoom-v0", "bot") == "wmtoolkit/MyRoom/bot-v0"
    assert default_dataset_id("BabyAI-GoToLocal-v0", "sb3:runs/best.zip") == "wmtoolkit/BabyAI-GoToLocal/sb3-v0"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"level": "BabyAI-GoToLocl-v0"}, "did you mean BabyAI-GoToLocal"),
        ({"level": "CartPole-v1"}, "7x7"),
        ({"level": "no_such_module:X-v0"}, "no_such_module"),
        ({"episodes": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"seed": -1}, "seed -1"),
        ({"max_steps": 0}, "max_steps"),
        ({"seconds": 0}, "time limit"),
        ({"shares": {"bot": 0.5}}, "add up to 1"),
        ({"shares": {"bot": 1.5, "random": -0.5}}, "from 0 to 1"),
        ({"shares": {"genius": 1.0}}, "genius"),
        ({"policy": "bot", "shares": {"bot": 1.0}}, "mix"),
        ({"policy": "best-first"}, "make_agent"),
        ({"policy": "best-first", "shares": {"bot": 1.0}}, "agent=0.5"),
        ({"out": "wmtoolkit/../../elsewhere/x-v0"}, "climbs out"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, arguments, word):
    with pytest.raises(UserError, match=word):
        collect(**{"level": LEVEL, "episodes": 3, "out": tmp_path / "d", **arguments})
    assert not any(path.suffix == ".npz" for path in tmp_path.rglob("*"))
    assert not (tmp_path / "d").exists()


def test_nothing_is_overwritten_unasked_and_only_datasets_ever(tmp_path):
    path = collect(LEVEL, 3, out=tmp_path / "d")
    before = open_store([path]).fingerprint
    with pytest.raises(UserError, match="--overwrite"):
        collect(LEVEL, 4, out=path)
    assert open_store([path]).fingerprint == before
    assert len(load_trajectories(collect(LEVEL, 4, out=path, overwrite=True))) == 4
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds no dataset"):
        collect(LEVEL, 3, out=precious, overwrite=True)
    assert (precious / "thesis.txt").exists()
    with pytest.raises(UserError, match="is a file"):
        collect(LEVEL, 3, out=precious / "thesis.txt", overwrite=True)


def test_resume_after_a_kill_gives_the_data_of_an_undisturbed_run(tmp_path):
    script = (
        "import sys; from wmtoolkit.data import collect\n"
        "if __name__ == '__main__': collect('BabyAI-GoToLocal-v0', 400, out=sys.argv[1], workers=2, seed=3)\n"
    )
    (tmp_path / "script.py").write_text(script)
    out = tmp_path / "d"
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(out)])
    work = tmp_path / ".d.collecting"
    deadline = time.monotonic() + 60
    while len(list(work.glob("shard-*.npz"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not out.exists()
    kept = {path: path.stat().st_mtime_ns for path in sorted(work.glob("shard-*.npz"))[:1]}
    assert len(kept) == 1
    with pytest.raises(UserError, match="--resume"):
        collect("BabyAI-GoToLocal-v0", 400, out=out, seed=3)
    with pytest.raises(UserError, match="other arguments"):
        collect("BabyAI-GoToLocal-v0", 400, out=out, seed=4, resume=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    resumed = open_store([collect("BabyAI-GoToLocal-v0", 400, out=out, seed=3, resume=True)])
    whole = open_store([collect("BabyAI-GoToLocal-v0", 400, out=tmp_path / "whole", seed=3)])
    assert resumed.fingerprint == whole.fingerprint
    assert not work.exists()
    assert collect("BabyAI-GoToLocal-v0", 400, out=out, seed=3, resume=True) == out


def test_an_interrupt_keeps_what_is_finished_and_says_so(tmp_path, small_shards):
    class Impatient(Turner):
        def reset(self, seed):
            if seed == 12:
                raise KeyboardInterrupt

    plan = CollectionPlan(LEVEL, 20, {"agent": 1.0}, agent="x", max_steps=3)
    with pytest.raises(KeyboardInterrupt, match="2 of 4 shards are kept"):
        collect_plan(plan, tmp_path / "d", make_agent=lambda name, env: Impatient(env))
    path = collect_plan(plan, tmp_path / "d", make_agent=lambda name, env: Turner(env), resume=True)
    assert len(load_trajectories(path)) == 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_in_the_only_shard_is_heard(tmp_path, monkeypatch):
    """As it does when the signal comes during the callback of a weak reference."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    add = EpisodeWriter.add

    def dropping(self, *arguments):
        thing = threading.Event()
        watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        assert watch() is None
        add(self, *arguments)

    monkeypatch.setattr(EpisodeWriter, "add", dropping)
    try:
        with pytest.raises(KeyboardInterrupt, match="1 of 1 shards"):
            collect(LEVEL, 5, out=tmp_path / "d")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (tmp_path / "d").exists()
    monkeypatch.undo()
    assert len(load_trajectories(collect(LEVEL, 5, out=tmp_path / "d", resume=True))) == 5


def test_a_shard_cut_off_at_any_byte_is_recorded_again(tmp_path, small_shards):
    class Impatient(Turner):
        def reset(self, seed):
            if seed == 5:
                raise KeyboardInterrupt

    plan = CollectionPlan(LEVEL, 10, {"agent": 1.0}, agent="x", max_steps=2)
    work = tmp_path / ".d.collecting"
    with pytest.raises(KeyboardInterrupt):
        collect_plan(plan, tmp_path / "d", make_agent=lambda name, env: Impatient(env))
    shard = work / "shard-000000.npz"
    whole = shard.read_bytes()
    for size in [0, 1, 30, len(whole) // 3, len(whole) // 2, len(whole) - 1]:
        shard.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"shard-000000\.npz is damaged"):
            read_shard(shard)
    path = collect_plan(plan, tmp_path / "d", make_agent=lambda name, env: Turner(env), resume=True)
    assert len(load_trajectories(path)) == 10


def test_two_collectors_on_one_output_do_not_mix(tmp_path):
    work = tmp_path / ".d.collecting"
    work.mkdir()
    with only_one(work / ".lock", wait=False), pytest.raises(UserError, match="another process is writing"):
        collect(LEVEL, 3, out=tmp_path / "d")
    assert len(load_trajectories(collect(LEVEL, 3, out=tmp_path / "d"))) == 3


@pytest.mark.parametrize("limit", [2_000, 100_000, 200_000, 300_000, 350_000])
def test_a_full_disk_is_reported_and_what_was_whole_stays(tmp_path, small_shards, limit):
    """The limit on file size stands in for the disk: writing past it fails the same way, at another place each."""
    path = collect(LEVEL, 20, out=tmp_path / "d")
    before = open_store([path]).fingerprint
    before_size = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before_size[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            collect("BabyAI-PutNextLocal-v0", 40, out=path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before_size)
        signal.signal(signal.SIGXFSZ, handler)
    assert open_store([path]).fingerprint == before
    assert [entry.name for entry in tmp_path.iterdir() if ".tmp-" in entry.name] == []


def test_a_worker_that_dies_is_reported(tmp_path, small_shards):
    with pytest.raises(UserError, match="process died"):
        collect(LEVEL, 12, policy="x", make_agent=die, workers=2, out=tmp_path / "d")


def die(name, env):
    os._exit(3)


def test_collecting_prints_nothing(tmp_path, capfd):
    collect("BabyAI-PutNextLocal-v0", 8, out=tmp_path / "d")
    assert capfd.readouterr() == ("", "")


def test_recorded_arrays_have_the_documented_types(tmp_path):
    trajectory = load_trajectories(collect(LEVEL, 2, out=tmp_path / "d"))[0]
    kinds = {name: getattr(trajectory, name).dtype for name in ("images", "directions", "actions", "rewards")}
    assert kinds == {"images": np.uint8, "directions": np.int64, "actions": np.int64, "rewards": np.float32}
    assert trajectory.terminations.dtype == trajectory.truncations.dtype == bool
