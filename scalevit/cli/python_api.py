"""Python API of the commands: probe, evaluate, finetune, study, report and records as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from scalevit.config.result import CommandResult
    from scalevit.evals.compare import ProbeResult
    from scalevit.evals.metrics import Metrics
    from scalevit.train.run import PretrainResult

PathLike = str | Path


def probe(
    models: PathLike | Sequence[PathLike],
    data: PathLike | Sequence[PathLike],
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    draws: int = 5,
    l2: Sequence[float] = (1024.0,),
    methods: Sequence[str] = ("ridge",),
    layers: Sequence[str] = (),
    image: int = 0,
) -> list[ProbeResult]:
    """Few-shot accuracy of frozen features, of the untrained networks, and of raw pixels.

    models, data: as `scalevit probe` reads them. methods: among ridge, knn, nearest-mean, linear. Features
    are cached as by the command. Raises ValueError for a model or a data set that is not there.

    >>> results = sv.probe("runs/first", "digits", shots=[10])  # doctest: +SKIP
    """
    from scalevit.evals.backbones import open_model
    from scalevit.evals.compare import ProbeProtocol, compare
    from scalevit.evals.datasets.open import open_probe_set
    from scalevit.evals.features import default_cache

    protocol = ProbeProtocol(tuple(shots), draws, tuple(l2), tuple(methods), tuple(layers))
    opened = [open_model(name, image=image) for name in _words(models)]
    return list(
        compare(opened, [open_probe_set(name) for name in _words(data)], protocol, cache=default_cache())
    )


def evaluate(
    model: PathLike, data: PathLike, *, image: int = 0, crops: int = 1, restrict: bool = False
) -> dict[str, Metrics]:
    """Accuracy, likelihood and calibration of a classifier, by the name of each test set at `data`.

    crops: 1, 5 or 10 views of each image. restrict: choose among the data's classes only. Raises ValueError
    for a model without a head and for labels that do not fit it.

    >>> sv.evaluate("runs/tuned", "photos")["photos"].top1  # doctest: +SKIP
    """
    from scalevit.cli.evaluate import test_set_logits, trained_on
    from scalevit.evals.backbones import open_model
    from scalevit.evals.datasets.test_sets import open_test_sets
    from scalevit.evals.features import SINGLE_PROCESS
    from scalevit.evals.metrics import classification_metrics

    backbone = open_model(str(model), image=image)
    if not backbone.outputs:
        raise ValueError(f"{model} has no head; sv.probe measures its features")
    halved = trained_on(str(model)) == Path(data).resolve()
    tests = open_test_sets(str(data), backbone.outputs, halved=halved)
    return {
        test.name: classification_metrics(
            test_set_logits(backbone, test, crops, SINGLE_PROCESS), test.truth, restrict=restrict
        )
        for test in tests
    }


def finetune(
    model: PathLike,
    data: PathLike,
    out: PathLike,
    overrides: Sequence[str] = (),
    *,
    preset: str = "paper",
    lr: Sequence[float] = (),
    max_minutes: float | None = None,
) -> PretrainResult:
    """Train a pretrained model further on labelled images; continues where `out` holds a checkpoint.

    overrides: "section.key=value". preset: paper or vtab1k. lr: rates to choose from on held-out images.
    Raises ValueError for what `scalevit finetune` refuses.

    >>> sv.finetune("runs/first", "photos", "runs/tuned", ["schedule.steps=200"])  # doctest: +SKIP
    """
    from scalevit.train.finetune import finetune, plan

    planned = plan(str(model), str(data), overrides, preset=preset, rates=lr)
    return finetune(planned, Path(out), max_minutes=max_minutes)


def study(
    spec: PathLike, out: PathLike, overrides: Sequence[str] = (), *, slots: int = 0, dry_run: bool = False
) -> CommandResult:
    """Run a study, a ready one by its name or a YAML file, and write its report; continues what `out` holds.

    slots: runs at a time, 0 for one a device or core. dry_run: only the grid and its cost. The result's
    `text` is what the command prints and `data` its JSON. Raises ValueError for what the command refuses.

    >>> print(sv.study("demo-small", "runs/small", dry_run=True).text)  # doctest: +SKIP
    """
    flags = ["--slots", str(slots), *(["--dry-run"] if dry_run else [])]
    return _command("study", [str(spec), *overrides, "--out", str(out), *flags])


def report(*sources: PathLike, out: PathLike | None = None) -> Path:
    """Write one HTML page of runs, folders of runs, studies and tables; gives its path.

    Raises ValueError for a folder that holds no run.

    >>> sv.report("runs/first", "runs/second", out="both.html")  # doctest: +SKIP
    """
    where = [] if out is None else ["--out", str(out)]
    return Path(_command("report", [*map(str, sources), *where]).data["report"])


def records(*folders: PathLike) -> pandas.DataFrame:
    """Records of runs as a DataFrame, a row a number, with the columns of `records.jsonl`.

    folders: runs, or folders of runs. Needs pandas. Raises ValueError for a folder that holds no run.

    >>> table = sv.records("runs/first")  # doctest: +SKIP
    >>> table[table.metric == "loss"].plot(x="step", y="value")  # doctest: +SKIP
    """
    from scalevit.artifacts import records as reader

    try:
        import pandas
    except ImportError:
        raise ValueError("sv.records needs pandas: pip install pandas") from None
    runs: list[Path] = []
    for folder in map(Path, folders):
        below = reader.find_run_folders(folder) if folder.is_dir() else []
        if not below:
            raise ValueError(f"{folder}: holds no run (no {reader.FILE} in it or below)")
        runs += below
    rows = reader.records_table(runs)
    others = sorted({key for row in rows for key in row} - set(reader.COLUMNS))
    return pandas.DataFrame(rows, columns=[*reader.COLUMNS, *others])


def _words(values: PathLike | Sequence[PathLike]) -> list[str]:
    return [str(values)] if isinstance(values, str | Path) else [str(value) for value in values]


def _command(name: str, arguments: list[str]) -> CommandResult:
    import importlib

    from scalevit.cli.main import parse, parser_of

    module: Any = importlib.import_module(f"scalevit.cli.{name}")
    return module.main(parse(parser_of(name), arguments))
