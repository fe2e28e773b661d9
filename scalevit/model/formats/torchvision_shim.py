"""Importing what imports torchvision, also where torchvision was built for another torch."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

#: The operators that were declared live as long as this.
_LIBRARIES: list[torch.library.Library] = []


def import_despite_torchvision(name: str) -> ModuleType:
    """The module `name`. Beside a CPU build of torch, torchvision's only Linux wheel fails on two missing
    operators of its compiled part; declaring them is enough for all that is used of it here.

    Where torchvision works nothing is declared: it would collide with its own."""
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _LIBRARIES:
            raise
    for module in [known for known in sys.modules if known.split(".")[0] in ("timm", "torchvision")]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return importlib.import_module(name)
