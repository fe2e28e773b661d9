"""Everything that waits for a GPU, most valuable first: python benchmarks/gpu_all.py --out DIR

Each part is a process of its own with a time limit, so that one that fails or hangs costs itself. Results are
written as they come: DIR/results.jsonl has a line a try, DIR/NAME.log the part's output, DIR/summary.md the
tables for docs/performance.md. The same command again continues: parts that succeeded are left out, the
others are tried again. Parts that do not fit into --seconds are named. --toy runs every part at a size for a
CPU; its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "python"
SCALEVIT = "python -m scalevit"


@dataclass(frozen=True)
class Part:
    """A part of the campaign. seconds: the usual time on an H200; it is ended after twice that. command: from
    the repository's root, {out} being the folder of results; toy: the same at a size for a CPU."""

    name: str
    answers: str
    seconds: float
    command: str
    toy: str


def _model(model: str, batch: int, seconds: float) -> Part:
    """Training steps of one model beside timm, compiled; G/14 at large batches alone, which timm has no room
    for."""
    alone = model == "G/14" and batch > 32
    among = "scalevit compiled" if alone else "scalevit compiled, timm compiled"
    return Part(
        f"step-{model.replace('/', '-')}-{batch}",
        f"training step of {model}, {batch} images, {among}", seconds,
        f"{PYTHON} benchmarks/gpu.py --out {{out}} --only {model}:{batch}",
        f"{SCALEVIT} bench model --model mu/16-32px --work train --among scalevit --rounds 1 --json",
    )  # fmt: skip


def _fp8(part: str, answers: str, seconds: float) -> Part:
    command = f"{PYTHON} benchmarks/fp8.py --out {{out}} --parts {part} --seconds {2 * seconds:.0f}"
    return Part(f"fp8-{part}", answers, seconds, command, command)


def _bench(what: str, answers: str, seconds: float, options: str, toy: str) -> Part:
    command = f"{SCALEVIT} bench {what} --json"
    return Part(f"bench-{what}", answers, seconds, f"{command} {options}".strip(), f"{command} {toy}".strip())


#: Most valuable first.
PARTS = (
    Part(
        "cuda-graph", "replayed passes give the bits of passes launched one by one", 15,
        f"{PYTHON} -m pytest -q tests/kernels/test_cuda_graph.py",
        f"{PYTHON} -m pytest -q tests/kernels/test_cuda_graph.py",
    ),
    Part(
        "resume-bf16", "a run that was stopped ends with the bits of one that was not", 25,
        f"{PYTHON} benchmarks/fp8.py --out {{out}} --parts resume --seconds 60",
        f"{PYTHON} benchmarks/fp8.py --out {{out}} --parts resume --seconds 60",
    ),
    _model("G/14", 64, 60),
    _model("S/16", 1024, 45),
    _fp8("layers", "layers that compute in fp8, by replay", 30),
    _fp8("steps", "training steps of G/14 and L/16 in fp8", 90),
    _model("L/16", 256, 45),
    _model("g/14", 64, 60),
    _model("B/16", 512, 35),
    _bench("optim", "optimizer step of G/14, as a ratio to a copy", 25, "--shape G/14",
           "--shape mu/16 --rounds 1"),
    _fp8("losses", "losses in fp8 beside bf16", 45),
    _bench("features", "feature extraction, as a ratio to the network", 20, "--images 2048",
           "--shape mu/16 --image 32 --images 64 --rounds 1"),
    _bench("memory", "memory of a step beside the plan's", 40, "", ""),
    _model("G/14", 128, 60),
    Part(
        "kernels", "Triton kernels beside their references", 60, f"{PYTHON} benchmarks/kernels.py",
        "env TRITON_INTERPRET=1 SCALEVIT_NATIVE=0 " + f"{PYTHON} benchmarks/kernels.py",
    ),
    _fp8("tiles", "tiles of the quantisation kernel", 20),
    _fp8("twin", "an fp8 layer beside its reference", 15),
    _fp8("run", "an fp8 run that was stopped", 25),
    _model("G/14", 32, 60),
    Part(
        "ablation-heads", "the heads ablation of a GPU's size at a tenth of its steps", 120,
        f"{PYTHON} benchmarks/gpu_all.py --ablation heads --out {{out}}",
        f"{PYTHON} benchmarks/gpu_all.py --ablation heads --out {{out}} --toy",
    ),
)  # fmt: skip


# --------------------------------------------------------------------------- the campaign


#: Runs a command, within seconds, into a log; gives its exit status, None when time was up.
Execute = Callable[[Sequence[str], float, Path], "int | None"]


def execute(command: Sequence[str], seconds: float, log: Path) -> int | None:
    """Run a command from the repository's root."""
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return None


def campaign(
    out: Path, seconds: float, toy: bool, run: Execute = execute, clock: Callable[[], float] = time.monotonic
) -> list[dict[str, Any]]:
    """Try the parts that have not succeeded, in order, as long as their usual time is left; gives this call's
    results, which results.jsonl then ends with."""
    out.mkdir(parents=True, exist_ok=True)
    began, done, results = clock(), {row["name"] for row in read(out) if row["ok"]}, list[dict[str, Any]]()
    about = {"toy": toy, **provenance()}
    for part in PARTS:
        if part.name in done:
            continue
        left = seconds - (clock() - began)
        if part.seconds > left:
            print(
                f"left out: {part.name} ({part.seconds:.0f} s; {max(0.0, left):.0f} s are left)", flush=True
            )
            continue
        words = (part.toy if toy else part.command).format(out=shlex.quote(str(out.resolve())))
        command = [sys.executable if word == PYTHON else word for word in shlex.split(words)]
        print(f"{part.name}: {part.answers}", flush=True)
        start = clock()
        code = run(
            command,
            min(2 * part.seconds if not toy else 600, max(left, part.seconds)),
            out / f"{part.name}.log",
        )
        row = {
            "name": part.name, "ok": code == 0, "exit": code, "seconds": clock() - start,
            "command": words, **about,
        }  # fmt: skip
        results.append(row)
        with (out / "results.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        (out / "summary.md").write_text(summary(out))
        print(f"  {_status(row)} after {row['seconds']:.0f} s", flush=True)
    (out / "summary.md").write_text(summary(out))
    return results


def read(out: Path) -> list[dict[str, Any]]:
    """The tries so far; a last line that was cut short is left out."""
    path, rows = out / "results.jsonl", list[dict[str, Any]]()
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def summary(out: Path) -> str:
    """Markdown: what was measured, on what, with every part's table; then what was not."""
    last = {row["name"]: row for row in read(out)}
    rows = [last[part.name] for part in PARTS if part.name in last]
    lines = ["# Measurements on a GPU", ""]
    if rows:
        keys = ("device", "torch", "commit", "date")
        lines += [" · ".join(f"{key} {rows[-1][key]}" for key in keys), ""]
    for part in PARTS:
        row = last.get(part.name)
        if row is None or not row["ok"]:
            continue
        log = out / f"{part.name}.log"
        lines += [f"## {part.answers}", "", f"`{row['command']}`, {row['seconds']:.0f} s", "", "```"]
        lines += [(log.read_text() if log.exists() else "").strip(), "```", ""]
    missing = [part for part in PARTS if part.name not in last or not last[part.name]["ok"]]
    if missing:
        lines += ["## Not measured", ""]
        for part in missing:
            row = last.get(part.name)
            reason = (
                "not tried"
                if row is None
                else "time was up"
                if row["exit"] is None
                else f"exit {row['exit']}"
            )
            lines.append(f"- {part.answers}: {reason}")
    return "\n".join(lines) + "\n"


def _status(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not tried"
    return "done" if row["ok"] else "time was up" if row["exit"] is None else f"exit {row['exit']}"


def provenance() -> dict[str, str]:
    """Device, versions, commit and date."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = done.stdout.strip() or "unknown"
    return {
        "device": device, "torch": torch.__version__, "commit": commit,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def ablation(name: str, out: Path, toy: bool) -> int:
    """A study of the paper's ablations at a tenth of its steps, with one seed."""
    from dataclasses import replace

    from scalevit.study.design import grid
    from scalevit.study.design.spec import dump_spec

    spec = grid.load(name, size="cpu" if toy else "gpu")
    durations = (12,) if toy else tuple(steps // 10 for steps in spec.durations)
    short = (
        ("schedule.warmup=2", "schedule.cooldown=4", "train.batch=16") if toy else ("schedule.warmup=100",)
    )
    spec = replace(spec, durations=durations, seeds=(0,), overrides=(*spec.overrides, *short))
    path = out / f"{name}.yaml"
    path.write_text(dump_spec(spec))
    command = [sys.executable, "-m", "scalevit", "study", str(path), "--out", str(out / name), "--quiet"]
    return subprocess.run(command, cwd=ROOT).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of results; the same one continues")
    parser.add_argument("--seconds", type=float, default=690.0, help="time for all parts")
    parser.add_argument("--toy", action="store_true", help="every part at a size for a CPU")
    parser.add_argument("--list", action="store_true", help="print the parts and end")
    parser.add_argument("--ablation", help="run this one part of a study (used by the script itself)")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{part.name:<16}{part.seconds:5.0f} s  {part.answers}" for part in PARTS))
        return 0
    if args.ablation:
        return ablation(args.ablation, args.out, args.toy)
    if not args.toy:
        import torch

        if not torch.cuda.is_available():
            print("needs a GPU; --toy runs every part at a size for a CPU", file=sys.stderr)
            return 2
    results = campaign(args.out, args.seconds, args.toy)
    failed = [row["name"] for row in results if not row["ok"]]
    print(
        f"{len(results) - len(failed)} of {len(results)} parts succeeded; tables: {args.out / 'summary.md'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
