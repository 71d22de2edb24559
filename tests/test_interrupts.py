"""Interrupts that Python drops are raised again."""

import signal
import weakref

import pytest

from wmtoolkit.interrupts import repeated_interrupts


class Thing:
    """Something that can be referred to weakly."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_dropped_by_python_is_raised_by_the_next_check():
    before = signal.getsignal(signal.SIGINT)
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    with repeated_interrupts() as check:
        check()
        del thing
        assert watch() is None  # we are still here: the interrupt was printed, not raised
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_is_raised_at_once():
    with repeated_interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
