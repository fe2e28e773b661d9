"""Real processes that fail, die, stop or hang: the others are told which one and where, and end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

#: Each of two processes; what rank 1 does in step 5 is the first argument.
PROGRAM = """
import os, signal, sys, time
from scalevit.artifacts.remote import StoreUnavailable
from scalevit.distributed import watchdog, world as mesh
from scalevit.config.run import Parallel

def at_step_5(rank, how):
    who, what = how[0], how[1:]
    if int(who) != rank:
        return
    if what == "hangs":
        time.sleep(1000)
    if what in ("KILL", "STOP"):
        os.kill(os.getpid(), getattr(signal, "SIG" + what))
    if what == "ValueError":
        raise ValueError("no such image")
    if what == "StoreUnavailable":
        raise StoreUnavailable("s3://bucket/a.tar: no answer after 4 tries")
    if what == "KeyError":
        raise KeyError("odd")

with mesh.process_group(Parallel(timeout=4)) as world:
    for step in range(8):
        world.mark_progress(step, watchdog.READING)
        if step == 5:
            at_step_5(world.rank, sys.argv[1])
        world.mark_progress(step, watchdog.COMPUTING)
        world.all_gather(step)
print(f"rank {world.rank} done", flush=True)
mesh.exit_all(0)
"""


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def start(how, size=2):
    """As srun starts processes: each told its rank by the environment, without torchrun."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **shared, "RANK": str(rank), "TORCH_CPP_LOG_LEVEL": "FATAL"},
        )
        for rank in range(size)
    ]  # fmt: skip


def ends(processes, but=()):
    """Exit status of each, and what ours said, within what docs/pretrain.md promises."""
    began, said = time.monotonic(), []
    for rank, process in enumerate(processes):
        if rank in but:
            continue
        out, err = process.communicate(timeout=60)
        said += [line for line in (out + err).splitlines() if line.startswith(("scalevit:", "rank"))]
    spent = time.monotonic() - began
    for rank in but:
        processes[rank].kill()
        processes[rank].communicate()
    return [process.returncode for process in processes], said, spent


def test_who_does_nothing_wrong_is_let_alone():
    codes, said, _ = ends(start("9nothing"))
    assert codes == [0, 0]
    assert sorted(said) == ["rank 0 done", "rank 1 done"]


@pytest.mark.parametrize(
    ("how", "codes", "words"),
    [
        ("1ValueError", [2, 2], "rank 1 failed at step 5, reading images: no such image"),
        (
            "1StoreUnavailable",
            [3, 3],
            "rank 1 failed at step 5, reading images: s3://bucket/a.tar: no answer .*",
        ),
        ("0KeyError", [1, 1], "rank 0 failed at step 5, reading images: KeyError: 'odd'"),
        ("1KILL", [1, -signal.SIGKILL], r"rank 1 (is gone|has not .* 4 s), noticed at step 5, computing"),
        ("0KILL", [-signal.SIGKILL, 1], r"rank 0 (is gone|has not .* 4 s), noticed at step 5, computing"),
        ("0hangs", [1, 1], "rank 0 hangs at step 5, reading images; the others have waited for 4 s"),
    ],
)
def test_the_others_are_told_and_end(how, codes, words):
    found, said, spent = ends(start(how))
    assert found == codes
    (line,) = said
    assert re.fullmatch(f"scalevit: {words}; the job ends", line)
    assert spent < 40


def test_a_process_that_was_stopped_is_missed():
    codes, said, _ = ends(start("1STOP"), but=[1])
    assert codes[0] == 1
    assert said == [
        "scalevit: rank 1 has not been heard of for 4 s, noticed at step 5, computing; the job ends"
    ]
