"""`scalevit report`: one HTML page of a run, of a folder of runs, or of several studies."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scalevit.config.result import CommandResult

if TYPE_CHECKING:
    from scalevit.study.report.results import Results

SUMMARY = "one HTML page of runs or of studies"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "scalevit report runs/demo    scalevit report runs/first runs/second paper --out all.html"
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="a run, a folder of runs, or a study; beside it other results: a CSV, or the word paper",
    )
    parser.add_argument("--out", type=Path, help="where the page goes (report.html in the first folder)")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="also draw each study's figures below this folder"
    )


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.report import figures, html, summary
    from scalevit.study.report.run_images import run_images

    folders = [source for source in args.sources if source.is_dir()]
    studies = [_read(source) for source in args.sources]
    if not folders and args.out is None:
        raise ValueError("say where the page goes: --out FILE.html")
    page = html.write(studies, args.out or folders[0] / "report.html", run_images(folders))
    others = [study for study in studies if study.origin]
    lines, data = [], {"report": str(page), "studies": []}
    for source, study in zip(args.sources, studies):
        words = summary.summary(study)
        own = args.figures and not study.origin
        drawn = figures.draw(study, args.figures / source.name, others) if own else []
        lines += [f"{study.title}:" if len(studies) > 1 else "", *words]
        data["studies"].append(
            {"folder": str(source), "summary": words, "figures": [str(path) for path in drawn]}
        )
    return CommandResult("\n".join([*(line for line in lines if line), f"report: {page}"]), data)


def _read(source: Path) -> Results:
    """A folder's runs, or a table of external results."""
    from scalevit.artifacts import records
    from scalevit.study.report import external, results

    if not source.is_dir():
        if source.is_file() or str(source) == external.PAPER:
            return external.read(source)
        raise ValueError(f"{source}: no such folder")
    if not records.find_run_folders(source):
        raise ValueError(f"{source}: holds no run (no {records.FILE} in it or below)")
    return results.read_results(source)
