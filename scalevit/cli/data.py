"""`scalevit data`: make a source fast, prove it whole, pack it, see it, take evaluation images out."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scalevit.config.progress import Progress, open_display, printable
from scalevit.config.result import CHECK_FAILED, DONE, RESUMABLE, CommandResult
from scalevit.data.options import ListingOptions

if TYPE_CHECKING:
    from scalevit.data.dataset import ImageDataset
    from scalevit.data.dedup.search import Match
    from scalevit.data.left_out import LeftOut

SUMMARY = "Index, check, pack, preview and de-duplicate images: a folder of classes, tars, or parquet tables."


def arguments(parser: argparse.ArgumentParser) -> None:
    words = parser.add_subparsers(dest="word", required=True, metavar="WORD")
    for word, (_, summary, declare) in WORDS.items():
        inner = words.add_parser(word, help=summary, description=summary)
        inner.add_argument(
            "path", help="a folder, a tar, a table, a list, a folder of these, or a pattern or address"
        )
        for key in ("image", "label", "split"):
            inner.add_argument(f"--{key}-key", default="", metavar="NAME", help=f"column or key of the {key}")
        inner.add_argument("--follow-links", action="store_true", help="also links that leave the data set")
        inner.add_argument("--strict", action="store_true", help="fail when anything is left out")
        declare(inner)


def main(args: argparse.Namespace) -> CommandResult:
    for name in ("workers", "samples_per_shard", "image", "count"):
        if getattr(args, name, 1) < 1:
            found = f"found {getattr(args, name)}"
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, {found}")
    if "://" in str(getattr(args, "out", "")):
        raise ValueError(f"--out {args.out}: give a path on a disk; data are written nowhere else")
    try:
        return WORDS[args.word][0](args)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = getattr(args, "out", args.path)
        reason = f"{where}: {os.strerror(error.errno)}; what is finished stays, run it again to go on"
        return CommandResult(reason, {"stopped": reason}, RESUMABLE)


def _options(args: argparse.Namespace) -> ListingOptions:
    return ListingOptions(args.image_key, args.label_key, args.split_key, args.follow_links)


def _open(args: argparse.Namespace) -> ImageDataset:
    """The dataset of a command; what it leaves out is said, and an error with --strict."""
    from scalevit.data.dataset import open_dataset

    dataset = open_dataset(args.path, _options(args))
    if args.word not in ("check", "stats"):
        for note in dataset.notes():
            _say(note)
    _refuse_left_out(args, dataset.left_out)
    return dataset


def _refuse_left_out(args: argparse.Namespace, left_out: LeftOut) -> None:
    if args.strict and left_out.total:
        raise ValueError(f"{args.path}: {left_out.lines()[0]}")


def _file(path: Path) -> Path:
    """A file to be written, known to be possible before the work for it is done."""
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    return path


# --------------------------------------------------------------------------- index, check, stats


def _declare_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="at a time (all cores)")


def _index(args: argparse.Namespace) -> CommandResult:
    from scalevit.data.index.build import build

    with _bar("indexing") as progress:
        built = build(
            args.path, workers=args.workers, progress=progress, options=_options(args),
            waiting=lambda: _say(f"another process indexes {args.path}: this one waits for it"),
        )  # fmt: skip
    lines = [
        f"{built.samples} samples in {built.shards} shards, {built.kept} of which were indexed already; "
        f"{built.bytes / max(1, built.samples):.1f} bytes of index a sample"
    ]
    lines += [f"  broken  {name}" for name in built.broken[:20]]
    lines += [f"  {line}" for line in built.left_out.lines()]
    _refuse_left_out(args, built.left_out)
    data = {
        "shards": built.shards, "kept": built.kept, "samples": built.samples, "bytes": built.bytes,
        "bytes_per_sample": built.bytes / max(1, built.samples), "broken": list(built.broken),
        "left_out": built.left_out.as_dict(),
    }  # fmt: skip
    return CommandResult("\n".join(lines), data)


def _declare_nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _check(args: argparse.Namespace) -> CommandResult:
    from scalevit.data.check import check

    dataset = _open(args)
    with _bar("checking") as progress:
        findings = check(dataset, max(1, args.workers), progress)
    left_out = dataset.left_out
    data = {**findings.as_dict(), "split": dataset.split, "left_out": left_out.as_dict()}
    whole = not (findings.broken or findings.changed)
    verdict = "all whole" if whole else "some are not"
    if whole and left_out.total:
        verdict = f"whole, but {left_out.total} files, rows or members are left out"
    lines = [f"{findings.samples} samples read and decoded: {verdict}"]
    lines += [f"  {note}" for note in dataset.notes()]
    for kind, found in data["listed"].items():
        lines += [f"  {kind:<14} {line}" for line in found]
    return CommandResult("\n".join(lines), {**data, "whole": whole}, DONE if whole else CHECK_FAILED)


def _stats(args: argparse.Namespace) -> CommandResult:
    from scalevit.data.check import stats

    dataset = _open(args)
    facts = stats(dataset)
    lines = [f"{name.replace('_', ' '):<18} {value}" for name, value in facts.items()]
    lines += dataset.notes()
    facts |= {"class_names": list(dataset.class_names), "split": dataset.split}
    facts |= {"left_out": dataset.left_out.as_dict(), "content_id": dataset.content_id()}
    if facts["measured"] < facts["samples"]:
        lines.append(f"sizes are known after: scalevit data index {args.path}")
    return CommandResult("\n".join(lines), facts)


# --------------------------------------------------------------------------- pack, preview


def _declare_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, help="an empty folder for the shards")
    parser.add_argument("--form", choices=("tar", "parquet"), default="tar", help="kind of shard (tar)")
    parser.add_argument("--samples-per-shard", type=int, default=10_000, help="about (10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle (0)")
    parser.add_argument(
        "--order", choices=("shuffled", "kept"), default="shuffled", help="kept: as the source has it"
    )
    parser.add_argument("--exclude", default="", help="a list of samples to leave out, as dedup writes it")


def _pack(args: argparse.Namespace) -> CommandResult:
    from scalevit.data.exclusions import NO_EXCLUSIONS, read_exclusions
    from scalevit.data.pack import PackOptions, pack

    store = _open(args)
    excluded = read_exclusions(args.exclude, store) if args.exclude else NO_EXCLUSIONS
    samples = store.samples - len(excluded)
    shards = max(1, round(samples / args.samples_per_shard))
    recipe = PackOptions(
        args.path, samples, shards, args.form, args.seed, store.class_names, args.order, args.exclude
    )
    with _bar("packing") as progress:
        made = pack(store, recipe, Path(args.out), progress, excluded)
    lines = [f"{shards} shards in {args.out}, {made['written']} of them written now"]
    lines += [f"  left out  {name}" for name in made["left_out"]]
    return CommandResult("\n".join(lines), made)


def _declare_preview(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="preview.png", help="the sheet (preview.png)")
    parser.add_argument("--image", type=int, default=224, help="side in pixels (224)")
    parser.add_argument("--transform", choices=("inception", "central", "none"), default="inception")
    parser.add_argument("--count", type=int, default=64, help="how many images (64)")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the crops (0)")


def _preview(args: argparse.Namespace) -> CommandResult:
    from PIL import Image

    from scalevit.artifacts.atomic_write import atomic_path
    from scalevit.config.run import Data
    from scalevit.data.registry import FAMILIES, batches_of

    out, procedural = _file(Path(args.out)), args.path in FAMILIES
    dataset = None if procedural else _open(args)
    transform = "none" if procedural else args.transform
    keys = {"image": args.image_key, "label": args.label_key, "split": args.split_key}
    data = Data(
        args.path, seed=args.seed, transform=transform, tolerate=1.0, follow_links=args.follow_links, **keys
    )
    classes = 0 if dataset is not None and dataset.unlabelled else dataset.classes if dataset else 512
    batch = batches_of(data, image=args.image, classes=classes, batch=args.count)[0]
    with atomic_path(out) as part:
        Image.fromarray(_sheet(batch.images.numpy())).save(part, "PNG")
    labels = batch.labels.tolist()
    text = f"{out}: the first {args.count} images of a run with seed {args.seed}, as the model sees them"
    return CommandResult(text, {"out": str(args.out), "labels": labels})


def _sheet(images):
    """Images (n, s, s, 3) in a grid about as wide as high."""
    import numpy as np

    count, side = len(images), images.shape[1]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, side, side, 3), np.uint8)
    sheet[:count] = images
    return sheet.reshape(rows, columns, side, side, 3).swapaxes(1, 2).reshape(rows * side, columns * side, 3)


# --------------------------------------------------------------------------- dedup


def _declare_dedup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("evaluation", nargs="+", help="the evaluation sets to take out of PATH")
    parser.add_argument("--out", default="exclude.txt", help="the list (exclude.txt)")
    parser.add_argument("--radius", type=int, default=7, help="bits of 64 that may differ, at most 7 (7)")
    parser.add_argument("--hashes-only", action="store_true", help="do not compare candidates' pixels")
    parser.add_argument(
        "--confirm",
        metavar="MODEL",
        help="keep only pairs that this model finds alike, as scalevit probe reads models",
    )
    parser.add_argument(
        "--distance", type=float, help="with --confirm: 1 - cosine of features, at most (0.1)"
    )


def _dedup(args: argparse.Namespace) -> CommandResult:
    from scalevit.data.dataset import open_dataset
    from scalevit.data.dedup import search
    from scalevit.data.exclusions import write_exclusions

    if not 0 <= args.radius <= 7:
        raise ValueError(f"--radius must lie between 0 and 7, found {args.radius}")
    if args.distance is not None and not (args.confirm and args.distance >= 0):
        raise ValueError("--distance goes with --confirm MODEL, and must not be negative")
    out, train = _file(Path(args.out)), _open(args)
    if not train.measured:
        raise ValueError(f"{args.path} has no perceptual hashes yet; run scalevit data index {args.path}")
    found: dict[int, tuple[Match, str]] = {}
    for path in args.evaluation:
        evaluation = open_dataset(path)
        with _bar(f"hashing {path}") as progress:
            table, owners = search.evaluation_table(evaluation, progress)
        here: dict[int, tuple[Match, str]] = {}
        seen = None if args.hashes_only else search.thumbnails(evaluation)
        seconds = search.seconds_for(train, table, owners, args.radius, seen)
        _say(f"{path}: copies of {evaluation.samples} images among {train.samples}: {_long(seconds)}")
        with _bar(path) as progress:
            for shard, first in zip(train.shards, train.starts.tolist()):
                hashes = shard.records["phash"]
                for matches in search.candidates(hashes, table, owners, args.radius, first):
                    match = search.confirmed(matches, train, seen) if seen else matches[0]
                    if match:
                        here[match.train] = (match, evaluation.name(match.evaluation))
                    progress(matches[0].train + 1, train.samples)
        found |= _alike(here, train, evaluation, args.confirm, args.distance) if args.confirm else here
    write_exclusions(out, train, list(found.values()))
    text = (
        f"{len(found)} of {train.samples} training samples are near-duplicates; "
        f"leave them out with data.exclude={args.out}"
    )
    return CommandResult(text, {"removed": len(found), "samples": train.samples, "out": str(args.out)})


def _long(seconds: float) -> str:
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 6000 else f"about {seconds / 3600:.0f} hours"


def _alike(
    found: dict[int, tuple[Match, str]],
    train: ImageDataset,
    evaluation: ImageDataset,
    model: str,
    furthest: float | None,
) -> dict[int, tuple[Match, str]]:
    """Those pairs whose features lie close to each other."""
    from scalevit.evals.backbones import open_model
    from scalevit.evals.datasets.probe_set import DatasetImages
    from scalevit.evals.pair_distance import MAX_DISTANCE, pair_distances

    pairs = [match for match, _ in found.values()]
    ours = DatasetImages(train, np.array([match.train for match in pairs], int))
    theirs = DatasetImages(evaluation, np.array([match.evaluation for match in pairs], int))
    apart = pair_distances(open_model(model), ours, theirs)
    limit = MAX_DISTANCE if furthest is None else furthest
    return {match.train: found[match.train] for match, d in zip(pairs, apart.tolist()) if d <= limit}


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """Progress of a task on the display that all commands share."""
    with open_display() as display:
        yield display.progress(title)


def _say(text: str) -> None:
    print(f"scalevit: {printable(text)}", file=sys.stderr, flush=True)


WORDS: dict[str, tuple[Callable, str, Callable]] = {
    "index": (_index, "one pass that makes opening instant, and finds what is broken", _declare_workers),
    "check": (_check, "read and decode everything; list what is broken, doubled, odd", _declare_workers),
    "stats": (_stats, "samples, classes and their balance, sizes", _declare_nothing),
    "pack": (_pack, "shards of equal size, tar or parquet, shuffled; restartable", _declare_pack),
    "preview": (_preview, "a sheet of what the model will see, after augmentation", _declare_preview),
    "dedup": (_dedup, "list training images that are copies of evaluation images", _declare_dedup),
}
