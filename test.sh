#!/usr/bin/env bash
# Sets everything up and runs the tests. Arguments go to pytest, e.g. ./test.sh -m slow
source "$(dirname "$0")/scripts/environment.sh"
# Two workers, or more, share the cores: each gets one thread.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1
exec python -P -m pytest -n 2 --dist loadscope "$@"
