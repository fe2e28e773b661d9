"""A study of nodes that only sleep, on any executor, in a process that a test can kill.

Words: executor, folder, number of nodes, what a node does besides writing its name down, then options."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from scalevit.study.design import grid
from scalevit.study.design.spec import PRESETS
from scalevit.study.launch import scheduler
from scalevit.study.launch.executors.local import LocalExecutor
from scalevit.study.launch.executors.ray import RayCluster
from scalevit.study.launch.executors.slurm import SlurmCluster

SPEC = replace(PRESETS["demo-small"], images=(256,), durations=(16,))


class Quiet:
    """Writes what happened into a file."""

    def __init__(self, folder):
        self.path = folder / "events.txt"

    def changed(self, node, state, detail):
        with self.path.open("a") as file:
            file.write(f"{node.name} {state} {detail!r}\n")

    def tick(self, work):
        pass


class Shell:
    """A node's process: a shell that does `more`, then adds its name to order.txt and is finished."""

    def __init__(self, more):
        self.more = more

    def __call__(self, node, home):
        return [
            "/bin/sh", "-c",
            f'{self.more}\necho {node.name} >> "{home.parents[1]}/order.txt"; : > "{home}/ended"',
        ]  # fmt: skip


def is_finished(home):
    return (home / "ended").exists()


def progress(home):
    return len((home / "began").read_text().splitlines()) if (home / "began").exists() else 0


def nodes(folder, count):
    spec = replace(SPEC, models=SPEC.models[:1], seeds=tuple(range(count)))
    return grid.expand(spec, folder / "runs")


def executor(name, folder, options, slots=2):
    made = {
        "local": lambda: LocalExecutor(slots),
        "slurm": lambda: SlurmCluster(folder, slots, options, poll=0.5),
        "ray": lambda: RayCluster(slots, options),
    }
    return made[name]()


def run(name, folder, count, more, options=None, slots=2):
    worker = scheduler.NodeType(Shell(more), is_finished, scheduler.has_checkpoint, progress)
    where = executor(name, folder, options or {}, slots)
    return scheduler.run_study(nodes(folder, count), folder, Quiet(folder), worker, where)


if __name__ == "__main__":
    name, folder, count, more, options = sys.argv[1:6]
    outcome = run(name, Path(folder), int(count), more, json.loads(options))
    sys.exit(0 if outcome.complete else 3 if outcome.stopped else 1)
