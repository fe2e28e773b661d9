"""What happens to runs: disks fill, images break, processes die. A run ends with the right words, leaves
nobody behind, and goes on with the right weights.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import make_folder
from process_run import ALONE, RUN, assert_close, command, losses
from tiny_run import TINY, WATCHED, wait_for, weights, without_step_that_fails

from scalevit import config
from scalevit.artifacts import checkpoint, records
from scalevit.train.run import pretrain

pytestmark = pytest.mark.slow

FAULTY = str(Path(__file__).parents[1] / "support" / "faulty_run.py")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of four MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs more rights than this user has")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(small_disk, tmp_path):
    run = replace(TINY, train=replace(TINY.train, save_every=1))
    (tmp_path / "run.yaml").write_text(config.dump(run))
    assert pretrain(run, small_disk / "run", max_minutes=0).step == 1
    filler = small_disk / "filler"
    used = sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())
    filler.write_bytes(bytes((4 << 20) - used - 120_000))
    words = [sys.executable, "-m", "scalevit", "pretrain", str(tmp_path / "run.yaml")]
    done = subprocess.run([*words, "--out", str(small_disk / "run")], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    whole = checkpoint.latest(small_disk / "run" / "checkpoints", lambda text: None)
    assert whole is not None
    assert whole.step >= 1
    filler.unlink()
    assert pretrain(run, small_disk / "run").stopped is None
    pretrain(run, tmp_path / "roomy")
    assert weights(small_disk / "run") == weights(tmp_path / "roomy")


# --------------------------------------------------------------------------- several processes


@pytest.fixture
def job(tmp_path):
    """Starts two processes under torchrun; afterwards none of them is left."""
    started = []

    def start(*words, **options):
        words = command(tmp_path, 2, "parallel.strategy=fsdp", "train.save_every=1", *words, **options)
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        for number in [process.pid, *workers(tmp_path)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.communicate()


def workers(folder):
    """Processes, but for launchers, that train into a folder below this one."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if "torch.distributed.run" not in words and any(word.startswith(str(folder)) for word in words):
                found.append(int(path.parent.name))
    return sorted(found)


def gone_within(folder, seconds):
    until = time.monotonic() + seconds
    while left := workers(folder):
        assert time.monotonic() < until, f"{left} are left"
        time.sleep(0.1)


def line_of(said):
    found = [line for line in said.splitlines() if line.startswith("scalevit:") and "job ends" in line]
    assert len(found) == 1, said
    return found[0]


def test_a_broken_image_that_one_process_meets_ends_both(tmp_path, job):
    root = make_folder(tmp_path / "photos")
    file = root / "bee/001.jpg"
    file.write_bytes(file.read_bytes()[:300])
    process = job(f"data.source={root}", "data.tolerate=0", "model.classes=3")
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "failed at step" in line_of(said)
    assert "bee/001.jpg" in line_of(said)
    assert (
        line_of(said).partition(";")[0].removeprefix("scalevit: ") in (tmp_path / "run/log.txt").read_text()
    )
    assert workers(tmp_path) == []


@pytest.mark.parametrize("fault", ["nan", "spike"])
def test_a_fault_on_one_process_takes_all_back(tmp_path, monkeypatch, job, fault):
    """The second process's gradients are spoilt once; all end as if that batch had not been there."""
    without_step_that_fails(monkeypatch, tmp_path / "without")
    process = job(run=WATCHED, program=(FAULTY, fault))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said.count("the step is discarded; back at step 6") == 1
    assert_close(losses(tmp_path / "run"), losses(tmp_path / "without"))


def test_a_worker_that_dies_ends_the_job(tmp_path, job):
    process = job("schedule.steps=100000")
    wait_for(tmp_path / "run/checkpoints/step_2")
    os.kill(workers(tmp_path)[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=40)
    assert process.returncode != 0
    assert "is gone, noticed at step" in line_of(said)
    assert workers(tmp_path) == []


def test_a_launcher_that_dies_leaves_nobody_behind(tmp_path, job):
    process = job("schedule.steps=100000")
    wait_for(tmp_path / "run/checkpoints/step_2")
    assert len(workers(tmp_path)) == 2
    process.kill()
    process.wait()
    gone_within(tmp_path, 20)
    assert "is gone, noticed at step" in (tmp_path / "run/log.txt").read_text()
    again = job("schedule.steps=100000", minutes=0)
    again.communicate(timeout=60)
    assert "stopped by the time limit" in (tmp_path / "run/log.txt").read_text()


def test_a_full_disk_ends_all_processes(small_disk, tmp_path, job):
    run = replace(RUN, optimizer=replace(RUN.optimizer, name="sgd"))  # the others magnify rounding errors
    process = job("schedule.steps=60", run=run, out=small_disk / "run")
    wait_for(small_disk / "run/checkpoints/step_2")
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(10_000))
            filler.flush()
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "No space left on device" in said
    assert workers(tmp_path) == []
    (small_disk / "filler").unlink()
    again = job("schedule.steps=60", run=run, out=small_disk / "run")
    assert (again.communicate(timeout=60), again.returncode)[1] == 0
    pretrain(config.override(run, ["schedule.steps=60"]), tmp_path / "roomy")
    assert_close(losses(small_disk / "run"), losses(tmp_path / "roomy"))


# --------------------------------------------------------------------------- asked to stop


@pytest.mark.parametrize(
    ("number", "whom"),
    [
        (signal.SIGTERM, "launcher"),
        (signal.SIGINT, "launcher"),
        (signal.SIGUSR1, "launcher"),
        (signal.SIGUSR1, "second"),
    ],
)
def test_asked_to_stop_all_processes_stop_at_one_step_and_save(tmp_path, job, number, whom):
    """The launcher hands on what it is sent, SIGUSR1 if told to; of the processes one is enough."""
    process = job("schedule.steps=100000", launcher=[*ALONE, "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1"])
    wait_for(tmp_path / "run/checkpoints/step_2")
    os.kill(process.pid if whom == "launcher" else workers(tmp_path)[-1], number)
    process.communicate(timeout=40)
    assert process.returncode != 0
    assert workers(tmp_path) == []
    (row,) = (row for row in records.read_records(tmp_path / "run") if row["kind"] == "stop")
    assert row["why"] == number.name
    newest = checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert (newest.step, checkpoint.find_damage(newest.folder)) == (row["step"], [])


def test_a_second_interrupt_ends_the_job_at_once(tmp_path, job):
    process = job(program=(FAULTY, "slow"))
    wait_for(tmp_path / "run/checkpoints/step_5")
    for _ in range(2):
        time.sleep(1)
        assert len(workers(tmp_path)) == 2
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    gone_within(tmp_path, 10)
