"""scalevit evaluate: a classifier on test sets in their usual layouts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalevit import config
from scalevit.artifacts import run_folder
from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    import numpy as np

    from scalevit.distributed.world import World
    from scalevit.evals.backbones import Backbone
    from scalevit.evals.datasets.test_sets import TestSet
    from scalevit.evals.features import WorkShare
    from scalevit.evals.metrics import Metrics

SUMMARY = "accuracy, likelihood and calibration of a classifier on test sets, with label maps"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model with a head, as scalevit probe reads them")
    parser.add_argument("data", nargs="+", help="folders of classes (ImageNet val, V2, A, R, Sketch, C, …), "
                        "an .npz, tars, tables or names as scalevit probe reads them")  # fmt: skip
    parser.add_argument("--labels", type=Path, help="labels of the images in the order of their names")
    parser.add_argument("--real", action="store_true", help="ReaL's labels for ImageNet's validation images")
    parser.add_argument("--map", type=Path, help="JSON from class names to one output or several")
    parser.add_argument(
        "--restrict", action="store_true", help="choose among the data's classes only, as A and R are defined"
    )
    parser.add_argument("--image", type=int, default=0, help="side of the images, resampled positions")
    parser.add_argument(
        "--scale", default="", choices=["half", "imagenet", "clip"],
        help="scale pixels so, instead of as the weights say",
    )  # fmt: skip
    parser.add_argument(
        "--crops", type=int, default=1, choices=[1, 5, 10],
        help="views of each image whose predictions are averaged: centre, corners, mirrored [1]",
    )  # fmt: skip
    parser.add_argument("--classes", type=int, default=5, help="worst classes to print")


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.distributed import world as mesh

    with mesh.process_group(config.Parallel()) as world:
        answer = _evaluate(args, world)
    mesh.exit_all(answer.code)
    return answer


def _evaluate(args: argparse.Namespace, world: World) -> CommandResult:
    """Metrics of every test set; every process computes the same, and they share the images."""
    from scalevit.evals.backbones import open_model
    from scalevit.evals.features import WorkShare

    model = open_model(args.model, image=args.image, scale=args.scale, device=world.device)
    if not model.outputs:
        raise ValueError(f"{args.model} has no head; scalevit probe measures its features")
    share, tell = WorkShare.of(world), _print_note if world.is_main else _silent
    results: list[tuple[TestSet, Metrics]] = []
    for target in args.data:
        for test in _test_sets(args, model, target, tell):
            test = replace(test, name=target) if any(test.name == t.name for t, _ in results) else test
            results.append((test, _metrics(args, model, test, share, tell)))
    about = {"model": model.name, "preprocessing": asdict(model.preprocessing), "note": model.note}
    about |= {"crops": args.crops, "restrict": args.restrict, "class_names": list(model.class_names)}
    data = {**about, "results": {test.name: _json(test, m) for test, m in results}} | _corruptions(results)
    return CommandResult(_text(results, args.classes, model.note), data)


def _test_sets(
    args: argparse.Namespace, model: Backbone, target: str, tell: Callable[[str], None]
) -> Sequence[TestSet]:
    """The test sets at `target`; of a set that the model was fine-tuned on, its other half."""
    from scalevit.evals.datasets.test_sets import open_test_sets

    trained = trained_on(args.model)
    halved = trained is not None and trained == Path(target).resolve()
    if halved:
        tell(f"evaluating the half of {target} that the model was not trained on")
    return open_test_sets(
        target, model.outputs, labels=args.labels, real=args.real, label_map=args.map, halved=halved,
        class_names=model.class_names,
    )  # fmt: skip


def _metrics(
    args: argparse.Namespace,
    model: Backbone,
    test: TestSet,
    share: WorkShare,
    tell: Callable[[str], None],
) -> Metrics:
    """Metrics of one test set; one that has some of the model's named classes is scored over those alone."""
    from scalevit.evals.metrics import classification_metrics

    present = {label for right in test.truth for label in right}
    by_name = bool(model.class_names) and not (args.map or args.labels or args.real)
    subset = by_name and 0 < len(present) < model.outputs
    some = f", over its own {len(present)} of the model's {model.outputs} classes" if subset else ""
    tell(f"evaluating {test.name}{some}")
    logits = test_set_logits(model, test, args.crops, share)
    try:
        return classification_metrics(logits, test.truth, restrict=args.restrict or subset)
    except ValueError as error:
        raise ValueError(f"{test.name}: {error}") from None


def _print_note(text: str) -> None:
    print(f"scalevit: {text}", file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """No output: of several processes only the first prints."""


def trained_on(model: str) -> Path | None:
    """The labelled set that a run was fine-tuned on half of."""
    path = Path(model) / run_folder.CONFIG
    data = config.load(str(path)).data if path.is_file() else None
    return Path(data.source).resolve() if data and data.part != "all" else None


def test_set_logits(model: Backbone, test: TestSet, crops: int, share: WorkShare) -> np.ndarray:
    """(n, classes), of one view of each image or averaged over several."""
    from scalevit.evals.backbones import LOGITS
    from scalevit.evals.features import extract
    from scalevit.evals.tta import average_predictions, views

    seen = views(test.images, whole=test.whole, crop=model.preprocessing.crop, count=crops)
    found = [extract(model, images, whole=whole, layers=(LOGITS,), share=share) for images, whole in seen]
    return average_predictions([one[LOGITS] for one in found])


def _json(test: TestSet, metrics: Metrics) -> dict[str, Any]:
    plain = asdict(metrics) | {"confusion": metrics.confusion.tolist()}
    rows = [asdict(one) | {"name": test.names.get(one.label, "")} for one in metrics.per_class]
    return plain | {"per_class": rows}


def _corruptions(found: Sequence[tuple[TestSet, Metrics]]) -> dict[str, Any]:
    """Mean error over severities of each corruption, and over corruptions; not relative to a network."""
    errors: dict[str, list[float]] = {}
    for test, metrics in found:
        if test.corruption:
            errors.setdefault(test.corruption, []).append(1 - metrics.top1)
    means = {name: sum(values) / len(values) for name, values in errors.items()}
    return (
        {"corruption_error": means, "mean_corruption_error": sum(means.values()) / len(means)}
        if means
        else {}
    )


def _text(found: Sequence[tuple[TestSet, Metrics]], worst: int, note: str) -> str:
    width = max(len(test.name) for test, _ in found)
    lines = [f"{'':{width}}  images   top-1  [95 % interval]  per class   top-5     nll  calibration"]
    for test, m in found:
        between = f"[{100 * m.low:.2f}, {100 * m.high:.2f}]"
        shares = f"{100 * m.top1:7.2f}  {between:>15} {100 * m.mean_per_class:10.2f} {100 * m.top5:7.2f}"
        numbers = f"{shares} {m.nll:7.3f}  {m.calibration:11.4f}"
        lines.append(f"{test.name:{width}}  {m.images:6} {numbers}")
    corrupted = _corruptions(found)
    if corrupted:
        lines.append(f"mean error over corruptions: {100 * corrupted['mean_corruption_error']:.2f} %")
    if len(found) == 1:
        lines += _worst(*found[0], worst)
    return "\n".join([*lines, *([note] if note else [])])


def _worst(test: TestSet, metrics: Metrics, count: int) -> list[str]:
    def called(label: int) -> str:
        return " ".join(filter(None, (str(label), test.names.get(label, ""))))

    rows = sorted(metrics.per_class, key=lambda c: c.accuracy)[:count]
    said = [f"class {called(c.label)}: {100 * c.accuracy:.1f} % of {c.images}" for c in rows]
    other = [f", most often taken for {called(c.mistaken_for)}" if c.mistaken_for >= 0 else "" for c in rows]
    return [a + b for a, b in zip(said, other)]
