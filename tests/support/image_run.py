"""A short run on images from disk, from the command line, and its losses."""

from scalevit.artifacts import records
from scalevit.cli.main import main

RUN = (
    "model.shape=mu/16", "model.patch=4", "model.image=16", "model.classes=3", "data.images=0",
    "data.transform=inception", "schedule.steps=4", "schedule.warmup=1", "schedule.cooldown=1",
    "train.batch=12", "train.log_every=1", "probe.datasets=[]",
)  # fmt: skip


def losses(source, out) -> list[float]:
    assert main(["pretrain", "demo", *RUN, f"data.source={source}", "--out", str(out)]) == 0
    return [row["value"] for row in records.read_records(out) if row["metric"] == "loss"]
