"""Feature extraction beside bare inference on images that are ready: python benchmarks/features.py"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from scalevit.config import Model
from scalevit.evals.backbones import LAST, of_vit
from scalevit.evals.features import BATCH, extract
from scalevit.model import ViT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="Ti/16")
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--side", type=int, default=224, help="side of the stored images")
    parser.add_argument("--images", type=int, default=512)
    args = parser.parse_args()
    model = ViT(Model(shape=args.shape, image=args.image, classes=0))
    images = np.random.default_rng(0).integers(0, 256, (args.images, args.side, args.side, 3), np.uint8)
    ready = torch.randn(BATCH, 3, args.image, args.image)
    with torch.inference_mode():
        model.features(ready)
    speeds: dict[str, list[float]] = {"raw": [], "extract": []}
    for _ in range(3):
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(args.images // BATCH):
                model.features(ready)
        speeds["raw"].append(args.images / (time.perf_counter() - start))
        start = time.perf_counter()
        extract(of_vit(model, "model"), images, whole=False, layers=(LAST,))
        speeds["extract"].append(args.images / (time.perf_counter() - start))
    ratio = [b / a for a, b in zip(*speeds.values())]
    print(
        json.dumps(
            {**vars(args), "images_per_second": speeds, "ratio": ratio, "threads": torch.get_num_threads()}
        )
    )


if __name__ == "__main__":
    main()
