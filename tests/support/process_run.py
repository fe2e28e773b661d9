"""A run over several processes under torchrun, and its losses."""

import sys
from dataclasses import replace

from tiny_run import TINY

from scalevit import config
from scalevit.artifacts import records

STEPS = 20


RUN = replace(
    TINY,
    schedule=replace(TINY.schedule, steps=STEPS),
    train=replace(TINY.train, micro_batch=2, log_every=1, save_every=4),
)


SCALEVIT, ALONE = ("-m", "scalevit"), ("--standalone",)


def command(home, processes, *overrides, out="run", run=RUN, minutes=None, launcher=ALONE, program=SCALEVIT):
    """launcher: options of torchrun. program: what it starts."""
    path = home / f"{run.name}.yaml"
    path.write_text(config.dump(run))
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *launcher]
    words = [*program, "pretrain", str(path), *overrides, "--out", str(home / out)]
    return start + words + (["--max-minutes", str(minutes)] if minutes is not None else [])


def losses(folder):
    rows = [row for row in records.read_records(folder) if row["metric"] == "loss"]
    return {row["step"]: row["value"] for row in rows}


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    assert max(abs(found[step] / expected[step] - 1) for step in expected) <= 1e-5
