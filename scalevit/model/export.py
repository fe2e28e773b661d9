"""Export of a run's weights: a checkpoint as one model folder, written tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scalevit import config
from scalevit.artifacts import checkpoint, dcp, run_folder
from scalevit.artifacts.hashing_writer import no_progress
from scalevit.model.formats import scalevit
from scalevit.model.vit import ViT


def export_checkpoint(
    entry: checkpoint.SavedCheckpoint,
    home: Path,
    target: Path,
    progress: Callable[[], None] = no_progress,
    *,
    class_names: tuple[str, ...] = (),
) -> None:
    """Write the model of one checkpoint of the run in `home` to the folder `target`: the weight average where
    one is kept. One tensor at a time is in memory, however many processes wrote the checkpoint. progress: is
    called at each tensor. class_names: of the head's outputs, else those of the run's `data.names`."""
    run, reader = config.load(str(home / run_folder.CONFIG)), dcp.ShardReader(entry.folder)
    model = ViT(run.model, device="meta")
    model.preprocessing = run.start.preprocessing
    model.class_names = class_names or (run.data.names if len(run.data.names) == run.model.classes else ())

    def read(name: str):
        progress()
        average = f"average.{name}"
        return reader.read_tensor(average if average in reader.locations else f"model.{name}")

    scalevit.write_folder(model, target, read)


def export_run(
    run: config.Run,
    out: Path,
    step: int,
    progress: Callable[[], None] = no_progress,
    *,
    class_names: tuple[str, ...] = (),
) -> None:
    """Write model/ in the run's folder from the checkpoint of `step`."""
    folder = checkpoint.step_folder(run_folder.checkpoint_folder(run, out), step)
    last = checkpoint.SavedCheckpoint(step, folder)
    export_checkpoint(last, out, out / run_folder.MODEL, progress, class_names=class_names)
