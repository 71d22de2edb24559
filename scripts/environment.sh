# Sourced by quickstart.sh and test.sh: a virtual environment in .venv with the pinned packages, made once.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed and was not found; install it, or name it: PYTHON=/path/to/python $0" >&2
    exit 1
}

# The stamp changes with what is to be installed and with the folder, for an editable install points into it.
stamp="$(cat constraints.txt setup.py pyproject.toml <(pwd) | cksum)"
if [ "$(cat .venv/.installed 2>/dev/null)" != "$stamp" ]; then
    python="$(find_python)"
    echo "Setting up .venv (a few minutes, once) ..." >&2
    "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sb3,video,dev]'
    echo "$stamp" > .venv/.installed
fi
export PATH="$PWD/.venv/bin:$PATH"
