"""Nodes as jobs of a Slurm cluster, submitted through submitit: what is ready at once is one array.

A job that is pre-empted or reaches its time limit saves and is requeued under its own number. Which jobs are
whose is written down before they are submitted, and their array carries a name of its own, so a launcher that
died forgets nothing: the next one finds them in the queue.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.config.result import CHECK_FAILED, DONE
from scalevit.study.design import grid
from scalevit.study.launch import attempt
from scalevit.study.launch.attempt import FROM_EARLIER_LAUNCHER, Attempt
from scalevit.study.launch.study_folder import read_json

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

#: Slurm's warning, which a run understands as a request to save and end; submitit's default is USR2.
PREEMPTION_SIGNAL = "USR1"

#: Seconds between two questions to Slurm, and for how long it may leave them without an answer.
POLL, NO_ANSWER_SECONDS = 2.0, 600.0

#: Times that a question is repeated before it counts as unanswered.
QUEUE_RETRIES = 3

#: Times that a job may reach its time limit and be requeued.
TIME_LIMITS = 1000

#: What a job gets unless told otherwise, in submitit's words (minutes; seconds of warning).
DEFAULTS: dict[str, Any] = {"time": 24 * 60, "signal_delay_s": 120, "cpus_per_task": 1}

#: Folder of a study that holds submissions.
FOLDER = "slurm"


@dataclass
class SlurmJob:
    """What a job does; Slurm pickles it. Its process receives Slurm's signals together with this one."""

    attempt: Attempt

    def __call__(self) -> int:
        return self.attempt.run()

    def checkpoint(self) -> DelayedSubmission:
        """Before a requeue: wait until the process has saved; then the same job from where it stands."""
        from submitit.core.utils import DelayedSubmission

        self.attempt.stop()
        return DelayedSubmission(SlurmJob(replace(self.attempt)))


class SlurmCluster:
    """Executor of a Slurm cluster. folder: the study's, on a file system that all machines share. workers:
    jobs at a time, 0 for as many as Slurm gives. options: submitit's parameters of an sbatch script. poll:
    seconds between two questions to Slurm.

    Raises ValueError when Slurm does not answer or does not know an option."""

    name = "slurm"

    def __init__(self, folder: Path, workers: int, options: Mapping[str, Any], poll: float = POLL) -> None:
        self.folder, self.workers, self.poll = folder / FOLDER, workers, poll
        self.jobs: dict[str, str] = {}
        self.tries: dict[str, Attempt] = {}
        self.seen: dict[str, int] = {}
        self.asked = self.answered = time.monotonic()
        self.stopping = False
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = PREEMPTION_SIGNAL
        os.environ.update(attempt.clean_environment())  # sbatch hands it on to the jobs
        self.executor = _executor(self.folder, {**DEFAULTS, **options}, workers)
        self.earlier = self._earlier(_queue())

    def choose(self, ready: Sequence[grid.Node], running: Sequence[grid.Node]) -> list[grid.Node]:
        """All of them: Slurm keeps the queue."""
        return [*ready]

    def start(self, tries: Sequence[Attempt]) -> Mapping[str, str]:
        found = {one.name: FROM_EARLIER_LAUNCHER for one in tries if one.name in self.earlier}
        self.jobs |= {name: self.earlier.pop(name) for name in found}
        new = [one for one in tries if one.name not in found]
        for one in tries:
            self.tries[one.name] = one
            self.seen[one.name] = len(attempt.read_attempts(one.home))
        if new:
            self._submit(new)
        return found | dict.fromkeys((one.name for one in new), "")

    def _submit(self, tries: Sequence[Attempt]) -> None:
        name = f"scalevit-{uuid.uuid4().hex[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.folder / f"{name}.json", json.dumps([one.name for one in tries]))
        self.executor.update_parameters(job_name=name)
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(SlurmJob(one)) for one in tries]
        except Exception as error:  # whatever submitit and sbatch have to say
            raise ValueError(f"slurm took no jobs: {' '.join(str(error).split())[-300:]}") from None
        self.jobs |= {one.name: job.job_id for one, job in zip(tries, jobs)}

    def ended(self) -> Mapping[str, int]:
        """Jobs that have left the queue; what they came to is written in their nodes' folders."""
        if not self.jobs or time.monotonic() - self.asked < self.poll:
            return {}
        self.asked = time.monotonic()
        try:
            alive = {job for _, job in _queue()}
        except ValueError:
            if self.asked - self.answered > NO_ANSWER_SECONDS:
                raise
            return {}
        self.answered = self.asked
        gone = [name for name, job in self.jobs.items() if job not in alive]
        found = {name: self._status(name, self.jobs.pop(name)) for name in gone}
        if self.stopping:
            self.stop(kill=False)
        return found

    def _status(self, name: str, job: str) -> int:
        """The exit status that the last try wrote down; without one, Slurm's own words go to the log."""
        one = self.tries[name]
        if one.finished(one.home):
            return DONE
        tries = attempt.read_attempts(one.home)
        if len(tries) > self.seen[name]:
            return tries[-1]["exit"]
        error = self.folder / f"{job}_0_log.err"
        one.log.parent.mkdir(exist_ok=True)
        with one.log.open("a") as log:
            log.write(f"job {job} ended without a word\n{attempt.log_tail(error)}\n")
        return CHECK_FAILED

    def stop(self, kill: bool) -> None:
        """What waits in the queue is taken out. What runs is told to save and end, again at every look: a
        job that has only just begun may not listen yet."""
        self.stopping = True
        cancel([*self.jobs.values(), *self.earlier.values()], kill)

    def _earlier(self, queue: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Jobs in the queue that an earlier launcher of this study submitted, by node."""
        found = {}
        for name, job in queue:
            nodes, index = _submission(self.folder, name), job.partition("_")[2] or "0"
            if index.isdigit() and int(index) < len(nodes):
                found[nodes[int(index)]] = job
        return found


def cancel(jobs: Sequence[str], kill: bool) -> None:
    """Take waiting jobs out of the queue; running ones are asked to save and end, or ended."""
    if not jobs:
        return
    for words in ([],) if kill else (["--state=PENDING"], ["--state=RUNNING", "--signal=TERM"]):
        subprocess.run(["scancel", "--quiet", *words, *jobs], capture_output=True, check=False)


def jobs_in_queue(folder: Path) -> list[str]:
    """Jobs of a study in the queue, whoever submitted them."""
    return [job for name, job in _queue() if _submission(folder / FOLDER, name)]


def _queue() -> list[tuple[str, str]]:
    """(name, number) of each of the user's jobs that waits or runs."""
    words = ["squeue", "--me", "--noheader", "--array", "--format=%j %i"]
    try:
        for _ in range(QUEUE_RETRIES):  # a busy controller drops connections
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0:
                return [_parse_job(line) for line in done.stdout.splitlines()]
            time.sleep(POLL)
    except FileNotFoundError:
        raise ValueError(
            "no Slurm here: squeue was not found; run this on a login node, or use --executor local"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError("Slurm does not answer within 60 s; try again later") from None
    said = " ".join(done.stderr.split())[:160]
    raise ValueError(f"Slurm does not answer: {said}; look at `sinfo`, try again later")


def _parse_job(line: str) -> tuple[str, str]:
    """(name, number) from a line of the queue; names of other people's jobs may hold spaces."""
    name, _, job = line.strip().rpartition(" ")
    return name.strip(), job


#: Names of this launcher's job arrays.
_JOB_NAME = re.compile(r"scalevit-[0-9a-f]{12}")


def _submission(folder: Path, name: str) -> list[str]:
    """The nodes of a job array that a launcher of the study in `folder` submitted, else none."""
    if not _JOB_NAME.fullmatch(name):
        return []
    nodes = read_json(folder / f"{name}.json")
    return nodes if isinstance(nodes, list) and all(isinstance(node, str) for node in nodes) else []


def _executor(folder: Path, options: Mapping[str, Any], workers: int) -> Any:
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise ValueError('the slurm executor needs submitit: pip install "scalevit[slurm]"') from None
    try:
        executor = SlurmExecutor(folder=folder, max_num_timeout=TIME_LIMITS)
    except RuntimeError:
        raise ValueError(
            "no Slurm here: srun was not found; run this on a login node, or use --executor local"
        ) from None
    try:
        parallel = {"array_parallelism": workers} if workers else {}
        executor.update_parameters(**{**options, **parallel})
    except (ValueError, TypeError) as error:
        raise ValueError(f"--cluster: {' '.join(str(error).split())}") from None
    return executor
