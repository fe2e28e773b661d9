"""What a step frees is kept: the next one's temporaries cost no page faults."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from scalevit.train.malloc import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        large, small = torch.ones(10 << 20), torch.ones(1 << 20)
        del large, small
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
print(*((usual, (faults(), faults())[1]) if keep_freed() else ("another",)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks glibc")
def test_memory_is_not_faulted_in_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    if done.stdout.split() == ["another"]:
        pytest.skip("needs glibc")
    usual, kept = map(int, done.stdout.split())
    assert usual > 50_000 and kept < 100
