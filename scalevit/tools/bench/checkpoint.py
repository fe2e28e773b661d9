"""Benchmark of asynchronous checkpointing: its cost in training time, and the host memory of a save."""

from __future__ import annotations

import contextlib
import ctypes
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scalevit.artifacts.async_checkpoint import AsyncCheckpointer
from scalevit.artifacts.checkpoint import Retention
from scalevit.config.lr_schedule import Schedule
from scalevit.config.memory import GIB
from scalevit.config.run import Guard, Model, Run, Train
from scalevit.distributed import world
from scalevit.train.loop import MicroBatch, Recipe, State, checkpoint_shards, scalar_state, take_step
from scalevit.train.state import build_recipe, build_state

MIB = 2**20
M_MMAP_THRESHOLD = -3
#: Steps before each save, whose median is the usual time of a step.
PLAIN = 5
#: A tenth of G/14: 176 M weights in fp32, Adafactor's momentum in bf16; images of a few tokens.
TENTH = Model(shape="L/16", depth=14, pool="gap", classes=10, image=32)


def measure(shape: str, batch: int, every: int, rounds: int, threads: int, folder: str) -> dict[str, Any]:
    """Cost of a save: its share of the time of `every` steps, and its host memory."""
    if min(batch, every, rounds, threads) < 1:
        raise ValueError("--batch, --every, --rounds and --threads must be at least 1")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=folder or None) as home:
        found = _time(Model(shape=shape), batch, every, rounds, Path(home) / "time")
        memory, missing = _memory(Path(home) / "memory")
    return {"shape": shape, "batch": batch, "every": every, **found, **memory, "missing": missing}


def _run(model: Model, batch: int) -> Run:
    schedule = Schedule(steps=1000, warmup=10, cooldown=10)
    train = Train(batch=batch, precision="fp32")
    return Run(model=model, schedule=schedule, train=train, guard=Guard(on=False))


def _started(run: Run) -> tuple[State, list[MicroBatch], Recipe]:
    """A state after its first step, which builds the optimizer's."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = build_recipe(run)
    side, count = run.model.image, run.train.batch
    images = torch.zeros(count, side, side, 3, dtype=torch.uint8, device=device)
    batch = [(images, torch.zeros(count, dtype=torch.long, device=device))]
    state = build_state(run, replace(world.SINGLE_PROCESS, device=device))
    take_step(state, batch, recipe)
    return state, batch, recipe


# --------------------------------------------------------------------------- time


def _time(model: Model, batch: int, every: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time that a save adds: its copy, the slowdown of steps beside its writing, its commit."""
    state, micro, recipe = _started(_run(model, batch))
    checkpointer = AsyncCheckpointer(folder, state.world, Retention(1))

    def seconds(action: Callable[[], Any]) -> float:
        began = time.perf_counter()
        action()
        if state.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def step() -> float:
        return seconds(lambda: take_step(state, micro, recipe))

    usual, saves = [step() for _ in range(PLAIN)], []
    for _ in range(rounds):
        copying = seconds(
            lambda: checkpointer.start_save(state.step, checkpoint_shards(state), scalar_state(state))
        )
        beside = []
        while checkpointer.pending is not None and not checkpointer.pending.report.done():
            beside.append(step())
        saves.append((copying, beside, seconds(checkpointer.wait)))
        usual += [step() for _ in range(PLAIN)]
    plain = statistics.median(usual)
    costs = [
        (copying + commit + sum(beside) - len(beside) * plain) / (every * plain)
        for copying, beside, commit in saves
    ]
    return {
        "seconds_a_step": plain, "seconds_of_copying": statistics.median(one for one, _, _ in saves),
        "steps_beside": [len(beside) for _, beside, _ in saves], "cost": statistics.median(costs),
        "costs": costs,
    }  # fmt: skip


# --------------------------------------------------------------------------- memory


@dataclass
class Grown:
    """Largest growth of the process's memory since the beginning, in bytes."""

    bytes: int = 0


@contextlib.contextmanager
def growth() -> Iterator[Grown]:
    """The most memory that this process gains while this holds. Raises OSError where Linux's /proc is not."""
    glibc = ctypes.CDLL(None)
    glibc.malloc_trim(0)  # what was freed but kept would be taken again unseen
    glibc.mallopt(M_MMAP_THRESHOLD, MIB // 4)  # and what is freed from now on would count as taken
    Path("/proc/self/clear_refs").write_text("5")  # forget the most that was
    before, grown = _status("VmRSS"), Grown()
    yield grown
    grown.bytes = _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def _memory(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Host memory that a save takes besides the state, as a share of what it writes."""
    if not Path("/proc/self/clear_refs").exists():
        return {"size": None, "memory": None}, {"memory of a save": "needs Linux's /proc"}
    state, _, _ = _started(_run(TENTH, 1))
    checkpointer = AsyncCheckpointer(folder, state.world, Retention(1))
    with growth() as grown:
        checkpointer.start_save(state.step, checkpoint_shards(state), scalar_state(state))
        checkpointer.wait()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    numbers = sum(parameter.numel() for parameter in state.model.parameters())
    return {"numbers": numbers, "size": size, "memory": grown.bytes / size}, {}


def table(found: dict[str, Any]) -> str:
    """The measurements as text."""
    each, beside = (", ".join(f"{cost:.1%}" for cost in found["costs"]), found["steps_beside"])
    lines = [
        f"{found['shape']}, {found['batch']} images a step of {1000 * found['seconds_a_step']:.0f} ms",
        f"a save every {found['every']} steps adds {found['cost']:.1%} ({each}); its copy takes "
        f"{1000 * found['seconds_of_copying']:.0f} ms, its writing lasts {max(beside)} steps at most",
    ]
    if found["memory"] is not None:
        lines.append(
            f"a save of {found['numbers'] / 1e6:.0f} M parameters in fp32 with bf16 momentum, "
            f"{found['size'] / GIB:.2f} GiB, takes {found['memory']:.2f} times its size in host memory"
        )
    return "\n".join(lines)
