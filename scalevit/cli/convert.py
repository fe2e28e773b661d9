"""scalevit convert: weights from anywhere to anywhere, checked by computing with what was written."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalevit.config.result import CommandResult

SUMMARY = "weights in and out: timm, Hugging Face, big_vision, open_clip, ONNX"
TARGETS = ("scalevit", "timm", "hf", "bigvision", "onnx")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="IN",
        help="a run's folder, .npz, timm / transformers / open_clip folder, timm:NAME, …",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder; for bigvision and onnx a file")
    parser.add_argument("--to", choices=TARGETS, default="scalevit", help="default: %(default)s")
    parser.add_argument(
        "--image", type=int, default=0, help="resample the positions to images of this many pixels"
    )
    parser.add_argument("--features", action="store_true", help="leave the classifier out")


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.model import weights

    model = weights.load(args.source, image=args.image)
    if args.features:
        model = weights.without_head(model)
    figures = weights.write(model, args.out, args.to)
    if args.to != "onnx":
        figures = {"largest_difference": _difference(model, args.out)}
    parameters = sum(p.numel() for p in model.parameters())
    data: dict[str, Any] = {
        "source": args.source, "out": str(args.out), "to": args.to, "parameters": parameters,
        "model": {**asdict(model.config), **asdict(model.config.resolve())},
        "preprocessing": asdict(model.preprocessing), **figures,
    }  # fmt: skip
    return CommandResult(_text(data), data)


def _difference(model: Any, out: Path) -> float:
    """Largest difference between the outputs of `model` and of what is on disk now, over the largest."""
    import torch

    from scalevit.model import weights

    images = torch.randn(1, 3, *[model.config.image] * 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, again = model.eval()(images), weights.load(out, image=model.config.image).eval()(images)
    return ((again - ours).abs().max() / ours.abs().max().clamp_min(1e-12)).item()


def _text(data: dict[str, Any]) -> str:
    model, preprocessing = data["model"], data["preprocessing"]
    mean, std = (", ".join(f"{x:.4g}" for x in preprocessing[key]) for key in ("mean", "std"))
    return (
        f"{data['source']} → {data['out']} ({data['to']})\n"
        f"{model['width']} wide, {model['depth']} deep, {model['heads']} heads, patch {model['patch']}, "
        f"image {model['image']}, {model['pool']} pooling, {model['classes'] or 'no'} classes: "
        f"{data['parameters'] / 1e6:.1f} M parameters\n"
        f"images: mean ({mean}), std ({std}), {preprocessing['interpolation']}, "
        f"crop {preprocessing['crop']:g}\n"
        f"read back and run: largest difference {data['largest_difference']:.1e}"
    )
