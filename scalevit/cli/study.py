"""`scalevit study`: a grid of runs, the law through them, a forecast and a report; resumable."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalevit.config.result import CHECK_FAILED, DONE, RESUMABLE, CommandResult

if TYPE_CHECKING:
    from scalevit.study.design.grid import Node
    from scalevit.study.design.spec import Spec
    from scalevit.study.launch.scheduler import Executor, StudyOutcome

SUMMARY = "a grid of runs, the law through them, a forecast and a report; resumable"


def _local(args: argparse.Namespace, folder: Path) -> Executor:
    from scalevit.study.launch.executors.local import LocalExecutor

    if args.cluster:
        raise ValueError("--cluster belongs to the executors slurm and ray")
    return LocalExecutor(args.slots)


def _slurm(args: argparse.Namespace, folder: Path) -> Executor:
    from scalevit.study.launch.executors.slurm import SlurmCluster

    return SlurmCluster(folder.absolute(), args.slots, _options(args.cluster))


def _ray(args: argparse.Namespace, folder: Path) -> Executor:
    from scalevit.study.launch.executors.ray import RayCluster

    return RayCluster(args.slots, _options(args.cluster))


EXECUTORS = {"local": _local, "slurm": _slurm, "ray": _ray}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "start: scalevit study demo --out runs/demo    again, after an interruption: the same command, or "
        "scalevit study resume runs/demo    look: scalevit study status runs/demo --watch 2    "
        "end: scalevit study stop runs/demo    "
        "widen: scalevit study add runs/demo --images 10000 --seeds 1 2, or: scalevit study add runs/demo "
        "wider.yaml"
    )
    parser.add_argument(
        "spec", help="a preset, a YAML file, or one of: resume, status, stop, add (then a study's folder)"
    )
    parser.add_argument(
        "rest", nargs="*", metavar="section.key=value", help="changes to the base run; or the folder"
    )
    parser.add_argument("--out", type=Path, help="the study's folder")
    parser.add_argument("--preset", choices=("cpu", "gpu"), default="cpu", help="size of an ablation (cpu)")
    parser.add_argument(
        "--executor", choices=[*EXECUTORS], help="where nodes run (local, or where the study began)"
    )
    parser.add_argument(
        "--cluster", nargs="+", default=[], metavar="KEY=VALUE",
        help="slurm: submitit's parameters, e.g. partition=gpu gpus_per_node=1 time=600 (minutes) "
        "cpus_per_task=8; ray: address, and num_cpus, num_gpus, memory of a node",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=int, default=0, help="nodes at a time (local: one a device, or a core; else no limit)"
    )
    parser.add_argument("--attempts", type=int, default=2, help="how often a failing node is tried (2)")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the grid, its cost and timetable; create nothing"
    )
    parser.add_argument(
        "--images", type=int, nargs="+", default=[], help="add: more numbers of unique images"
    )
    parser.add_argument("--durations", type=int, nargs="+", default=[], help="add: more durations, in steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="add: more seeds")
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[], metavar="LR",
        help="try these learning rates briefly on the smaller models first, and give each model its own",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=float, metavar="FLOPS",
        help="choose the runs, of the study's models and image counts, whose forecast is sharpest",
    )  # fmt: skip
    parser.add_argument("--hours", type=float, help="the same for so many hours of this machine's slots")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="status: draw it again so often")


def main(args: argparse.Namespace) -> CommandResult:
    if any(limit is not None and limit <= 0 for limit in (args.budget, args.hours)):
        raise ValueError("--budget and --hours must be positive")
    if args.slots < 0 or args.attempts < 1:
        raise ValueError("--slots must not be negative and --attempts at least 1")
    return SUBCOMMANDS.get(args.spec, _start)(args)


def _start(args: argparse.Namespace) -> CommandResult:
    from dataclasses import replace

    from scalevit.study.design import grid
    from scalevit.study.launch.study_folder import SPEC

    if args.out is None:
        raise ValueError("say where the study lives: --out DIR")
    spec, why = grid.load(args.spec, args.rest, args.preset), ""
    note = spec.note
    if (args.out / SPEC).exists():
        spec = _grown(args.out, _spec(args.out), spec)
    if args.budget or args.hours:
        spec, why = _designed(args, spec)
        print(why, file=sys.stderr, flush=True)
    if args.rates:  # the note of an earlier sweep is written anew
        return _rated(args, replace(spec, note=" ".join(filter(None, (note, why)))), why)
    return _dry(args, spec, why) if args.dry_run else _run(args, args.out, spec)


def _designed(args: argparse.Namespace, spec: Spec) -> tuple[Spec, str]:
    """The grid that a budget buys, and the reason in words."""
    from dataclasses import replace

    from scalevit.study.design import grid, optimal_design
    from scalevit.study.launch import status as timetable

    budget = args.budget
    if args.hours:
        nodes = grid.expand(spec, args.out.absolute() / "runs")
        slots = args.slots or os.cpu_count() or 1
        budget = args.hours * 3600 * slots * timetable.measured_flops_per_second(nodes, args.out)[0]
    made = optimal_design.optimal_design(spec, budget)
    return replace(made.spec, note=made.reason()), made.reason()


def _rated(args: argparse.Namespace, spec: Spec, why: str) -> CommandResult:
    """The study with learning rates from a sweep, which is a study of its own beside it."""
    from scalevit.study.design import lr_sweep
    from scalevit.study.launch.study_folder import SPEC

    sweep, folder = lr_sweep.first_round(spec, args.rates), args.out.with_name(f"{args.out.name}-rates")
    if args.dry_run:
        shown, main = _dry(args, sweep, why), _dry(args, spec, why)
        text = f"the sweep's first half, in {folder}:\n{shown.text}\n\nthe study:\n{main.text}"
        return CommandResult(text, {**main.data, "sweep": shown.data})
    if not (folder / SPEC).exists() or not _spec(folder).added_durations:
        answer = _train(args, folder, sweep)
        if isinstance(answer, CommandResult):
            return answer
    sweep = lr_sweep.second_round(sweep, folder)
    answer = _train(args, folder, sweep)
    if isinstance(answer, CommandResult):
        return answer
    found, exponent = lr_sweep.choose_rates(spec, sweep, folder)
    print(lr_sweep.rates_sentence(found, exponent), file=sys.stderr, flush=True)
    return _run(args, args.out, lr_sweep.apply_rates(spec, found, exponent))


def _resume(args: argparse.Namespace) -> CommandResult:
    folder = _folder(args)
    return _dry(args, _spec(folder), folder=folder) if args.dry_run else _run(args, folder, _spec(folder))


def _add(args: argparse.Namespace) -> CommandResult:
    """Widen the grid by values or by the file of a wider study."""
    from dataclasses import replace

    from scalevit.study.design import grid
    from scalevit.study.design.growth import grow

    folder = _folder(args)
    spec = _spec(folder)
    if spec.only:
        raise ValueError(f"{folder}: its runs were chosen for a budget; start another study for a larger one")
    if not (args.images or args.seeds or args.durations or args.rest[1:]):
        raise ValueError(
            "study add: say what to add, e.g. --images 10000, --seeds 1 2, --durations 4000, or a YAML file "
            "with more models, recipes, probes or finetunes"
        )
    wider = replace(spec, images=(*args.images,) or spec.images, seeds=(*args.seeds,) or spec.seeds)
    wider = grow(spec, replace(wider, durations=(*spec.durations, *args.durations)))
    for file in args.rest[1:]:
        wider = _grown(folder, wider, grid.load(file))
    args.out = folder
    return _dry(args, wider) if args.dry_run else _run(args, folder, wider)


def _grown(folder: Path, old: Spec, new: Spec) -> Spec:
    """The union of the grid in a folder and a new one, told on stderr when it has more than the new one."""
    from scalevit.study.design import grid
    from scalevit.study.design.growth import grow

    wider = grow(old, new)
    more = len(grid.expand(wider)) - len(grid.expand(new))
    if more:
        print(f"{folder}: keeps {more} runs that are not in the new grid", file=sys.stderr, flush=True)
    return wider


def _folder(args: argparse.Namespace) -> Path:
    from scalevit.study.launch.study_folder import SPEC

    folder = Path(args.rest[0]) if args.rest else args.out
    if folder is None or not (folder / SPEC).exists():
        raise ValueError(f"study {args.spec}: name a study's folder (one that holds {SPEC}), found {folder}")
    return folder


def _spec(folder: Path) -> Spec:
    from scalevit.study.design.spec import read_spec
    from scalevit.study.launch.study_folder import SPEC

    return read_spec(folder / SPEC)


# --------------------------------------------------------------------------- the study itself


def _run(args: argparse.Namespace, folder: Path, spec: Spec) -> CommandResult:
    from scalevit.study.launch.study_folder import study_nodes

    outcome = _train(args, folder, spec)
    if isinstance(outcome, CommandResult):
        return outcome
    return _conclude(folder, spec, study_nodes(spec, folder), outcome)


def _train(args: argparse.Namespace, folder: Path, spec: Spec) -> StudyOutcome | CommandResult:
    """Run every node that is not done yet; a command result when that was cut short."""
    from scalevit.study.launch import progress, scheduler
    from scalevit.study.launch.executor_settings import write_settings
    from scalevit.study.launch.study_folder import (
        SPEC,
        check_study_folder,
        lock_study,
        study_nodes,
        write_study,
    )
    from scalevit.study.report.held_out_forecast import forecast_held_out, held_out_nodes

    nodes = study_nodes(spec, folder)
    known = (folder / SPEC).exists()
    with lock_study(folder) if known else contextlib.nullcontext():
        check_study_folder(folder, nodes)
        executor = _executor(args, folder)
        write_study(folder, spec, nodes)
        write_settings(folder, args.executor, args.cluster)
    held_out = {node.name for node in held_out_nodes(nodes)}
    try:
        with progress.study_progress(
            nodes, folder, held_out, lambda: forecast_held_out(folder, spec, nodes)
        ) as display:
            outcome = scheduler.run_study(
                nodes, folder, display, scheduler.PRETRAINING, executor, args.attempts
            )
    except OSError as error:
        text = f"{folder}: {error}; what is done stays done; mend it, then: scalevit study resume {folder}"
        return CommandResult(text, {"folder": str(folder), "error": str(error)}, RESUMABLE)
    if outcome.stopped:
        done = sum(state == "done" for state in outcome.states.values())
        text = f"{folder}: stopped, {done} of {len(nodes)} nodes done; resume: scalevit study resume {folder}"
        return CommandResult(text, {"folder": str(folder), "states": dict(outcome.states)}, RESUMABLE)
    return outcome


def _executor(args: argparse.Namespace, folder: Path) -> Executor:
    """The executor of the command line, else the one that the study began with."""
    _choose_executor(args, folder)
    return EXECUTORS[args.executor](args, folder)


def _choose_executor(args: argparse.Namespace, folder: Path) -> None:
    from scalevit.study.launch.executor_settings import read_settings

    if args.executor is not None:
        return
    settings = read_settings(folder)
    if settings.left_out and not args.cluster:
        raise ValueError(
            f"{folder}: began with --cluster {'=… '.join(settings.left_out)}=…, which is not stored; say "
            "--cluster again, with all its settings"
        )
    args.executor, args.cluster = settings.executor, args.cluster or [*settings.options]


def _options(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE as a dictionary; values as in YAML."""
    from scalevit.config.yaml_io import parse_document

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--cluster {pair}: expected KEY=VALUE, e.g. partition=gpu")
        found[key] = parse_document(value)
    return found


def _conclude(folder: Path, spec: Spec, nodes: list[Node], outcome: StudyOutcome) -> CommandResult:
    """Forecast, figures and report, from the records alone."""
    from scalevit.study.report import figures, html, results, summary
    from scalevit.study.report.held_out_forecast import forecast_held_out

    failed = [f"{name} {state}" for name, state in outcome.states.items() if state != "done"]
    lines = [f"{folder}: {len(nodes) - len(failed)} of {len(nodes)} nodes done"]
    lines += [f"{name}:\n{tail}" for name, tail in outcome.errors.items()]
    data: dict[str, Any] = {
        "folder": str(folder),
        "states": dict(outcome.states),
        "failed": dict(outcome.errors),
    }
    if not failed:
        data["forecast"] = dict(forecast_held_out(folder, spec, nodes))
    found = results.read_results(folder)
    if found.points:
        drawn = figures.draw(found, folder / "figures")
        page = html.write([found], folder / "report.html")
        words = summary.summary(found)
        lines += [*words, f"figures: {drawn[0].parent}" if drawn else "", f"report: {page}"]
        data |= {"summary": words, "report": str(page), "figures": [str(path) for path in drawn]}
    if failed:
        lines.append(f"not done: {', '.join(failed)}; try again with: scalevit study resume {folder}")
    return CommandResult("\n".join(line for line in lines if line), data, CHECK_FAILED if failed else DONE)


def _dry(args: argparse.Namespace, spec: Spec, why: str = "", folder: Path | None = None) -> CommandResult:
    """The grid with its cost, after every check that a start makes; creates nothing."""
    from scalevit.study.launch import status
    from scalevit.study.launch.study_folder import check_study_folder, refuse_locked, study_nodes

    folder = folder or Path(args.out)
    nodes = study_nodes(spec, folder)
    check_study_folder(folder, nodes)
    refuse_locked(folder)
    _choose_executor(args, folder)
    if args.executor != "ray":  # asking a cluster of Ray's starts one
        EXECUTORS[args.executor](args, folder)
    text, data = status.dry_run_table(nodes, folder, args.slots)
    return CommandResult(text, {**data, "reason": why})


def _status(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.launch import status

    folder = _folder(args)
    nodes = _nodes(folder)
    if args.watch and not args.json:
        return CommandResult(*status.watch(nodes, folder, args.watch))
    return CommandResult(*status.study_status(nodes, folder))


def _stop(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.launch.executor_settings import read_settings
    from scalevit.study.launch.status import study_status
    from scalevit.study.launch.stop import stop_study

    folder = _folder(args)
    nodes = _nodes(folder)
    working = stop_study(folder, nodes, read_settings(folder).executor)
    done = study_status(nodes, folder)[1]["counts"]["done"]
    text = f"{folder}: {working} nodes stopped, {done} of {len(nodes)} done"
    text += f"; resume: scalevit study resume {folder}"
    return CommandResult(text, {"folder": str(folder), "stopped": working, "done": done})


def _nodes(folder: Path) -> list[Node]:
    from scalevit.study.launch.study_folder import study_nodes

    return study_nodes(_spec(folder), folder)


SUBCOMMANDS: dict[str, Callable[[argparse.Namespace], CommandResult]] = {
    "resume": _resume, "add": _add, "status": _status, "stop": _stop,
}  # fmt: skip
