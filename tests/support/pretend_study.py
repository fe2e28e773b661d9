"""A finished study whose errors obey a known law, written as real runs would write it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from scalevit.artifacts import records
from scalevit.study.design import grid
from scalevit.study.design.spec import PRESETS, Spec, Variant
from scalevit.study.launch.study_folder import write_node_folders, write_study
from scalevit.study.report import results

#: Error of a run on fresh images: A (compute / UNIT)^-B + C.
A, B, C, UNIT = 0.4, 0.3, 0.03, 1e11

#: Everything the tests count on is said here, so that the demo can change.
SPEC = replace(
    PRESETS["demo"],
    overrides=(
        "model.image=28", "model.patch=4", "model.classes=512", "model.pool=gap", "train.batch=128",
        "schedule.warmup=50", "schedule.name=rsqrt",
    ),
    models=tuple(
        Variant(
            f"{w}x{d}", (f"model.width={w}", f"model.depth={d}", f"model.mlp={4 * w}", "model.heads=1")
        )
        for w, d in ((32, 2), (64, 3), (96, 4))
    ),
    images=(2_048, 0),
    durations=(150, 300, 600),
    cooldown=0.25,
)  # fmt: skip


def law(compute):
    return A * (compute / UNIT) ** -B + C


def error(node, shots, draw):
    """The law on all new images; a fifth worse on few; draws scatter symmetrically around it."""
    few = 1.0 if node.images == 0 else 1.2
    return min(0.8, law(node.scratch)) * few * (10 / shots) ** 0.05 * (1 + 0.02 * (draw - 2))


def rows(node):
    model = node.run.model
    base = {
        "run": "id", "parent": None, "seed": 0, "step": node.duration, "shots": None, "dataset": "strokes",
        "images_seen": node.duration * 128, "train_flops": node.scratch,
        "parameters": model.resolve().parameters(model.image, model.pool, model.classes),
    }  # fmt: skip
    for step in range(node.at + 25, node.duration + 1, 25):
        yield {**base, "kind": "train", "step": step, "metric": "loss", "value": 6 - step / 300}
    for shots in (1, 10):
        for draw in range(5):
            task = {**base, "dataset": "digits", "shots": shots, "seed": draw}
            yield {**task, "kind": "probe", "metric": "accuracy", "value": 1 - error(node, shots, draw)}
            yield {**task, "kind": "floor", "metric": "raw_pixels_accuracy", "value": 0.6}
            yield {**task, "kind": "floor", "metric": "untrained_accuracy", "value": 0.55 + 0.01 * draw}
    about = {"commit": "abc", "versions": {"torch": "2"}, "device": "cpu", "images_per_second": 900.0}
    yield {**base, "kind": "run", "metric": "seconds", "value": 9.0, "seconds": 9.0, **about}


def write(folder: Path, spec: Spec = SPEC) -> list[grid.Node]:
    """Write the study; gives its nodes."""
    nodes = grid.expand(spec, folder / "runs")
    write_study(folder, spec, nodes)
    write_node_folders(nodes, folder)
    for node in nodes:
        records.append_records(folder / "runs" / node.name, rows(node))
    return nodes


def write_model(folder: Path) -> Path:
    """A folder `model` with whole weights of one number, as a finished run leaves it."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (model / "config.json").write_text("{}")
    return model


def payload(html: str):
    """The data inside a report."""
    start = html.index('id="data">') + len('id="data">')
    return json.loads(html[start : html.index("</script>", start)])


def fresh_points(found: results.Results):
    return [p for p in found.of(("digits", 10)) if p.facts.images == 0]


def expected(points):
    return np.array([law(p.facts.compute) for p in points])
