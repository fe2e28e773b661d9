"""WordNet ids of the classes of ImageNet's usual heads, and ReaL's labels, as timm carries them."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

#: How many classes ImageNet's challenge has.
IMAGENET = 1000
WORDNET = re.compile(r"n\d{8}")

#: By the number of outputs: ImageNet-1k; ImageNet-21k by MIIL (winter 2021, fall 2011); timm's 12k; the whole
#: of fall 2011, Microsoft's order of it, and Google's, of which the authors' and AugReg's weights are.
HEADS = {
    IMAGENET: "imagenet_synsets.txt",
    10_450: "imagenet21k_miil_w21_synsets.txt",
    11_221: "imagenet21k_miil_synsets.txt",
    11_821: "imagenet12k_synsets.txt",
    21_841: "imagenet22k_synsets.txt",
    21_842: "imagenet22k_ms_synsets.txt",
    21_843: "imagenet21k_goog_synsets.txt",
}


def synsets(outputs: int = IMAGENET) -> list[str]:
    """The ids in the order of a head's outputs. Raises ValueError for a head that is none of ImageNet's."""
    if outputs not in HEADS:
        raise ValueError(f"a head of {outputs} classes is none of ImageNet's ({', '.join(map(str, HEADS))})")
    return _timm_file(HEADS[outputs]).read_text().split()


@lru_cache
def _order(outputs: int) -> dict[str, int]:
    return {synset: number for number, synset in enumerate(synsets(outputs))}


def output_of_synset(synset: str, outputs: int, where: str) -> int:
    """The output that means this id. Raises ValueError, beginning with `where`, when none does."""
    try:
        return _order(outputs)[synset]
    except KeyError:
        raise ValueError(f"{where}: {synset} is none of ImageNet's {outputs} classes") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}; say which class is which (--map)") from None


def map_imagenet_classes(classes: tuple[int, ...], outputs: int) -> tuple[int, ...]:
    """Classes of ImageNet's 1000 as outputs of another of its heads, by their ids; of any other head as they
    are. An id that such a head has not is left out."""
    if outputs == IMAGENET or outputs not in HEADS:
        return classes
    ids, there = synsets(), _order(outputs)
    return tuple(there[ids[one]] for one in classes if ids[one] in there)


def real_labels() -> Path:
    """ReaL's labels of ImageNet's 50 000 validation images."""
    return _timm_file("imagenet_real_labels.json")


def _timm_file(name: str) -> Path:
    found = find_spec("timm")
    path = Path(str(found.origin)).parent / "data" / "_info" / name if found else None
    if path is None or not path.is_file():
        raise ValueError(f'{name} comes with timm: pip install "scalevit[timm]"')
    return path
