"""scalevit predict: names and probabilities of what images show, or their features."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scalevit.artifacts.atomic_write import atomic_path, atomic_write_text
from scalevit.config.progress import open_display, printable
from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    import numpy as np

    from scalevit.evals.backbones import Backbone
    from scalevit.evals.predict import NamedImages, Prediction

SUMMARY = "names and probabilities of what images show, or their features"

#: Exit status when some image could not be read.
SOME_BROKEN = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run's or a model's folder, timm:NAME, …, as convert reads them")
    parser.add_argument(
        "images", nargs="+", help="image files, folders with their subfolders, tars or tables"
    )
    parser.add_argument("--top", type=int, default=3, help="classes to show of each image [3]")
    parser.add_argument(
        "--image", type=int, default=0, help="side of the model's images, resampled positions"
    )
    parser.add_argument("--multi", action="store_true", help="a probability of each class by itself "
                        "(sigmoid); the default for a run trained so")  # fmt: skip
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a row for each image there")
    parser.add_argument("--features", type=Path, metavar="FILE", help="write features instead: FILE.npy "
                        "(and the images' names beside it, FILE.names.json) or FILE.parquet")  # fmt: skip
    parser.add_argument("--layer", default="", help="features of this layer, e.g. blocks.3 [the last]")


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.evals.backbones import open_model
    from scalevit.evals.predict import open_images

    _check(args)
    sources = open_images(args.images)
    backbone = open_model(args.model, image=args.image)
    return (_features if args.features else _predictions)(args, backbone, sources)


def _check(args: argparse.Namespace) -> None:
    if args.top < 1:
        raise ValueError(f"--top must be at least 1, found {args.top}")
    if args.features and args.features.suffix not in (".npy", ".parquet"):
        raise ValueError(f"--features {args.features}: expected a name that ends in .npy or .parquet")
    if args.layer and not args.features:
        raise ValueError("--layer belongs to --features FILE")


def _predictions(args: argparse.Namespace, backbone: Backbone, sources: list[NamedImages]) -> CommandResult:
    from scalevit.evals.predict import activation_of, classify

    activation = "sigmoid" if args.multi else activation_of(args.model)
    total, rows = sum(map(len, sources)), []
    with open_display() as display:
        for source in sources:
            for prediction in classify(backbone, source, args.top, activation):
                rows.append(prediction)
                display.update("predicting", len(rows), total)
    if args.csv:
        atomic_write_text(args.csv, _csv(rows, args.top))
    broken = [row for row in rows if row.error]
    text = "\n".join(
        [*map(_line, rows), *_summary(len(rows), [row.error for row in broken]), *_left_out(sources)]
    )
    data = {"model": backbone.name, "activation": activation, "predictions": [asdict(row) for row in rows]}
    return CommandResult(text, data, SOME_BROKEN if broken else 0)


def _line(row: Prediction) -> str:
    if row.error:
        return printable(f"{row.image}  cannot be read")
    pairs = zip(row.classes, row.probabilities)
    return printable(f"{row.image}  " + "  ".join(f"{name} {100 * share:.1f} %" for name, share in pairs))


def _summary(total: int, errors: list[str]) -> list[str]:
    lines = [f"{total} images"] if total > 1 else []
    if errors:
        lines = [f"{total} images, {len(errors)} of which cannot be read:", *map(printable, errors)]
    return lines


def _left_out(sources: list[NamedImages]) -> list[str]:
    return [line for source in sources for line in source.left_out.lines()]


def _csv(rows: list[Prediction], top: int) -> str:
    file = io.StringIO()
    writer = csv.writer(file)
    numbers = range(1, top + 1)
    writer.writerow(
        ["image", *(f"{column}_{i}" for i in numbers for column in ("class", "probability")), "error"]
    )
    for row in rows:
        pairs = [cell for pair in zip(row.classes, row.probabilities) for cell in pair]
        writer.writerow([*map(_cell, [row.image, *pairs, *[""] * (2 * top - len(pairs)), row.error])])
    return file.getvalue()


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _features(args: argparse.Namespace, backbone: Backbone, sources: list[NamedImages]) -> CommandResult:
    import numpy as np

    from scalevit.evals.predict import LAST_LAYER

    layer = args.layer or LAST_LAYER
    if layer not in backbone.layers:
        raise ValueError(f"{backbone.name} has no layer {layer!r}; it has {', '.join(backbone.layers)}")
    names: list[str] = []
    values: list[np.ndarray] = []
    errors: list[str] = []
    for name, value in _all_features(backbone, sources, layer):
        if isinstance(value, Exception):
            errors.append(str(value))
        else:
            names.append(name)
            values.append(value)
    if not values:
        raise ValueError(
            f"none of {len(errors)} images can be read; the first: {errors[0] if errors else '-'}"
        )
    table = np.stack(values)
    _write(args.features, names, table)
    lines = [
        f"{args.features}: features of {len(table)} images, {table.shape[1]} numbers each, layer {layer}",
        *_left_out(sources),
    ]
    if errors:
        lines += [f"{len(errors)} images cannot be read and are left out:", *map(printable, errors)]
    data = {"model": backbone.name, "layer": layer, "features": str(args.features), "images": len(table),
            "width": table.shape[1], "left_out": errors}  # fmt: skip
    return CommandResult("\n".join(lines), data, SOME_BROKEN if errors else 0)


def _all_features(
    backbone: Backbone, sources: list[NamedImages], layer: str
) -> Iterator[tuple[str, np.ndarray | Exception]]:
    from scalevit.evals.predict import image_features

    total, done = sum(map(len, sources)), 0
    with open_display() as display:
        for source in sources:
            for pair in image_features(backbone, source, layer):
                yield pair
                done += 1
                display.update("features", done, total)


def _write(target: Path, names: list[str], table: np.ndarray) -> None:
    import numpy as np

    if target.suffix == ".npy":
        with atomic_path(target) as temporary, temporary.open("wb") as file:
            np.save(file, table)
        atomic_write_text(target.with_suffix(".names.json"), json.dumps(names, indent=0))
        return
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError('--features FILE.parquet needs pyarrow: pip install "scalevit[parquet]"') from None
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(table.ravel()), table.shape[1])
    with atomic_path(target) as temporary:
        parquet.write_table(pyarrow.table({"image": names, "features": column}), temporary)
