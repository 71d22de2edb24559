"""Interrupts that Python drops are raised again."""

import signal
import weakref

import pytest

from wmtoolkit.interrupts import repeated_interrupts


class Thing:
    """Something that can be referred to weakly."""


@pytest.fixture(autouse=True)
def usual():
    """As where a shell did not start the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_dropped_by_python_is_raised_by_the_next_check():
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    with repeated_interrupts() as check:
        check()
        del thing
        assert watch() is None  # we are still here: the interrupt was printed, not raised
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_is_raised_at_once():
    with repeated_interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_interrupts_that_are_ignored_or_handled_stay_so(handler):
    signal.signal(signal.SIGINT, handler)
    with repeated_interrupts() as check:
        signal.raise_signal(signal.SIGINT)
        check()
