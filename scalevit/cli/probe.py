"""scalevit probe: few-shot, kNN and linear probes of the frozen features of models on labelled images."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalevit import config
from scalevit.artifacts import records, run_folder
from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    from scalevit.distributed.world import World
    from scalevit.evals.backbones import Backbone
    from scalevit.evals.compare import ProbeProtocol, ProbeResult
    from scalevit.evals.datasets.probe_set import ProbeSet
    from scalevit.evals.datasets.suites import Mean
    from scalevit.evals.probes import FewShot

SUMMARY = "few-shot, kNN and linear accuracy of frozen features, beside raw pixels and the untrained network"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="+", metavar="MODEL… DATA…",
        help="models: a run's or a model's folder, timm:NAME, timm-local:DIR, a big_vision npz, or "
        "module:callable; data: digits, mnist, fashion, unseen-strokes, …, an .npz with x and y, or a folder "
        "of classes",
    )  # fmt: skip
    parser.add_argument(
        "--suite", choices=["small", "paper", "vtab"],
        help="every named data set that is installed here; those of the paper; the nineteen of VTAB-1k",
    )  # fmt: skip
    parser.add_argument("--root", type=Path, help="folder below which the suites paper and vtab lie")
    parser.add_argument("--shots", nargs="+", help="images a class, or all [1 5 10 25; vtab: all]")
    parser.add_argument("--draws", type=int, default=5, help="balanced draws, seeds 0, 1, …")
    parser.add_argument("--l2", nargs="+", default=["1024"], help="ridge strengths, or grid for 2⁻¹⁰ … 2²⁰")
    parser.add_argument("--knn", action="store_true", help="weighted vote of the 20 nearest, too")
    parser.add_argument("--nearest-mean", action="store_true", help="nearest class mean, too")
    parser.add_argument("--linear", action="store_true", help="logistic regression, too")
    parser.add_argument("--layer", "--layers", nargs="+", default=[], help="e.g. blocks.3, or all")
    parser.add_argument(
        "--image", type=int, default=0, help="side of the model's images, resampled positions"
    )
    parser.add_argument(
        "--scale", default="", choices=["half", "imagenet", "clip"],
        help="scale pixels so, instead of as the weights say",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, help="where features are kept [~/.cache/scalevit/features]")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep features")
    parser.add_argument("--figure", type=Path, help="draw accuracy against shots, or against layers, here")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR",
        help="draw accuracies, where each model's pooling looks and which images it finds alike; what lies "
        "in RUN/pictures is shown in the run's report",
    )  # fmt: skip
    parser.add_argument(
        "--records", type=Path, metavar="DIR",
        help="also write what one run's folder reaches as records there; its report then shows them",
    )  # fmt: skip


def main(args: argparse.Namespace) -> CommandResult:
    protocol = _protocol(args)
    from scalevit.distributed import world as mesh

    with mesh.process_group(config.Parallel()) as world:
        answer = _probe(args, protocol, world)
    mesh.exit_all(answer.code)
    return answer


def _probe(args: argparse.Namespace, protocol: ProbeProtocol, world: World) -> CommandResult:
    """Probe results as the command's answer; every process computes the same, and they share the images."""
    from scalevit.evals.backbones import open_model
    from scalevit.evals.compare import compare
    from scalevit.evals.datasets.open import open_probe_set
    from scalevit.evals.datasets.suites import SUITES, open_suite, suite_means
    from scalevit.evals.features import WorkShare, default_cache

    _require_writable(args)
    began = time.monotonic()
    models, names = _models_and_sets(args.what, args.suite)
    if args.records:
        _require_recordable(models, protocol)
    sets = [open_probe_set(name) for name in names]
    sets += open_suite(args.suite, args.root, _print_note if world.is_main else _silent) if args.suite else []
    opened = [open_model(name, image=args.image, scale=args.scale, device=world.device) for name in models]
    cache = None if args.no_cache else args.cache or default_cache()
    share, tell = WorkShare.of(world), _print_progress if world.is_main else _silent
    lines = list(compare(opened, sets, protocol, cache=cache, share=share, tell=tell))
    if args.figure and world.is_main:
        from scalevit.evals.figures import draw_accuracies

        draw_accuracies(lines, args.figure)
    answer = CommandResult(_text(opened, sets, protocol, lines), _data(opened, sets, protocol, lines))
    if args.records and world.is_main:
        _record(Path(models[0]), lines, time.monotonic() - began, args.records)
    if args.suite:
        answer = _with_means(answer, suite_means(lines, SUITES[args.suite]), args.suite)
    if args.pictures and world.is_main:
        answer = _with_pictures(answer, opened, sets, lines, args.pictures)
    return answer


def _require_writable(args: argparse.Namespace) -> None:
    """Check the output paths of figures before anything is computed."""
    if args.figure:
        from scalevit.evals.figures import require_format

        require_format(args.figure)
    if args.pictures and args.pictures.exists() and not args.pictures.is_dir():
        raise ValueError(f"--pictures {args.pictures}: there is a file of that name, not a folder")


def _print_note(text: str) -> None:
    print(f"scalevit: {text}", file=sys.stderr)


def _print_progress(text: str) -> None:
    print(f"scalevit: probing {text}", file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """No output: of several processes only the first prints."""


def _protocol(args: argparse.Namespace) -> ProbeProtocol:
    from scalevit.evals.compare import ProbeProtocol
    from scalevit.evals.datasets.suites import SUITES
    from scalevit.evals.fewshot_sampling import ALL_SHOTS
    from scalevit.evals.probes import L2_GRID

    shots_given = args.shots or [str(n) if n else "all" for n in SUITES[args.suite or "small"].shots]
    shots = tuple(ALL_SHOTS if word == "all" else _number(int, word, "--shots", 1) for word in shots_given)
    l2 = L2_GRID if args.l2 == ["grid"] else tuple(_number(float, w, "--l2", 0) for w in args.l2)
    if args.draws < 1:
        raise ValueError(f"--draws must be at least 1, found {args.draws}")
    chosen = {"ridge": True, "knn": args.knn, "nearest-mean": args.nearest_mean, "linear": args.linear}
    methods = tuple(name for name, yes in chosen.items() if yes)
    return ProbeProtocol(shots, args.draws, l2, methods, tuple(args.layer))


def _require_recordable(models: Sequence[str], protocol: ProbeProtocol) -> None:
    if len(models) != 1 or not (Path(models[0]) / run_folder.CONFIG).is_file():
        raise ValueError(f"--records: name one run's folder as the model, found {', '.join(models)}")
    if (protocol.methods, len(protocol.l2), protocol.layers) != (("ridge",), 1, ()):
        raise ValueError("--records: the ridge probe of the last layer with one --l2 only")


def _record(run: Path, lines: Sequence[ProbeResult], seconds: float, folder: Path) -> None:
    """Write records as of an evaluation at the run's end, closed by a row of kind "run"."""
    from scalevit.evals.compare import RAW_PIXELS, UNTRAINED
    from scalevit.train.reporter import RowFields

    metrics = {RAW_PIXELS: "raw_pixels_accuracy", UNTRAINED: "untrained_accuracy"}
    trained = config.load(str(run / run_folder.CONFIG))
    facts, step = RowFields.of(trained), trained.schedule.steps
    rows = [
        facts.row("floor" if line.baseline else "probe", step, metrics.get(line.baseline, "accuracy"), value)
        | {"dataset": line.data, "shots": line.accuracy.shots, "seed": draw}
        for line in lines
        for draw, value in enumerate(line.accuracy.accuracies)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    records.append_records(folder, [*rows, facts.row("run", step, "seconds", seconds) | records.provenance()])


def _number(kind: type, word: str, flag: str, least: float) -> Any:
    try:
        value = kind(word)
    except ValueError:
        value = None
    if value is None or not value >= least:
        raise ValueError(f"{flag}: expected numbers of at least {least}, found {word!r}")
    return value


def _models_and_sets(words: Sequence[str], suite: str | None) -> tuple[list[str], list[str]]:
    """The command's words as models and data sets."""
    from scalevit.evals.datasets.builtin import BUILTIN
    from scalevit.evals.datasets.open import is_probe_set

    sets = [word for word in words if is_probe_set(word)]
    models = [word for word in words if word not in sets]
    unknown = [word for word in models if ":" not in word and not Path(word).exists()]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is neither a file or folder nor a data set; known: {', '.join(BUILTIN)}"
        )
    if not models:
        raise ValueError(f"no model among {', '.join(words)}")
    if not sets and suite is None:
        raise ValueError(f"no data among {', '.join(words)}; names: {', '.join(BUILTIN)}")
    return models, sets


# --------------------------------------------------------------------------- answers


def _data(
    models: Sequence[Backbone],
    sets: Sequence[ProbeSet],
    protocol: ProbeProtocol,
    lines: Sequence[ProbeResult],
) -> dict[str, Any]:
    seeds = list(range(protocol.draws))
    return {
        "protocol": {**asdict(protocol), "constant": 100.0, "std_floor": 1e-5, "seeds": seeds},
        "models": [
            {"model": m.name, "image": m.image, "preprocessing": asdict(m.preprocessing), "note": m.note}
            for m in models
        ],
        "data": [
            {
                "data": s.name, "classes": s.classes, "support": len(s.support), "query": len(s.query),
                "central_crop": not s.whole, "fingerprint": s.fingerprint,
            }
            for s in sets
        ],
        "results": [
            {
                "model": line.model, "data": line.data, "method": line.method, "layer": line.layer,
                "floor": line.baseline, **asdict(line.accuracy),
            }
            for line in lines
        ],
    }  # fmt: skip


def _text(
    models: Sequence[Backbone],
    sets: Sequence[ProbeSet],
    protocol: ProbeProtocol,
    lines: Sequence[ProbeResult],
) -> str:
    """One table a data set: a row for each model or baseline, method, layer and λ; a column for each number
    of shots."""
    blocks = []
    for data in sets:
        sizes = f"{len(data.support)} support and {len(data.query)} query images"
        rows: dict[tuple[str, ...], list[str]] = {}
        for line in (line for line in lines if line.data == data.name):
            rows.setdefault(_row_label(line, protocol), []).append(_cell(line.accuracy))
        title = ["", *(f"{s}-shot" if s else "all shots" for s in protocol.shots)]
        blocks.append(
            "\n".join(
                [
                    f"{data.name}: {data.classes} classes, {sizes}",
                    *_aligned([title, *([" ".join(k), *v] for k, v in rows.items())]),
                ]
            )
        )
    notes = [f"{m.name}: {m.note}" for m in models if m.note]
    how = f"accuracy in %: mean ± sd over {protocol.draws} draws [95 % interval, draws and query set]"
    return "\n\n".join([*blocks, "\n".join([how, *notes])])


def _with_means(answer: CommandResult, means: Sequence[Mean], suite: str) -> CommandResult:
    """The answer with the suite's means."""
    width = max(len(_probe_label(mean)) for mean in means)
    rows = [
        f"{_probe_label(mean):{width}}  {mean.group:11}  {mean.tasks:2} tasks  "
        f"{f'{mean.shots}-shot' if mean.shots else 'all shots':>9}  {100 * mean.mean:5.1f}"
        for mean in means
    ]
    text = "\n".join([answer.text, "", f"{suite}: mean accuracy in % over data sets", *rows])
    return CommandResult(
        text, answer.data | {"suite": {"name": suite, "means": [_mean_json(mean) for mean in means]}}
    )


def _mean_json(mean: Mean) -> dict[str, Any]:
    """In JSON a baseline is called a floor, as in records."""
    fields = asdict(mean)
    return fields | {"floor": fields.pop("baseline")}


def _probe_label(mean: Mean) -> str:
    strength = "" if mean.l2 is None else f"λ={mean.l2:g}"
    return " ".join(filter(None, (mean.model, mean.baseline, mean.method, mean.layer, strength)))


def _with_pictures(
    answer: CommandResult,
    models: Sequence[Backbone],
    sets: Sequence[ProbeSet],
    lines: Sequence[ProbeResult],
    folder: Path,
) -> CommandResult:
    """The answer with the names of the figures: accuracies of each data set, and attention maps and nearest
    neighbours of each model, in a folder per model where there are several."""
    from scalevit.evals import figures
    from scalevit.evals.nearest_pictures import draw

    curves = [str(figures.draw_dataset(lines, data.name, folder)) for data in sets]
    several = len(models) > 1
    places = [folder / re.sub(r"[^\w.-]+", "_", m.name) if several else folder for m in models]
    drawn = [
        str(path)
        for model, place in zip(models, places)
        for data in sets
        for path in draw(model, data, place)
    ]
    drawn = [*curves, *drawn]
    return CommandResult("\n".join([answer.text, "", *drawn]), answer.data | {"pictures": drawn})


def _cell(accuracy: FewShot) -> str:
    mean, sd, low, high = (100 * value for value in (accuracy.mean, accuracy.sd, accuracy.low, accuracy.high))
    balanced = 100 * accuracy.mean_per_class
    uneven = f" ({balanced:.1f} per class)" if abs(balanced - mean) > 0.05 else ""
    return f"{mean:5.1f} ± {sd:4.1f} [{low:.1f}, {high:.1f}]{uneven}"


def _row_label(line: ProbeResult, protocol: ProbeProtocol) -> tuple[str, ...]:
    parts = [line.baseline if not line.model else f"{line.model} {line.baseline}".rstrip(), line.method]
    parts += [line.layer] if protocol.layers and line.layer else []
    parts += [f"λ={line.accuracy.l2:g}"] if line.accuracy.l2 is not None and len(protocol.l2) > 1 else []
    return tuple(parts)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join([first.ljust(width) for first, width in zip(row, widths)]).rstrip() for row in rows]
