"""`scalevit plan`: what a run costs, or the best run for a budget."""

from __future__ import annotations

import argparse
from pathlib import Path

from scalevit.artifacts.atomic_write import atomic_write_text
from scalevit.config.load import dump, load
from scalevit.config.result import CommandResult

SUMMARY = "What a run costs, or the best run for a budget, before anything is spent."

BACKWARD = (
    "days", "unique_images", "inference_gflops", "classes", "device_hours", "money", "train_flops",
)  # fmt: skip
SPENDING = ("device_hours", "money", "train_flops")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "forward: scalevit plan paper/G14 --devices 256 --device h200    "
        "backward: scalevit plan --money 20000 --price 2.5 --unique-images 3e8    or    "
        "scalevit plan --devices 64 --device h200 --days 7 --unique-images 3e8 --out run.yaml"
    )
    parser.add_argument(
        "target", nargs="?", help="a preset or a run.yaml; none: find the best run for a budget"
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the run")
    parser.add_argument("--device", "--gpu", help="which accelerator (h100, or the one of --bench)")
    parser.add_argument(
        "--devices", "--gpus", type=int, help="how many (1; for a budget 8, or as many as finish in time)"
    )
    parser.add_argument("--memory", type=float, help="GiB that a device offers (what is in it)")
    parser.add_argument("--peak", type=float, help="TFLOP/s of a device, at the precision of the run")
    parser.add_argument("--bandwidth", type=float, help="GB/s of a device's memory")
    parser.add_argument("--mfu", type=float, help="share of the peak that training reaches, 0 to 1")
    parser.add_argument("--price", type=float, help="money for one device and hour")
    parser.add_argument("--days", type=float, help="budget: how long until it must be ready (7)")
    parser.add_argument("--device-hours", type=float, help="budget: hours of all devices together")
    parser.add_argument("--money", type=float, help="budget: to be spent at --price")
    parser.add_argument("--train-flops", type=float, help="budget: FLOPs of the training")
    parser.add_argument(
        "--unique-images", "--images", type=float, help="budget: different images you have (1e9)"
    )
    parser.add_argument(
        "--inference-gflops", type=float, help="budget: most forward GFLOPs an image may cost"
    )
    parser.add_argument("--classes", type=int, help="budget: classes of your labels (1000)")
    parser.add_argument(
        "--task", help="budget: what to be best at (imagenet_10shot; with --study its own target)"
    )
    parser.add_argument(
        "--bench",
        type=Path,
        metavar="FILE",
        help="speeds of this machine: the JSON of `scalevit bench model`",
    )
    parser.add_argument(
        "--study", type=Path, metavar="DIR", help="expect errors by this study's runs, not by the paper's"
    )
    parser.add_argument("--out", type=Path, help="write the run as YAML, ready for `scalevit pretrain`")
    parser.add_argument("--picture", type=Path, help="budget: draw the choice (png, pdf or svg)")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="count a step's memory with the true model among fake processes",
    )
    parser.add_argument(
        "--groups", action="store_true", help="which parameter gets which decay and learning rate"
    )


def main(args: argparse.Namespace) -> CommandResult:
    if args.groups:
        return _groups(args)
    if args.rehearse and not args.target:
        raise ValueError("--rehearse needs a preset or a run.yaml")
    return _forward(args) if args.target else _backward(args)


def _forward(args: argparse.Namespace) -> CommandResult:
    from scalevit.study.planning.plan import plan

    _refuse(args, (*BACKWARD, "picture", "task"), "is for a budget; leave the preset away")
    run = load(args.target, args.overrides)
    made = plan(
        run, device_name=args.device or "h100", devices=args.devices or 1, mfu=args.mfu, price=args.price,
        bench=_bench(args), laws=_laws(args), memory=args.memory, custom=_custom(args),
    )  # fmt: skip
    if args.out:
        _write(args.out, dump(run))
    if args.rehearse:
        return _rehearsed(made)
    return CommandResult(forward_text(made), made.as_dict())


def _rehearsed(made) -> CommandResult:
    """The plan beside a step of the true model among processes that do not exist."""
    from dataclasses import asdict

    from scalevit.config.memory import step_memory
    from scalevit.study.planning.plan import RESERVED_SHARE
    from scalevit.tools.memory_dry_run import largest_micro_batch

    room = made.device.memory * (1 - RESERVED_SHARE)
    lived, above = largest_micro_batch(made.run, made.devices, room, made.memory.micro_batch)
    planned = step_memory(made.run, made.shape, lived.micro_batch, made.devices).total
    facts = {
        **asdict(lived), "planned": planned, "difference": planned / lived.peak - 1, "room": room,
        "fits": lived.peak <= room, "largest_micro_batch": lived.micro_batch if lived.peak <= room else None,
        "too_large": None if above is None else {"micro_batch": above.micro_batch, "peak": above.peak},
    }  # fmt: skip
    text = "\n".join([forward_text(made), *rehearsal_lines(facts)])
    return CommandResult(text, made.as_dict() | {"rehearsal": facts})


def _backward(args: argparse.Namespace) -> CommandResult:
    from dataclasses import asdict

    from scalevit.study.planning.compute_budget import Basis, Budget, best_run
    from scalevit.study.planning.plan import plan

    names = (*BACKWARD, "device", "devices", "mfu", "task", "price", "memory")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    basis = Basis(_laws(args), _bench(args), _custom(args))
    if basis.bench:
        given["device"] = basis.bench.hardware().name
    if basis.device:
        given["device"] = basis.device.name
    if any(name in given for name in SPENDING):
        given.setdefault("devices", None)
    budget = Budget(**given)
    answer = best_run(budget, basis)
    made = plan(
        answer.best.run, device_name=budget.device, devices=answer.best.devices, mfu=args.mfu,
        price=args.price, bench=basis.bench, laws=basis.laws, memory=args.memory, custom=basis.device,
    )  # fmt: skip
    if args.out:
        _write(args.out, dump(answer.best.run))
    if args.picture:
        from scalevit.study.planning.budget_plot import draw

        draw(budget, basis, answer, args.picture)
    data = {
        **asdict(answer),
        "budget": asdict(budget),
        "plan": made.as_dict(),
        "run_yaml": dump(answer.best.run),
    }
    return CommandResult(backward_text(budget, answer) + "\n\n" + forward_text(made), data)


def _laws(args: argparse.Namespace):
    from scalevit.study.planning import expected_error

    return expected_error.study_laws(args.study) if args.study else expected_error.paper_laws()


def _bench(args: argparse.Namespace):
    """The bench of --bench; ValueError when --device names something else than what it ran on."""
    from scalevit.config.devices import device
    from scalevit.study.planning.measured_speeds import read_bench

    if not args.bench:
        return None
    found = read_bench(args.bench)
    if args.device and device(args.device) != found.hardware():
        raise ValueError(f"--device {args.device}: {args.bench} was measured on {found.device}")
    return found


def _custom(args: argparse.Namespace):
    """The device of --peak and --bandwidth; None without them."""
    from scalevit.study.planning.plan import custom_device

    if args.bench and (args.peak or args.bandwidth):
        raise ValueError("--bench measured the device; leave --peak and --bandwidth away")
    return custom_device(args.device, args.peak, args.memory, args.bandwidth)


def _groups(args: argparse.Namespace) -> CommandResult:
    from scalevit.optim.param_groups import group_table

    if not args.target:
        raise ValueError("--groups needs a preset or a run.yaml")
    rows = group_table(load(args.target, args.overrides))
    lines = [
        f"{row['name']:<44} {row['group']:<8} decay {row['decay']:<8g} lr × {row['lr_scale']:g}"
        for row in rows
    ]
    return CommandResult("\n".join(lines), {"parameters": rows})


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} {why}")


def _write(path: Path, text: str) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    atomic_write_text(path, text)


# --------------------------------------------------------------------------- text


def forward_text(made) -> str:
    """A plan as a person reads it."""
    from scalevit.config.memory import KINDS
    from scalevit.study.planning.plan import names_of

    memory, speed = made.memory, made.speed
    counts = ", ".join(
        f"{value / 1e6:.1f} M {key.replace('_', ' ')}" for key, value in made.parameters.items()
    )
    kinds = ", ".join(f"{k} {getattr(memory, k):.1f}" for k in KINDS if getattr(memory, k) >= 0.05)
    share = f"sharded over {memory.shards}" if memory.shards > 1 else "whole on each"
    money = "give --price to know" if made.cost is None else f"{made.cost:,.0f}"
    energy = f"{made.kilowatt_hours:,.0f} kWh of the boards" if made.kilowatt_hours >= 0 else "energy unknown"
    lines = [
        f"{made.run.name}: {names_of(made.shape)} at {made.run.model.image} pixels, {counts}",
        f"  compute   {sum(made.flops.values()) / 1e9:.1f} GFLOPs an image forward, "
        f"{made.train_flops:.3g} to train",
        f"  run       {made.run.schedule.steps:,} steps × {made.run.train.batch:,} = "
        f"{made.images:.3g} images seen",
        f"  rate      {_rates(made.run)}",
        f"  memory    {memory.total:.1f} of {made.device.memory:.0f} GiB on each {made.device.name}, "
        f"weights {share}, micro-batch {memory.micro_batch}",
        f"            fullest when {memory.moment}: {kinds}",
        f"  speed     {speed.images_per_second:.0f} images/s on each of {made.devices}, "
        f"MFU {speed.mfu:.0%} ({speed.source})",
        f"  time      {made.hours:,.1f} hours = {made.hours / 24:,.1f} days; {energy}; cost {money}",
    ]
    lines += [
        f"  expected  {task.replace('_', ' ')} error {100 * one.error:.1f} % "
        f"({100 * one.low:.1f} to {100 * one.high:.1f}, 90 %), by {made.expected_from}"
        for task, one in made.expected.items()
    ]
    return "\n".join([*lines, *(f"  warning   {warning}" for warning in made.warnings)])


def _rates(run) -> str:
    """Optimizer and schedule."""
    schedule = run.schedule
    return (
        f"{run.optimizer.name}, {schedule.lr:g} at most, {schedule.name}, warm-up {schedule.warmup:,} and "
        f"cooldown {schedule.cooldown:,} steps"
    )


def rehearsal_lines(facts) -> list[str]:
    """What a rehearsed step held and sent, and how far the plan is from it."""
    kinds = ", ".join(f"{kind} {size:.2f}" for kind, size in facts["kinds"].items())
    sent = ", ".join(f"{size:.2f} to {name}" for name, size in facts["sent"].items()) or "nothing"
    lines = [
        f"  rehearsal {facts['peak']:.2f} GiB at most on the first of {facts['devices']}, micro-batch "
        f"{facts['micro_batch']}; the plan says {facts['planned']:.2f} ({facts['difference']:+.1%})",
        f"            {kinds}",
        f"            GiB in collectives a step: {sent}",
    ]
    if not facts["fits"]:
        return [*lines, f"            does not fit: {facts['room']:.1f} GiB are there for it"]
    above = facts["too_large"]
    if above is None:
        return [*lines, f"            all {facts['micro_batch']} images of a device's share fit at once"]
    return [
        *lines,
        f"            largest micro-batch that fits {facts['room']:.1f} GiB: {facts['micro_batch']}; "
        f"{above['micro_batch']} would need {above['peak']:.2f}",
    ]


def backward_text(budget, answer) -> str:
    """The choice, its alternatives, and what each limit costs."""

    def line(choice) -> str:
        return (
            f"{choice.name:<22} {choice.images:9.3g} images   {choice.devices} × {choice.days:.3g} days   "
            f"expected error {100 * choice.error:5.2f} % ({100 * choice.low:.1f} to {100 * choice.high:.1f})"
        )

    lines = [
        f"{_limits(budget)}, {budget.unique_images:.3g} unique images:",
        f"  best      {line(answer.best)}",
        *(f"  next      {line(choice)}" for choice in answer.others),
        *(f"  with {name:<28} {100 * error:5.2f} %" for name, error in answer.prices.items()),
    ]
    if answer.enough:
        days = answer.enough * answer.best.days
        lines.append(
            f"  enough    {answer.enough:.2g} of it, {days:.2g} days, comes within 1 % of this error: "
            f"spending more gains nothing"
        )
    return "\n".join(lines)


def _limits(budget) -> str:
    """What may be spent, in words."""
    devices = f"{budget.devices} × {budget.device}" if budget.devices else budget.device
    words = {"device_hours": "device-hours", "money": "of money", "train_flops": "FLOPs"}
    spending = [f"at most {value:.4g} {words[name]}" for name, value in budget.spending.items()]
    return ", ".join([f"{devices} for {'' if budget.devices else 'up to '}{budget.days:g} days", *spending])
