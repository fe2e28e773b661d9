"""scalevit convert: weights between formats, read back and compared before they take their place."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scalevit.config.result import CommandResult

SUMMARY = "weights in and out: timm, Hugging Face, big_vision, open_clip, ONNX"
TARGETS = ("scalevit", "timm", "hf", "bigvision", "onnx")
DTYPES = ("float32", "float16", "bfloat16")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="IN",
        help="a run's folder, a file of weights, .npz, timm / transformers / open_clip folder, timm:NAME, …",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder; for bigvision and onnx a file")
    parser.add_argument("--to", choices=TARGETS, default="scalevit", help="default: %(default)s")
    parser.add_argument(
        "--image", type=int, default=0, help="resample the positions to images of this many pixels"
    )
    parser.add_argument("--features", action="store_true", help="leave the classifier out")
    parser.add_argument(
        "--part", default="", metavar="KEY",
        help="entry of a training checkpoint, e.g. model_ema [an average if there is one]",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights [%(default)s]")


def main(args: argparse.Namespace) -> CommandResult:
    """Convert, and describe the model and the difference of the copy's outputs."""
    from scalevit.model import weights

    if args.image < 0:
        raise ValueError(f"--image: must be at least 1, found {args.image}")
    model = weights.load(args.source, image=args.image, part=args.part)
    if args.features:
        model = weights.without_head(model)
    figures = weights.write(model, args.out, args.to, args.dtype)
    parameters = sum(p.numel() for p in model.parameters())
    data: dict[str, Any] = {
        "source": args.source, "out": str(args.out), "to": args.to, "dtype": args.dtype,
        "parameters": parameters, "model": {**asdict(model.config), **asdict(model.config.resolve())},
        "preprocessing": asdict(model.preprocessing), "class_names": list(model.class_names), **figures,
    }  # fmt: skip
    return CommandResult(_text(data), data)


def _text(data: dict[str, Any]) -> str:
    model, preprocessing, names = data["model"], data["preprocessing"], data["class_names"]
    mean, std = (", ".join(f"{x:.4g}" for x in preprocessing[key]) for key in ("mean", "std"))
    some = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    size = f"{model['image']} × {model['image_width']}" if model["image_width"] else str(model["image"])
    return (
        f"{data['source']} → {data['out']} ({data['to']})\n"
        f"{model['width']} wide, {model['depth']} deep, {model['heads']} heads, patch {model['patch']}, "
        f"image {size}, {model['pool']} pooling, {model['classes'] or 'no'} classes{some}: "
        f"{data['parameters'] / 1e6:.1f} M parameters\n"
        f"images: mean ({mean}), std ({std}), {preprocessing['interpolation']}, "
        f"crop {preprocessing['crop']:g}, resize {preprocessing['resize']}\n"
        f"read back and run: largest difference {data['largest_difference']:.1e}"
    )
