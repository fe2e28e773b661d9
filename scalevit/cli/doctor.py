"""`scalevit doctor`: what this machine can do, and what limits a run on it."""

from __future__ import annotations

import argparse
from typing import Any

from scalevit.config.result import CommandResult

SUMMARY = "What this machine can do, measured in a few seconds, and what limits a given run on it."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", help="a preset or a run.yaml: say what limits it here")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the run")


def main(args: argparse.Namespace) -> CommandResult:
    from scalevit.config.load import load
    from scalevit.config.validate import ConfigErrors, missing_source
    from scalevit.tools import bottleneck, doctor

    run = load(args.target, args.overrides) if args.target else None
    if run is not None:
        from scalevit.train.precision import precision_errors

        found = [*missing_source(run), *precision_errors(run.train.precision)]
        if found:
            raise ConfigErrors(found)
    facts = doctor.examine_machine()
    facts["advice"] = doctor.advice(facts)
    lines = _lines(facts)
    if run is not None:
        facts["run"] = bottleneck.examine_run(run)
        facts["verdict"] = bottleneck.verdict(run, facts["run"])
        lines.append(facts["verdict"])
        layers = bottleneck.fp8_layers(run)
        facts["fp8"] = {choice.layer: {"way": choice.granularity} | choice.milliseconds for choice in layers}
        lines += [f"fp8: {choice}" for choice in layers]
    return CommandResult("\n".join(lines), facts)


def _lines(facts: dict[str, Any]) -> list[str]:
    disk, products = facts["disk_mb_per_second"], " and ".join(facts["native_products"])
    built = f"built; products in {products}" if products else "built" if facts["native_kernels"] else "none"
    return [
        f"torch {facts['torch']} on {facts['device']}, {facts['threads']} threads of {facts['cores']} cores",
        f"products by      {facts['blas']}; bf16: {facts['bf16']}",
        *(f"matrix products  {name} {value:8.0f} GFLOP/s" for name, value in facts["gflops"].items()),
        f"copy             {facts['copy_gb_per_second']:8.1f} GB/s",
        f"images           {facts['images_per_second_per_core']:8.0f} a second and core ({facts['decoder']})",
        f"disk             {disk['written']:8.0f} MB/s written, {disk['read']:.0f} MB/s read",
        f"native kernels   {built}",
        f"compile          {'fails' if facts['compile_fails'] else 'works'}",
        *(f"- {line}" for line in facts["advice"]),
    ]
