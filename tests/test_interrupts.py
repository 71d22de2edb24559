"""Interrupts that Python drops are raised again."""

import signal
import sys
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


def test_an_interrupt_dropped_by_python_is_raised_by_the_next_check(monkeypatch):
    told = []
    usual_hook = told.append
    monkeypatch.setattr(sys, "unraisablehook", usual_hook)
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    with repeated_interrupts() as check:
        check()
        del thing
        assert watch() is None  # we are still here: the interrupt was dropped
        assert not told  # and will be raised, so that nobody need hear of it now
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is usual_hook


def test_other_errors_that_python_drops_are_told(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(error.exc_type))
    thing = Thing()
    watch = weakref.ref(thing, lambda _: 1 / 0)
    with repeated_interrupts() as check:
        del thing
        check()
    assert watch() is None
    assert told == [ZeroDivisionError]


def test_an_interrupt_is_raised_at_once():
    with repeated_interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_interrupts_that_are_ignored_or_handled_stay_so(handler):
    signal.signal(signal.SIGINT, handler)
    with repeated_interrupts() as check:
        signal.raise_signal(signal.SIGINT)
        check()
