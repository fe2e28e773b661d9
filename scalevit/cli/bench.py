"""scalevit bench: speed beside peers that are installed, and beside this machine's ceiling."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from scalevit.config.result import CommandResult

SUMMARY = "speed beside the peers that are installed, and beside this machine's ceiling"


@dataclass(frozen=True)
class Option:
    """--name of one bench; its kind is that of the default, of a tuple's first element where it is one."""

    name: str
    default: Any
    help: str

    def add(self, parser: argparse.ArgumentParser) -> None:
        several = isinstance(self.default, tuple)
        kind = type(self.default[0] if several else self.default)
        shown = " ".join(map(str, self.default)) if several else self.default
        text = f"{self.help} (default: {shown})"
        flag = "--" + self.name.replace("_", "-")
        parser.add_argument(flag, type=kind, nargs="+" if several else None, default=self.default, help=text)

    def of(self, args: argparse.Namespace) -> Any:
        """What was given, of the default's kind."""
        given = getattr(args, self.name)
        return tuple(given) if isinstance(self.default, tuple) else given


@dataclass(frozen=True)
class Benchmark:
    """One question. module: in scalevit.tools.bench; its `measure(**options)` gives the numbers or raises
    ValueError for options that make no sense, its `table(found)` turns them into text. among_all: what `all`
    takes in place of defaults that would take it an hour."""

    module: str
    summary: str
    options: tuple[Option, ...]
    among_all: dict[str, Any] = field(default_factory=dict)

    def defaults(self) -> dict[str, Any]:
        return {option.name: option.default for option in self.options} | self.among_all


#: Libraries, and each of them compiled.
CANDIDATES = tuple(
    name + how
    for name in ("scalevit", "timm", "vit-pytorch SimpleViT", "transformers")
    for how in ("", " compiled")
)
#: Where time counts: compiling takes each peer a minute or more.
QUICK = ("scalevit", "scalevit compiled", "timm", "vit-pytorch SimpleViT", "transformers")
THREADS = Option("threads", 1, "threads of the CPU")
LIMIT = Option("limit", 900.0, "seconds after which no further measurement begins, 0 for no limit")
#: Seconds after which `bench all` begins no further measurement.
ALL_SECONDS = 240.0

BENCHES = {
    "model": Benchmark(
        "models",
        "training steps and inference, beside timm, vit-pytorch and transformers",
        (
            Option("model", ("Ti/16-128px", "Ti/16", "S/16"), "which"),
            Option("precision", ("bf16", "fp32"), "of the computation"),
            Option("work", ("train", "infer"), "what is timed"),
            Option("among", CANDIDATES, "who takes part"),
            Option("optimizer", "adam", "what ours trains with; the peers have torch's fused AdamW"),
            Option("batch", 0, "images at once, 0 for the model's usual number"),
            Option("rounds", 5, "the median of so many counts"),
            LIMIT,
            THREADS,
        ),
        {"model": ("Ti/16-128px",), "among": QUICK, "limit": 120.0},
    ),
    "optim": Benchmark(
        "optimizers",
        "one optimizer step, as a ratio to copying all gradients",
        (
            Option("shape", "B/16", "whose parameters"),
            Option("rounds", 5, "the best of so many counts"),
            LIMIT,
            THREADS,
        ),
        {"limit": 30.0},
    ),
    "data": Benchmark(
        "data",
        "JPEG to inception crop, beside torchvision on Pillow, on one core",
        (Option("seconds", 3.0, "processor time a path"),),
        {"seconds": 1.5},
    ),
    "features": Benchmark(
        "features",
        "feature extraction of a probe, as a ratio to the bare network",
        (
            Option("shape", "S/16", "the network"),
            Option("image", 224, "side in pixels"),
            Option("images", 64, "how many, in whole batches"),
            Option("rounds", 3, "the best of so many counts"),
            LIMIT,
            THREADS,
        ),
    ),
    "memory": Benchmark(
        "memory",
        "memory of a training step, beside what scalevit plan says",
        (Option("micro_batches", 1, "parts of a step's batch"),),
    ),
    "checkpoint": Benchmark(
        "checkpoint",
        "what saving beside training costs in time, and a save in host memory",
        (
            Option("shape", "S/16", "the network"),
            Option("batch", 4, "images a step"),
            Option("every", 20, "steps a save"),
            Option("rounds", 3, "the median of so many saves"),
            Option("folder", "", "where to save; nothing for the system's temporary folder"),
            THREADS,
        ),
    ),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    below = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, bench in BENCHES.items():
        own = below.add_parser(name, help=bench.summary, description=bench.summary)
        for option in bench.options:
            option.add(own)
    words = "every one of these in turn, of models the smallest case, in minutes"
    below.add_parser("all", help=words, description=words)


def main(args: argparse.Namespace) -> CommandResult:
    if args.what != "all":
        options = {option.name: option.of(args) for option in BENCHES[args.what].options}
        return _run(BENCHES[args.what], options)
    return _run_all(to_stdout=not args.json)


def _run(bench: Benchmark, options: dict[str, Any]) -> CommandResult:
    from scalevit.tools.bench.interleaved import time_limit

    module = importlib.import_module(f"scalevit.tools.bench.{bench.module}")
    with time_limit(options.pop("limit", 0.0)):
        found = module.measure(**options)
    missing = [f"not measured: {name} ({why})" for name, why in found["missing"].items()]
    return CommandResult("\n".join([module.table(found), *missing]), found)


def _run_all(to_stdout: bool) -> CommandResult:
    """Every benchmark in turn, each printed as soon as it is measured (with --json on stderr); those that the
    time does not allow are named."""
    began, results = time.monotonic(), dict[str, Any]()
    for name, bench in BENCHES.items():
        left = ALL_SECONDS - (time.monotonic() - began)
        if left <= 0:
            results[name] = {"missing": {name: "out of time"}}
            text = f"not measured: {name} (out of time)"
        else:
            options = bench.defaults()
            if "limit" in options:
                options["limit"] = min(left, options["limit"])
            result = _run(bench, options)
            results[name], text = result.data, result.text
        print(f"{text}\n", file=sys.stdout if to_stdout else sys.stderr, flush=True)
    return CommandResult("", results)
