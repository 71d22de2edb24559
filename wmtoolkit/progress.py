"""Progress bars on stderr. Off unless the command line turns them on, so that library calls stay silent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ENABLED: ContextVar[bool] = ContextVar("wmtoolkit_progress", default=False)


class Bar:
    """Handle on a running bar; does nothing when bars are off."""

    def __init__(self, progress: Progress | None = None, task: int = 0) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float = 1, info: str | None = None) -> None:
        """Move on by ``amount`` and, if given, replace the text behind the bar."""
        if self._progress is not None:
            fields = {} if info is None else {"info": info}
            self._progress.update(self._task, advance=amount, **fields)  # type: ignore[arg-type]


@contextmanager
def progress(description: str, total: float | None, done: float = 0) -> Iterator[Bar]:
    """Show ``description`` with a bar of ``total`` units, the time spent and the time left."""
    if not ENABLED.get():
        yield Bar()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=False) as bars:
        task = bars.add_task(description, total=total, completed=int(done), info="")
        yield Bar(bars, task)
