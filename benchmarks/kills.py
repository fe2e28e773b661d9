"""Does a run that is killed end with the weights of the undisturbed one? A sharded run of two processes
(FSDP2, torchrun, CPU) that saves every step, killed once at a random moment, started again, and compared.

    python benchmarks/kills.py --kills 30

What is killed takes turns: both processes while a checkpoint is being written; one process, after which the
job has to end by itself; the launcher, after which its processes have to; and everything at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from scalevit import config
from scalevit.artifacts import checkpoint, run_folder

RUN = config.Run(
    name="killed",
    model=config.Model(shape="mu/4", width=64, depth=2, mlp=128, heads=2, patch=4, image=16, classes=8),
    data=config.Data(source="strokes"),
    schedule=config.Schedule(steps=40, warmup=5, timescale=20, cooldown=10),
    train=config.Train(batch=8, precision="fp32", ema=0.9, save_every=1, log_every=10),
    parallel=config.Parallel(strategy="fsdp"),
)
HOW = ("in a save", "one process", "the launcher", "everything")
#: Seconds within which a job that lost a process must have ended (docs/pretrain.md).
PROMISE = 50.0
#: Seconds over which a kill is spread: in a step, in starting, in writing a checkpoint.
STEP, START, WRITING = 0.1, 4.0, 0.005


@dataclass(frozen=True)
class Found:
    """One trial. saved: steps in checkpoints when the job was dead. draft: whether a half-written checkpoint
    was left. spent: seconds until no process was left."""

    how: str
    saved: int
    draft: bool
    spent: float
    same: bool

    def __str__(self) -> str:
        draft = ", a checkpoint half written" if self.draft else ""
        same = "the same weights" if self.same else "OTHER WEIGHTS"
        return f"{self.how}: {self.saved} steps saved{draft}; gone within {self.spent:.1f} s; {same}"


def start(home: Path, out: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m"]
    words += ["scalevit", "pretrain", str(home / "run.yaml"), "--out", str(home / out)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)


def processes(folder: Path) -> list[int]:
    """Those that train into the folder, the launcher not among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode().split("\0")
            if str(folder) in words and "torch.distributed.run" not in words:
                found.append(int(path.parent.name))
    return found


def kill(numbers: list[int]) -> None:
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def drafts(folder: Path) -> list[Path]:
    return [*(folder / run_folder.CHECKPOINTS).glob(".step_*.draft")]


def strike(job: subprocess.Popen[bytes], folder: Path, how: str, moment: float) -> None:
    """Kill at a moment, counted in steps; below 1, while the processes start."""
    while len(workers := processes(folder)) < 2 and job.poll() is None:
        time.sleep(0.01)
    while reached(folder) < int(moment) and job.poll() is None:
        time.sleep(0.005)
    phase = moment % 1
    time.sleep(phase * (STEP if moment >= 1 else START))
    if how == "in a save":
        while not drafts(folder) and job.poll() is None:
            pass
        time.sleep(phase * WRITING)
        kill(workers)
    elif how == "one process":
        kill([workers[int(phase * 1000) % 2]])
    elif how == "the launcher":
        kill([job.pid])
    else:
        kill([job.pid, *workers])


def reached(folder: Path) -> int:
    return max(
        (entry.step for entry in checkpoint.list_checkpoints(folder / run_folder.CHECKPOINTS)), default=0
    )


def trial(home: Path, how: str, moment: float, expected: bytes) -> Found:
    folder = home / "run"
    job = start(home, "run")
    strike(job, folder, how, moment)
    began = time.monotonic()
    while job.poll() is None or processes(folder):
        if time.monotonic() - began > PROMISE:
            raise SystemExit(f"{how}: processes are left after {PROMISE:.0f} s")
        time.sleep(0.05)
    spent, draft = time.monotonic() - began, bool(drafts(folder))
    saved = reached(folder)
    assert start(home, "run").wait(timeout=300) == 0
    same = weights(folder) == expected
    shutil.rmtree(folder)
    return Found(how, saved, draft, spent, same)


def told(found: list[Found], steps: int) -> None:
    whole, halves = sum(one.same for one in found), sum(one.draft for one in found)
    cut = sum(0 < one.saved < steps for one in found)
    print(f"{whole} of {len(found)} end with the weights of the undisturbed run, bit for bit;")
    print(f"{cut} were killed between the first and the last checkpoint, {halves} left one half written;")
    print(f"{max(one.spent for one in found):.1f} s at most until all processes had gone")


def weights(folder: Path) -> bytes:
    return (folder / run_folder.MODEL / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=RUN.schedule.steps)
    args = parser.parse_args()
    moments, found = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        run = replace(RUN, schedule=replace(RUN.schedule, steps=args.steps))
        (home / "run.yaml").write_text(config.dump(run))
        began = time.monotonic()
        assert start(home, "straight").wait(timeout=300) == 0
        takes, expected = time.monotonic() - began, weights(home / "straight")
        print(f"undisturbed: {args.steps} steps, {takes:.1f} s from start to end", flush=True)
        for number in range(args.kills):
            moment = moments.uniform(-4, 0.95 * args.steps)
            found.append(trial(home, HOW[number % len(HOW)], moment, expected))
            print(f"{number + 1}: {found[-1]}", flush=True)
    told(found, args.steps)
    raise SystemExit(any(not one.same for one in found))


if __name__ == "__main__":
    main()
