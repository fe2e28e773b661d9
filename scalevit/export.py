"""What a run leaves for others: the weights of a checkpoint, whole, written tensor by tensor."""

from __future__ import annotations

from pathlib import Path

from scalevit import checkpoint, config, dcp, rundir
from scalevit.formats import native
from scalevit.model import ViT


def write(entry: checkpoint.Saved, home: Path, target: Path) -> None:
    """The model of one checkpoint of the run in `home`, in the folder `target`: the running average where one
    is kept. Of what any number of processes wrote, one tensor at a time is in memory."""
    run, reader = config.load(str(home / rundir.CONFIG)), dcp.Reader(entry.folder)
    model = ViT(run.model, device="meta")
    model.preprocessing = run.start.preprocessing

    def read(name: str):
        average = f"average.{name}"
        return reader.whole(average if average in reader.places else f"model.{name}")

    native.write_folder(model, target, read)


def leave(run: config.Run, out: Path, step: int) -> None:
    """model/ in the run's folder: the weights of the checkpoint of `step`."""
    last = checkpoint.Saved(step, checkpoint.place(rundir.checkpoints(run, out), step))
    write(last, out, out / rundir.MODEL)
