"""A study whose nodes are shell commands, for tests of the scheduler."""

from dataclasses import replace

from scalevit.study.design import grid
from scalevit.study.design.spec import PRESETS
from scalevit.study.launch import scheduler

SPEC = replace(PRESETS["demo-small"], images=(256,), durations=(16, 32))


#: A node that does nothing: it writes its name down, saves a trunk's checkpoints, and is finished.
NOOP = 'echo "{name}" >> "{out}/order.txt"; mkdir -p "{home}/checkpoints/step_{at}"; {more}: > "{home}/ended"'


class Quiet:
    """Remembers what happened."""

    def __init__(self):
        self.events = []

    def changed(self, node, state, detail):
        self.events.append((node.name, state, detail))

    def tick(self, work):
        pass


def worker(more="", only=""):
    """Stand-in nodes run by a shell; `more` is run by those whose name contains `only`."""

    def command(node, home):
        kept = " ".join(f'"{home}/checkpoints/step_{step}"' for step in node.run.train.keep_at)
        extra = (f"mkdir -p {kept}; " if kept else "") + (f"{more}; " if more and only in node.name else "")
        at = {"name": node.name, "out": home.parents[1], "home": home, "at": node.duration, "more": extra}
        return ["/bin/sh", "-c", NOOP.format(**at)]

    return scheduler.NodeType(command, lambda home: (home / "ended").exists(), scheduler.has_checkpoint)


def many(out, count):
    """`count` nodes without trunks."""
    study = replace(SPEC, models=SPEC.models[:1], durations=(16,), seeds=tuple(range(count)))
    return grid.expand(study, out / "runs")
