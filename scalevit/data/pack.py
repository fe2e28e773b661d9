"""`scalevit data pack`: any source into shards of equal size, tar or parquet, bytes as they are.

Which sample goes where is a pure function of (seed, number), so a pass that was stopped goes on with the
first shard that is missing, and every shard appears whole under its name or not at all.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scalevit.artifacts.atomic_write import atomic_path
from scalevit.data.dataset import ImageDataset
from scalevit.data.decode import BrokenImage, image_ending
from scalevit.data.exclusions import NO_EXCLUSIONS, skip_excluded
from scalevit.data.formats.tables import pyarrow, schema_for
from scalevit.data.order import Order

RECIPE = "pack.json"
#: Rows of a table's group, through which each of them is read.
ROWS = 100


@dataclass(frozen=True)
class PackOptions:
    """What decides the shards: a pack folder belongs to one recipe. samples: without those of the list
    `exclude`. order: "shuffled", or "kept" as the source has it, and then a run sees the same images in the
    same order as from the source."""

    source: str
    samples: int
    shards: int
    form: str
    seed: int
    classes: tuple[str, ...] = ()
    order: str = "shuffled"
    exclude: str = ""


def pack(
    store: ImageDataset,
    recipe: PackOptions,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    excluded: np.ndarray = NO_EXCLUSIONS,
) -> dict[str, Any]:
    """Write the shards that are missing in `out`. Broken samples are left out and named; those of the sorted
    numbers `excluded` are left out.

    Raises ValueError when `out` holds another recipe's shards, OSError when the disk is full: what is whole
    by then stays, and the next call goes on from there."""
    if recipe.form not in WRITERS:
        raise ValueError(f"--form {recipe.form} is none of {', '.join(WRITERS)}")
    _claim(recipe, out)
    assert recipe.samples == store.samples - len(excluded)
    edges = np.linspace(0, recipe.samples, recipe.shards + 1).round().astype(np.int64)
    left_out, written = list[str](), 0
    for number in range(recipe.shards):
        target = out / f"shard-{number:06d}.{recipe.form}"
        if not target.exists():
            samples = skip_excluded(_samples(recipe, np.arange(edges[number], edges[number + 1])), excluded)
            with atomic_path(target) as part:
                WRITERS[recipe.form](store, samples, part, left_out)
            written += 1
        if progress:
            progress(number + 1, recipe.shards)
    return {**asdict(recipe), "written": written, "left_out": left_out}


def _samples(recipe: PackOptions, places: np.ndarray) -> np.ndarray:
    """Which samples of the source lie at these places of the pack."""
    return places if recipe.order == "kept" else Order(recipe.samples, seed=recipe.seed).at(places)[1]


def _claim(recipe: PackOptions, out: Path) -> None:
    file = out / RECIPE
    wanted = json.loads(json.dumps(asdict(recipe)))
    if file.exists():
        if json.loads(file.read_text()) != wanted:
            raise ValueError(f"{out} holds shards of another recipe ({file}); give another --out")
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty, and not a pack that was begun; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as part:
        part.write_text(json.dumps(wanted, indent=2))


def _write_tar(store: ImageDataset, samples: np.ndarray, part: Path, left_out: list[str]) -> None:
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in samples.tolist():
            data = _bytes_of(store, number, left_out)
            if data is None:
                continue
            labels = store.labels(number).tolist()
            text = json.dumps(labels) if store.multi else "".join(map(str, labels))
            _add(tar, f"{number:012d}.{image_ending(data, '')}", data)
            if store.is_labelled(number):
                _add(tar, f"{number:012d}.{'json' if store.multi else 'cls'}", text.encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: the same samples make the same shard
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _write_parquet(store: ImageDataset, samples: np.ndarray, part: Path, left_out: list[str]) -> None:
    arrow, schema = pyarrow(), schema_for(store.class_names, store.multi)
    with arrow.parquet.ParquetWriter(part, schema) as table:
        for start in range(0, len(samples), ROWS):
            rows = []
            for number in samples[start : start + ROWS].tolist():
                data = _bytes_of(store, number, left_out)
                if data is not None:
                    labels = store.labels(number).tolist() if store.is_labelled(number) else None
                    value = labels[0] if labels and not store.multi else labels
                    rows.append({"image": {"bytes": data, "path": f"{number:012d}"}, "label": value})
            table.write_table(arrow.Table.from_pylist(rows, schema))


def _bytes_of(store: ImageDataset, number: int, left_out: list[str]) -> bytes | None:
    """The sample's bytes if they begin as an image does."""
    try:
        data = store.encoded(number)
        image_ending(data, store.name(number))
        return data
    except BrokenImage as error:
        left_out.append(str(error))
        return None


WRITERS: dict[str, Callable[..., None]] = {
    "tar": _write_tar,
    "parquet": _write_parquet,
}
