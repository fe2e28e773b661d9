"""A process that reads samples and dies at one, for tests of the index."""

import os
import signal

from scalevit.data.index import build

_measure_chunk = build._measure_chunk


def killed(path, form, start, stop):
    """In a process of its own, which the third sample kills."""
    real = build._measure

    def measure(index, number, record, reader):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(index, number, record, reader)

    build._measure = measure
    _measure_chunk(path, form, start, stop)
