"""Collecting keeps up with the environment, reading keeps up with training; memory does not grow with the data."""

import subprocess
import sys

import pytest

from wmtoolkit.data.benchmark import measure_data

MEMORY = """
import sys
from wmtoolkit.data import collect, open_store
from wmtoolkit.data.benchmark import anonymous_memory, read_frames_per_second
store = open_store([collect("BabyAI-GoToRedBallGrey-v0", int(sys.argv[1]), policy="random", out=sys.argv[2])])
read_frames_per_second(store)
print(anonymous_memory())
"""


def test_recording_random_behaviour_is_no_slower_than_the_environment():
    found = measure_data(episodes=60, workers=1)
    assert found["random_share_of_raw"] >= 0.7
    assert found["read_frames_per_second"] > 100_000


@pytest.mark.slow
def test_memory_is_flat_from_a_thousand_to_fifty_thousand_episodes(tmp_path):
    used = [
        int(subprocess.check_output([sys.executable, "-c", MEMORY, str(count), str(tmp_path / str(count))]))
        for count in (1_000, 50_000)
    ]
    # 50,000 such episodes are 350 MB of views; what may grow is a few numbers an episode
    assert used[1] - used[0] < 60e6


@pytest.mark.slow
def test_two_workers_are_nearly_twice_as_fast():
    assert measure_data(episodes=3000, workers=2)["speedup"] >= 1.7
