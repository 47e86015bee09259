"""Ctrl-C and SIGTERM are heard once, and the second ends the process."""

import os
import pty
import signal

import pytest

from carpool.cli.filerun.stopping import Stop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_wakes_and_the_second_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    ended: list[int] = []
    woken: list[bool] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    before = signal.getsignal(number)
    stop = Stop()
    with stop.listening():
        stop.then(lambda: woken.append(True))
        signal.raise_signal(number)
        assert (stop.signal, stop.code, woken, ended) == (number, code, [True], [])
        signal.raise_signal(number)
        assert ended == [code]
    assert signal.getsignal(number) is before


def test_the_second_leaves_a_terminal_with_its_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda _: None)
    reading, terminal = pty.openpty()
    before = os.dup(2)
    os.dup2(terminal, 2)
    try:
        with Stop().listening():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        os.dup2(before, 2)
    assert os.read(reading, 100).startswith(b"\x1b[?25h")
    for descriptor in (reading, terminal, before):
        os.close(descriptor)


def test_one_that_came_before_is_not_forgotten() -> None:
    stop, woken = Stop(), []
    with stop.listening():
        signal.raise_signal(signal.SIGINT)
        stop.then(lambda: woken.append(True))
    assert woken == [True]
