"""A process that reads samples and dies at one, for tests of the index."""

import os
import signal

from scalevit.data import indexing

_measure_chunk = indexing._measure_chunk


def killed(path, form, start, stop):
    """In a process of its own, which the third sample kills."""
    real = indexing._measure

    def measure(index, number, record, reader):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(index, number, record, reader)

    indexing._measure = measure
    _measure_chunk(path, form, start, stop)
