"""scalevit presets: runs and studies that have a name."""

from __future__ import annotations

import argparse

from scalevit.config.presets import PRESETS
from scalevit.config.result import CommandResult
from scalevit.config.run import Run

SUMMARY = "runs and studies that have a name"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "scalevit config --preset NAME lists every setting of a preset."


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.design.grid import STUDIES

    runs = {name: _facts(run) for name, run in PRESETS.items()}
    head = f"{'preset':<12}{'model':<9}{'parameters':>14}{'pixels':>8}{'batch':>8}{'steps':>11}"
    lines = [f"{head}{'FLOPs':>10}  images", *(_line(name, facts) for name, facts in runs.items())]
    text = "\n".join(
        [*lines, "", f"studies: {', '.join(STUDIES)}", "",
         "scalevit pretrain PRESET --out DIR [key=value …] trains one",
         "scalevit plan PRESET says what it takes"]
    )  # fmt: skip
    return CommandResult(text, {"runs": runs, "studies": [*STUDIES]})


def _facts(run: Run) -> dict[str, object]:
    shape, images = run.model.resolve(), run.schedule.steps * run.train.batch
    size = (run.model.image, run.model.pool, run.model.classes)
    name = run.model.shape if run.model.width is None else f"{shape.width}×{shape.depth}/{shape.patch}"
    return {
        "model": name, "parameters": shape.parameters(*size), "image": run.model.image,
        "batch": run.train.batch, "steps": run.schedule.steps,
        "train_flops": 3 * shape.flops(*size) * images, "source": run.data.source,
    }  # fmt: skip


def _line(name: str, facts: dict[str, object]) -> str:
    return (
        f"{name:<12}{facts['model']:<9}{facts['parameters']:>14,}{facts['image']:>8}{facts['batch']:>8,}"
        f"{facts['steps']:>11,}{facts['train_flops']:>10.2g}  {facts['source'] or 'yours: data.source=PATH'}"
    )
