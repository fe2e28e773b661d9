"""Shapes in signatures are enforced here and only here; one thread a process; torchvision made importable."""

import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import torch
from jaxtyping import install_import_hook

install_import_hook("scalevit", "typecheck.check")
torch.set_num_threads(1)


# timm, transformers and open_clip, which tests compare with, import torchvision; its first import warns where
# its compiled part is missing
from scalevit.model.formats.torchvision_shim import import_despite_torchvision  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_despite_torchvision("torchvision")
