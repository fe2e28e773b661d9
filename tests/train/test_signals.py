import os
import signal
import subprocess
import sys

import pytest

from scalevit.train.signals import NAMES, StopSignals, handled_signals


@pytest.mark.parametrize("number", [signal.Signals[name] for name in NAMES])
def test_a_signal_is_a_reason_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("launcher", [False, True])
def test_nohup_is_respected_but_not_under_torchrun(monkeypatch, launcher):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launcher:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert (signal.SIGHUP in handled_signals()) == launcher
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason == ("SIGHUP" if launcher else None)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_wall_clock_that_jumps_does_not_end_a_run(monkeypatch):
    stop = StopSignals(minutes=5)
    monkeypatch.setattr("time.time", lambda: 1e12)
    assert stop.reason is None


def test_a_time_limit_is_a_reason():
    assert StopSignals(minutes=0).reason == "the time limit"
    assert StopSignals(minutes=5).reason is None


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_ends_at_once(second):
    """By the terminal, or by a launcher that was interrupted twice itself."""
    program = (
        "import os, signal; from scalevit.train.signals import StopSignals\n"
        "with StopSignals():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('once', flush=True)\n"
        f"    os.kill(os.getpid(), {int(second)}); print('never', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "once\n"
    assert done.returncode == 128 + second
