"""Several training processes on one machine, which find each other as under torchrun."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence


def is_worker() -> bool:
    """Whether this process is one of several that something (this module, torchrun, accelerate) has started."""
    return "LOCAL_RANK" in os.environ


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m wmtoolkit.cli ARGUMENTS`` in ``count`` processes and wait for them.

    The first one speaks for all; what another says on stderr is shown only if the first did not fail on its own. An
    interrupt reaches all of them, and they are waited for while they save.

    Returns:
        The exit status: 0, or that of the first process to fail.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    common.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    command = [sys.executable, "-P", "-m", "wmtoolkit.cli", *arguments]
    with tempfile.TemporaryFile() as unheard:
        workers = [
            subprocess.Popen(
                command,
                env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count)},
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=None if rank == 0 else unheard,
            )
            for rank in range(count)
        ]
        failed: subprocess.Popen[bytes] | None = None
        while any(worker.poll() is None for worker in workers):
            with contextlib.suppress(KeyboardInterrupt):  # they have heard it too, and save
                time.sleep(0.1)
            first = next((worker for worker in workers if worker.poll()), None)
            if failed is None and first is not None:
                failed = first
                grace = time.monotonic() + 10
            if failed is not None and time.monotonic() > grace:  # the others may wait for it for ever
                for worker in workers:
                    worker.kill()
        failed = failed or next((worker for worker in workers if worker.returncode), None)
        if failed is not None and workers[0].returncode <= 0:  # it was stopped, or all was well with it
            unheard.seek(0)
            sys.stderr.write(unheard.read().decode(errors="replace"))
    return 0 if failed is None else abs(failed.returncode)
