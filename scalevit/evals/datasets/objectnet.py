"""ObjectNet (Barbu et al. 2019) as it is given away: images/FOLDER/…png, and mappings/ to ImageNet's classes.

Of its 313 kinds of objects 113 are among ImageNet's classes, some of them several at once; images of the
others do not count. Every image has a red border, which is cut off: it is there to find copies by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scalevit.evals.datasets.probe_set import Images

BORDER = 2
_CLASSES = "objectnet_to_imagenet_1k.json"


def mappings_at(path: Path) -> Path | None:
    """The folder mappings/ in or beside a folder of images; None where there is none."""
    return next((p for p in (path / "mappings", path.parent / "mappings") if (p / _CLASSES).is_file()), None)


def images_at(path: Path) -> Path:
    """The folder of folders of images."""
    return path / "images" if (path / "images").is_dir() else path


def read_mappings(folder: Path) -> Mapping[str, tuple[int, ...]]:
    """From an image's folder to its classes among ImageNet's 1000. Raises ValueError for names that the files
    do not know."""
    try:
        labels = json.loads((folder / "folder_to_objectnet_label.json").read_text())
        known = json.loads((folder / _CLASSES).read_text())
        lines = json.loads((folder / "pytorch_to_imagenet_2012_id.json").read_text())
        names = (folder / "imagenet_to_label_2012_v2").read_text().splitlines()
        number = {names[line].strip(): int(which) for which, line in lines.items()}
        return {
            name: tuple(number[one] for one in known[label].split("; "))
            for name, label in labels.items()
            if label in known
        }
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"{folder}: not ObjectNet's mappings ({error!r:.100})") from None


class Inside:
    """Images without their border."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index][BORDER:-BORDER, BORDER:-BORDER]
