"""What a run leaves for others: the weights of a checkpoint, whole, written tensor by tensor."""

from __future__ import annotations

from pathlib import Path

from scalevit import config
from scalevit.artifacts import checkpoint, dcp, run_folder
from scalevit.model.formats import scalevit
from scalevit.model.vit import ViT


def export_checkpoint(entry: checkpoint.Saved, home: Path, target: Path) -> None:
    """The model of one checkpoint of the run in `home`, in the folder `target`: the running average where one
    is kept. Of what any number of processes wrote, one tensor at a time is in memory."""
    run, reader = config.load(str(home / run_folder.CONFIG)), dcp.Reader(entry.folder)
    model = ViT(run.model, device="meta")
    model.preprocessing = run.start.preprocessing

    def read(name: str):
        average = f"average.{name}"
        return reader.whole(average if average in reader.places else f"model.{name}")

    scalevit.write_folder(model, target, read)


def export_run(run: config.Run, out: Path, step: int) -> None:
    """model/ in the run's folder: the weights of the checkpoint of `step`."""
    last = checkpoint.Saved(step, checkpoint.place(run_folder.checkpoints(run, out), step))
    export_checkpoint(last, out, out / run_folder.MODEL)
