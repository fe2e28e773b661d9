"""scalevit parity: replay the authors' numbers and print how far ours are."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scalevit.config.result import CHECK_FAILED, DONE, CommandResult

if TYPE_CHECKING:
    from scalevit.tools.parity import Check

SUMMARY = "replay the authors' numbers and print how far ours are; exit 1 when too far"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="golden files (.npz), known by their keys")


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.tools.parity import replay_folder

    checks, unknown = replay_folder(args.folder)
    failed = [check for check in checks if not check.passed]
    rows = [{**asdict(check), "passed": check.passed} for check in checks]
    data = {"checks": rows, "failed": len(failed), "unknown": unknown, "passed": not failed}
    return CommandResult(_text(checks, unknown), data, CHECK_FAILED if failed else DONE)


def _text(checks: list[Check], unknown: list[str]) -> str:
    wide, long = (max(len(getattr(check, name)) for check in checks) for name in ("case", "quantity"))
    lines = [f"{'case':<{wide}}  {'quantity':<{long}}  {'error':>8}  {'allowed':>8}  verdict"]
    lines += [_line(check, wide, long) for check in checks]
    lines += [f"left out: {name} (no known keys)" for name in unknown]
    failed = sum(not check.passed for check in checks)
    judged = sum(check.tolerance is not None for check in checks)
    files = len({check.case.split("/")[0] for check in checks})
    lines.append(
        f"{failed} of {judged} over tolerance"
        if failed
        else f"all {judged} within tolerance ({files} files); a neighbouring bf16 momentum is no error"
    )
    return "\n".join(lines)


def _line(check: Check, wide: int, long: int) -> str:
    verdict = "–" if check.tolerance is None else "ok" if check.passed else "OVER"
    allowed = "–" if check.tolerance is None else f"{check.tolerance:.0e}"
    return (
        f"{check.case:<{wide}}  {check.quantity:<{long}}  {check.error:>8.1e}  {allowed:>8}  {verdict:<4} "
        f" {check.note}"
    ).rstrip()
