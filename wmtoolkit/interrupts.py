"""Interrupts that are heard."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def handling(numbers: Sequence[int], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle these signals; outside the main thread they are the caller's business, and stay as they are."""
    before = {}
    for number in numbers:
        try:
            before[number] = signal.signal(number, handler)
        except ValueError:  # not the main thread
            break
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def repeated_interrupts() -> Iterator[Callable[[], None]]:
    """Yields a check which raises ``KeyboardInterrupt`` if there was one: Python may have dropped it.

    An exception is only printed when it falls into the callback of a weak reference or into a ``__del__``; h5py and
    torch make many of these. An interrupt that is dropped there is not printed either: the check raises it. Where
    interrupts are ignored, or handled by the caller, they stay so.
    """
    heard: list[int] = []

    def note(number: int, _: Any) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if heard:
            raise KeyboardInterrupt

    def drop(told: Any) -> None:
        if not issubclass(told.exc_type, KeyboardInterrupt):
            before(told)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = sys.unraisablehook
    with handling([signal.SIGINT] if usual else [], note):
        sys.unraisablehook = drop if usual else before
        try:
            yield check
        finally:
            sys.unraisablehook = before
