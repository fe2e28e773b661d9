"""scalevit bench: speed beside peers that are installed, and beside this machine's ceiling."""

from __future__ import annotations

import argparse
from typing import Any

from scalevit.answer import Answer

SUMMARY = "speed beside the peers that are installed, and beside this machine's ceiling"


def arguments(parser: argparse.ArgumentParser) -> None:
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    optimizer = below.add_parser("optim", help="one optimizer step, as a ratio to copying all gradients")
    optimizer.add_argument("--shape", default="B/16", help="whose parameters (default: %(default)s)")
    optimizer.add_argument("--rounds", type=int, default=5, help="the best of so many counts (%(default)s)")
    optimizer.add_argument("--threads", type=int, default=1, help="of the CPU (%(default)s)")
    data = below.add_parser("data", help="JPEG to inception crop, beside torchvision on Pillow, on one core")
    data.add_argument("--seconds", type=float, default=3.0, help="processor time a path (%(default)s)")


def main(args: argparse.Namespace) -> Answer:
    return BENCHES[args.what](args)


def _optim(args: argparse.Namespace) -> Answer:
    from scalevit.bench.optimizers import measure

    if min(args.rounds, args.threads) < 1:
        raise ValueError("--rounds and --threads must be at least 1")
    found = measure(args.shape, args.rounds, args.threads)
    return Answer(_table(found), found)


def _table(found: dict[str, Any]) -> str:
    lines = [
        f"one step over {found['parameters'] / 1e6:.1f} M parameters ({found['shape']}), {found['device']}, "
        f"{found['threads']} thread(s), best of {found['rounds']}",
        f"{'':<26}{'ms':>8}{'× copy':>9}{'state, bytes a parameter':>27}",
    ]
    lines += [
        f"{row['optimizer']:<26}{row['milliseconds']:>8.1f}{row['ratio']:>9.2f}{row['state_bytes']:>27.2f}"
        for row in found["rows"]
    ]
    return "\n".join([*lines, *_missing(found)])


def _data(args: argparse.Namespace) -> Answer:
    from scalevit.bench.data import measure

    if not args.seconds > 0:
        raise ValueError("--seconds must be positive")
    found = measure(args.seconds)
    return Answer(_paths(found), found)


def _paths(found: dict[str, Any]) -> str:
    gap = found["grey_levels_from_pillow"]
    lines = [
        f"{found['image']} → random crop → {found['side']} px, one core; {found['decoder']} is "
        f"{gap['mean']:.2f} grey levels from Pillow on average",
        f"{'':<26}{'ends in':>9}{'images/s':>10}{'× torchvision':>15}",
    ]
    for row in found["rows"]:
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"{row['path']:<26}{row['to']:>9}{row['images_per_second']:>10.0f}{ratio:>15}")
    return "\n".join([*lines, *_missing(found)])


def _missing(found: dict[str, Any]) -> list[str]:
    return [f"not measured: {name} ({why})" for name, why in found["missing"].items()]


BENCHES = {"optim": _optim, "data": _data}
