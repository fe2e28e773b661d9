"""ONNX, out only, and never unchecked: onnxruntime must compute what torch computes."""

from __future__ import annotations

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
TOLERANCE = 1e-4


def write(model: ViT, path: Path) -> float:
    """Write `model` (moved to the CPU) for any batch size; gives onnxruntime's largest difference to torch.

    Raises ValueError when it exceeds 1e-4, and writes nothing then."""
    _require_installed()
    model = model.eval().cpu()
    beside = sum(value.nbytes for value in model.state_dict().values()) > LARGEST
    images = torch.randn(2, 3, *[model.config.image] * 2, generator=torch.Generator().manual_seed(0))
    with files.atomic_file(path) as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter warns about its own dependencies
            torch.onnx.export(
                model, (images,), str(temporary), input_names=["images"], output_names=["logits"],
                dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
                external_data=beside,
            )  # fmt: skip
        error = _difference(model, temporary, torch.cat([images, images.flip(-1)])[:3])
        _describe(model, temporary)
        if error > TOLERANCE:
            raise ValueError(
                f"ONNX differs from torch by {error:.1e}, more than {TOLERANCE:.0e}: not written"
            )
    return error


def _difference(model: ViT, path: Path, images: torch.Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = model(images)
    theirs = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    return ((theirs - ours).abs().max() / ours.abs().max().clamp_min(1.0)).item()


def _describe(model: ViT, path: Path) -> None:
    """Preprocessing goes into the file's metadata, under that name, as JSON."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(proto, {"preprocessing": json.dumps(asdict(model.preprocessing))})
    path.write_bytes(proto.SerializeToString())


def _require_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError('writing ONNX needs more packages: pip install "scalevit[onnx]"') from None
