"""Signals wait where a state changes, and break in elsewhere."""

import signal

import pytest

from tenshot import interrupts as module
from tenshot.interrupts import ECHO, Interrupted, Interrupts


@pytest.fixture
def clock(monkeypatch):
    """The time that interrupts see; a test moves it."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_signal_breaks_in_at_once_where_nothing_is_held():
    interrupts = Interrupts()
    with pytest.raises(Interrupted):
        interrupts.receive(signal.SIGTERM)
    assert interrupts.received == signal.SIGTERM


def test_a_signal_waits_until_all_that_is_held_is_done_and_is_raised_once():
    interrupts, done = Interrupts(), []
    with pytest.raises(Interrupted):
        with interrupts.held():
            with interrupts.held():
                interrupts.receive(signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("behind")
    assert done == ["inner", "outer"]
    with interrupts.held():
        done.append("checkpoint")
    assert done[-1] == "checkpoint"


def test_an_error_in_what_is_held_is_not_hidden_by_a_signal():
    interrupts = Interrupts()
    with pytest.raises(ZeroDivisionError), interrupts.held():
        interrupts.receive(signal.SIGINT)
        raise ZeroDivisionError


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once_also_what_is_held(clock, number, code):
    interrupts = Interrupts()
    with pytest.raises(KeyboardInterrupt) as end, interrupts.held():
        interrupts.receive(number)
        clock[0] += ECHO + 0.01
        interrupts.receive(number)
    assert end.value.exit_code == code


def test_a_signal_that_a_launcher_passes_on_again_is_the_same_signal(clock):
    interrupts, done = Interrupts(), []
    with pytest.raises(Interrupted), interrupts.held():
        interrupts.receive(signal.SIGINT)
        clock[0] += ECHO / 2
        interrupts.receive(signal.SIGINT)
        done.append("all")
    assert done == ["all"]


def test_nobody_who_catches_faults_catches_a_signal():
    assert not issubclass(Interrupted, Exception)
