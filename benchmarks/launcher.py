"""What the launcher costs, survives and saves.

    python benchmarks/launcher.py [--nodes 200] [--kills 20]

Three questions: milliseconds a node when nodes do nothing; whether every node is done once when the launcher
is killed again and again (SIGKILL) and started again; and how many training FLOPs four durations cost on a
shared trunk beside four separate runs, forecast by the dry run and counted from the steps in the records of
a study that is really run (about a minute).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from scalevit.artifacts import records
from scalevit.study.design import grid
from scalevit.study.design.cost import StudyCost, study_cost
from scalevit.study.design.spec import PRESETS
from scalevit.study.launch import scheduler
from scalevit.study.launch.executors.local import LocalExecutor
from scalevit.study.launch.study_folder import write_study

#: Steps of the four durations that share a trunk.
DURATIONS = (200, 400, 600, 800)


class Quiet:
    """Watches nothing."""

    def changed(self, node: grid.Node, state: str, detail: str) -> None:
        pass

    def tick(self, work: scheduler.StudyState) -> None:
        pass


def nodes(folder: Path, count: int) -> list[grid.Node]:
    """`count` nodes that wait for no other."""
    small = PRESETS["demo-small"]
    spec = replace(small, models=small.models[:1], images=(256,), durations=(16,), seeds=tuple(range(count)))
    return grid.expand(spec, folder / "runs")


def worker(doing: str) -> scheduler.NodeType:
    """A node is a shell that does something, writes its name down and is finished."""

    def command(node: grid.Node, home: Path) -> list[str]:
        text = f'{doing}\necho {node.name} >> "{home.parents[1]}/order.txt"; : > "{home}/ended"'
        return ["/bin/sh", "-c", text]

    return scheduler.NodeType(command, lambda home: (home / "ended").exists(), scheduler.has_checkpoint)


def once(folder: Path, count: int, doing: str, slots: int) -> bool:
    return scheduler.run_study(
        nodes(folder, count), folder, Quiet(), worker(doing), LocalExecutor(slots)
    ).complete


def overhead(folder: Path, count: int) -> float:
    """Milliseconds a node that does nothing."""
    began = time.perf_counter()
    assert once(folder, count, ":", 2)
    return 1000 * (time.perf_counter() - began) / count


def killed(folder: Path, count: int, kills: int) -> tuple[int, int]:
    """(kills that met a launcher at work, nodes done other than once)."""
    words = [sys.executable, __file__, "--launch", str(folder), "--nodes", str(count)]
    met = 0
    for kill in range(kills):
        process = subprocess.Popen(words)
        time.sleep(1.5 + 0.13 * (kill % 5))
        met += process.poll() is None
        process.kill()
        process.wait()
    assert once(folder, count, "sleep 0.15", 4)
    done = Counter((folder / "order.txt").read_text().split())
    return met, sum(done[node.name] != 1 for node in nodes(folder, count))


def shared(folder: Path) -> tuple[StudyCost, float]:
    """(the dry run's bill, FLOPs of the steps that were trained) of four durations of one small model."""
    small = PRESETS["demo-small"]
    spec = replace(small, models=small.models[:1], images=(0,), durations=DURATIONS)
    made = grid.expand(spec, folder / "runs")
    write_study(folder, spec, made)
    assert scheduler.run_study(made, folder, Quiet(), scheduler.PRETRAINING, LocalExecutor(2)).complete
    trained = sum(steps(folder / "runs" / node.name, node) * grid.step_flops(node.run) for node in made)
    return study_cost(made), trained


def steps(home: Path, node: grid.Node) -> int:
    """Steps that a run's records say it trained: from one log interval before the first to the last."""
    logged = [
        row["step"]
        for row in records.read_records(home)
        if row["kind"] == "train" and row["metric"] == "loss"
    ]
    every = node.run.train.log_every
    return max(logged) - (min(logged) - 1) // every * every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--launch", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.launch:
        once(args.launch, args.nodes, "sleep 0.15", 4)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{args.nodes} nodes that do nothing: {overhead(folder / 'idle', args.nodes):.1f} ms a node")
        met, wrong = killed(folder / "killed", args.nodes, args.kills)
        print(f"launcher killed {met} times at work: {wrong} of {args.nodes} nodes done other than once")
        bill, trained = shared(folder / "shared")
        print(
            f"durations {DURATIONS}: dry run {bill.share:.1%} of separate runs, "
            f"trained {trained / bill.separate:.1%} ({trained:.3g} of {bill.separate:.3g} FLOPs)"
        )


if __name__ == "__main__":
    main()
