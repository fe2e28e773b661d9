"""What a run leaves for others: the weights of a checkpoint, whole."""

from __future__ import annotations

from pathlib import Path

from scalevit import checkpoint, config, dcp, rundir, weights
from scalevit.model import ViT


def consolidated(entry: checkpoint.Saved, folder: Path) -> ViT:
    """The model of one checkpoint, whole, on the CPU: the running average where one is kept."""
    run, reader = config.load(str(folder / rundir.CONFIG)), dcp.Reader(entry.folder)
    model = ViT(run.model, device="meta")
    names = model.state_dict()
    kept = {
        name: f"average.{name}" if f"average.{name}" in reader.places else f"model.{name}" for name in names
    }
    model.load_state_dict({name: reader.whole(full) for name, full in kept.items()}, assign=True)
    model.preprocessing = run.start.preprocessing
    return model


def leave(out: Path, step: int) -> None:
    """model/ in the run's folder: the weights of the checkpoint of `step`."""
    last = checkpoint.Saved(step, checkpoint.place(out / rundir.CHECKPOINTS, step))
    weights.save(consolidated(last, out), out / rundir.MODEL)
