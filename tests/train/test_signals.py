import os
import signal
import subprocess
import sys

import pytest

from scalevit.train.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_a_reason_and_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason == number.name
    assert signal.getsignal(number) == before


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
