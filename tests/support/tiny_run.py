"""A run of twelve steps that tests train, interrupt and compare."""

import time
from dataclasses import replace

from faulty_run import BAD
from safetensors.torch import load_file

from scalevit import config
from scalevit.train import loop
from scalevit.train.run import pretrain

STEPS = 12


TINY = config.Run(
    name="tiny",
    model=config.Model(
        shape="mu/4", width=32, depth=1, mlp=64, heads=2, patch=4, image=16, classes=8, head_bias=0.0
    ),
    data=config.Data(source="strokes"),
    optimizer=config.Optimizer(name="adafactor"),
    schedule=config.Schedule(steps=STEPS, warmup=3, timescale=10, cooldown=4),
    train=config.Train(
        batch=8, micro_batch=4, loss="softmax", precision="fp32", ema=0.9,
        log_every=4, save_every=5, keep_at=(7,),
    ),
)  # fmt: skip


def weights(folder):
    return {name: value.tolist() for name, value in load_file(folder / "model" / "model.safetensors").items()}


WATCHED = replace(TINY, guard=config.Guard(spike=50.0, window=4))


def without_step_that_fails(monkeypatch, out, run=WATCHED):
    """The weights of the run that never saw the batch of the step that goes wrong in `faulty_run`."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "skip_offset", lambda step, skips: int(step >= BAD))
        pretrain(run, out)
    return weights(out)


def wait_for(path, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"no {path}"
        time.sleep(0.02)
