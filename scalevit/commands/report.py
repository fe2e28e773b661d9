"""`scalevit report`: one HTML page of a run, of a folder of runs, or of several studies."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalevit.answer import Answer

SUMMARY = "one HTML page of runs or of studies"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "scalevit report runs/demo    scalevit report runs/first runs/second --out both.html"
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run, a folder of runs, or a study"
    )
    parser.add_argument("--out", type=Path, help="where the page goes (report.html in the first folder)")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="also draw each study's figures below this folder"
    )


def main(args: argparse.Namespace) -> Answer:
    from scalevit import records
    from scalevit.study import figures, report, results, summary
    from scalevit.study.gallery import gallery

    for folder in args.folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        if not records.runs_below(folder):
            raise ValueError(f"{folder}: holds no run (no {records.FILE} in it or below)")
    studies = [results.read(folder) for folder in args.folders]
    page = report.write(studies, args.out or args.folders[0] / "report.html", gallery(args.folders))
    lines, data = [], {"report": str(page), "studies": []}
    for folder, study in zip(args.folders, studies):
        words = summary.summary(study)
        drawn = figures.draw(study, args.figures / folder.name) if args.figures else []
        lines += [f"{study.title}:" if len(studies) > 1 else "", *words]
        data["studies"].append(
            {"folder": str(folder), "summary": words, "figures": [str(path) for path in drawn]}
        )
    return Answer("\n".join([*(line for line in lines if line), f"report: {page}"]), data)
