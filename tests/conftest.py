"""Shapes in signatures are enforced here and only here; one thread a process; torchvision made importable."""

import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import torch
from jaxtyping import install_import_hook

install_import_hook("scalevit", "typecheck.check")
torch.set_num_threads(1)


def _complete_torchvision() -> torch.library.Library | None:
    """With a CPU build of torch, torchvision's compiled part does not load and its import fails on two
    missing operators. Declaring them lets the libraries import that tests compare with."""
    if torch.cuda.is_available():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_torchvision = _complete_torchvision()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torchvision  # noqa: F401  (its first import warns about the missing compiled part)
