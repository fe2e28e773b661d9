"""ONNX, writing: any batch size, float32 or float16, checked by comparing onnxruntime with torch."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from scalevit.model.formats import files
from scalevit.model.vit import ViT

#: Bytes that one ONNX file can hold; beyond, weights go into a second file beside it.
LARGEST = 2**31 - 2**20

#: Largest difference to torch, relative to the largest output (or to 1 where outputs are smaller).
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}


def write(model: ViT, path: Path, dtype: torch.dtype = torch.float32) -> float:
    """Write `model` for any batch size; returns onnxruntime's largest difference to torch in float32.

    dtype: of weights, input and output. Raises ValueError when the difference exceeds the tolerance, and
    writes nothing then."""
    if dtype not in TOLERANCES:
        raise ValueError("ONNX files are written in float32 or float16")
    _require_installed()
    reference = copy.deepcopy(model).float().eval().cpu()
    model = copy.deepcopy(reference).to(dtype)
    beside = sum(value.nbytes for value in model.state_dict().values()) > LARGEST
    size = (2, model.config.channels, *model.config.image_size)
    images = torch.randn(size, generator=torch.Generator().manual_seed(0))
    with files.atomic_file(path) as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own dependencies
            torch.onnx.export(
                model, (images.to(dtype),), str(temporary), input_names=["images"], output_names=["logits"],
                dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
                external_data=beside,
            )  # fmt: skip
        error = _difference(reference, temporary, torch.cat([images, images.flip(-1)])[:3], dtype)
        _describe(model, temporary)
        if not error <= TOLERANCES[dtype]:
            raise ValueError(
                f"ONNX differs from torch by {error:.1e}, more than {TOLERANCES[dtype]:.0e}: not written"
            )
    return error


def _difference(model: ViT, path: Path, images: torch.Tensor, dtype: torch.dtype) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = model(images)
    theirs = torch.from_numpy(session.run(["logits"], {"images": images.to(dtype).numpy()})[0]).float()
    return ((theirs - ours).abs().max() / ours.abs().max().clamp_min(1.0)).item()


def _describe(model: ViT, path: Path) -> None:
    """Write preprocessing and class names into the file's metadata, under these names, as JSON."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    about = {"preprocessing": json.dumps(asdict(model.preprocessing))}
    about |= {"class_names": json.dumps(model.class_names)} if model.class_names else {}
    onnx.helper.set_model_props(proto, about)
    path.write_bytes(proto.SerializeToString())


def _require_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError('writing ONNX needs more packages: pip install "scalevit[onnx]"') from None
