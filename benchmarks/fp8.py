"""Linear layers in fp8 beside bf16: layers, whole steps, and what the losses say.

    python benchmarks/fp8.py --out DIR

Needs a GPU of compute capability 8.9 or later; elsewhere every part runs on toys, in the emulation, and its
times mean nothing. Parts, each of which may fail alone: "twin", a layer beside the reference; "tiles", the
kernel that makes eight bits; "layers", what `train.precision=fp8` chooses from, for five models; "steps",
whole training steps of G/14 and L/16 with every layer in bf16, in fp8 of either kind, and as chosen;
"losses", the same run three times; "run", `scalevit pretrain` in fp8 that is stopped and goes on; "torchao",
blocks by that package's recipes. Parts that would begin after --seconds are left out.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from scalevit import config, optim
from scalevit.config.lr_schedule import Schedule
from scalevit.data.loader import as_floats
from scalevit.data.registry import batches_of
from scalevit.kernels import fp8_autotune, fp8_linear
from scalevit.kernels.cuda_graph import WARMUP_STEPS, CudaGraphRunner
from scalevit.kernels.triton import launch
from scalevit.model.attention import Block
from scalevit.model.losses import LOSSES
from scalevit.model.vit import ViT
from scalevit.tools.bench.markdown import markdown
from scalevit.tools.bench.models import CASES, CLASSES
from scalevit.train import precision
from scalevit.train.loop import Recipe, State, take_step

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BEGAN = time.perf_counter()
TOY = {"shape": "mu/16", "image": 32, "depth": 2, "width": 64, "mlp": 128, "heads": 2}


def say(*words: object) -> None:
    print(f"[{time.perf_counter() - BEGAN:6.1f} s]", *words, flush=True)


def words(name: str, classes: int = CLASSES) -> config.Model:
    case = CASES[name]
    facts = {"shape": case.shape, "image": case.image} if GPU else TOY
    return config.Model(**facts, pool="gap", classes=classes)  # pyright: ignore


def run_of(name: str, batch: int) -> config.Run:
    return config.Run(model=words(name), train=config.Train(batch=batch, precision="fp8"))


def batch_of(name: str) -> int:
    return CASES[name].gpu_batch if GPU else 4


# --------------------------------------------------------------------------- whole steps


def stepper(
    model: ViT, batch: int, optimizer: str, loss: str = "softmax", rate: float = 1e-4
) -> tuple[State, Recipe]:
    """A training step as `scalevit pretrain` does it, without the guard's look at the loss."""
    state = State(model, optim.build(config.Optimizer(name=optimizer), model), None)
    state.world, state.meters = replace(state.world, device=DEVICE), state.meters.to(DEVICE)
    state.replay = CudaGraphRunner(model) if GPU else None
    settings = config.Train(batch=batch, precision="fp8", loss=loss)  # pyright: ignore
    schedule = Schedule("constant", lr=rate, steps=1 << 40, warmup=20, cooldown=0)
    return state, Recipe(schedule, settings, 1.0, config.Guard(on=False), LOSSES[loss])


def timed(model: ViT, ways: dict[str, fp8_linear.Granularity], batch: int) -> dict[str, float]:
    """Milliseconds a step and the most memory, with the layers computing in these ways."""
    fp8_linear.set_granularities(model.blocks, ways)
    state, recipe = stepper(model, batch, "adafactor")
    side = model.config.image
    images = torch.rand(batch, 3, side, side, device=DEVICE) * 2 - 1
    labels = torch.randint(CLASSES, (batch,), device=DEVICE)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for _ in range(WARMUP_STEPS + 1):
        take_step(state, [(images, labels)], recipe)
    first = time.perf_counter() - began
    spent = in_a_row(lambda: take_step(state, [(images, labels)], recipe), 6)
    peak = torch.cuda.max_memory_allocated() / 2**30 if GPU else 0.0
    if GPU and batch == batch_of("G/14"):
        profiled(lambda: take_step(state, [(images, labels)], recipe))
    return {"ms": spent, "peak": peak, "first": first}


def in_a_row(step: Callable[[], object], times: int) -> float:
    """Mean milliseconds."""
    if GPU:
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        step()
    if GPU:
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / times


def profiled(step: Callable[[], object]) -> None:
    """The kernels that take longest, and what all of them take."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        step()
        torch.cuda.synchronize()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_device_time_total)
    say(f"kernels: {sum(row.self_device_time_total for row in rows) / 2e3:.1f} ms a step")
    for row in rows[:24]:
        print(
            f"    {row.self_device_time_total / 2e3:8.2f} ms {row.count // 2:5d} × {row.key[:110]}",
            flush=True,
        )


def steps(out: Path) -> None:
    """With Adafactor, softmax, mean pooling, gradients clipped to norm 1."""
    lines = []
    for name, times in (("G/14", (1, 2)), ("L/16", (1,))):
        batch = batch_of(name)
        choices = fp8_autotune.autotune(run_of(name, batch), 1, DEVICE)
        chosen = {choice.layer: choice.granularity for choice in choices}
        say(name, "chosen:", *choices)
        model = ViT(words(name), device=DEVICE)
        fp8_linear.convert_blocks(model.blocks)
        for block in model.blocks if GPU else ():
            block.compile(dynamic=False)
        for ways, images in cases(chosen, batch, times, all_alike=name == "G/14"):
            if time.perf_counter() - BEGAN > LIMIT:
                break
            what = ", ".join(ways.values()) if len({*ways.values()}) > 1 else ways["qkv"]
            try:
                found = timed(model, ways, images)
            except torch.OutOfMemoryError as error:
                say(name, images, what, "does not fit:", str(error).splitlines()[0])
                continue
            rate = 1e3 * images / found["ms"]
            flops = 3 * model.config.resolve().flops(model.config.image, "gap", CLASSES) * rate / 1e12
            numbers = [f"{value:.1f}" for value in (found["ms"], rate, flops, found["peak"])]
            lines.append([f"{name}, batch {images}", what, *numbers])
            say(*lines[-1], f"first steps {found['first']:.1f} s")
        del model
        if GPU:
            torch.cuda.empty_cache()
    head = [
        "model",
        f"layers ({', '.join(fp8_linear.FP8_LAYERS)})",
        "ms a step",
        "images/s",
        "TFLOP/s",
        "GiB",
    ]
    print(markdown(head, lines), flush=True)


def cases(
    chosen: dict[str, fp8_linear.Granularity], batch: int, times: tuple[int, ...], all_alike: bool
) -> Iterator[tuple[dict[str, fp8_linear.Granularity], int]]:
    """Ways and images at once: all layers alike, then as chosen, which is left out where it is the same."""
    alike = [
        dict.fromkeys(fp8_linear.FP8_LAYERS, way)
        for way in (fp8_linear.GRANULARITIES if all_alike else ("bf16",))
    ]
    yield from ((ways, batch) for ways in alike)
    yield from ((chosen, batch * more) for more in times if more > 1 or chosen not in alike)


# --------------------------------------------------------------------------- layers


def layers(out: Path) -> None:
    """Forward pass and both gradients of each layer, not compiled: what a run chooses from."""
    lines = []
    for name in ("S/16", "B/16", "L/16", "g/14", "G/14"):
        for one in fp8_autotune.autotune(run_of(name, batch_of(name)), 1, DEVICE):
            times = [f"{one.milliseconds.get(way, 0):.3f}" for way in fp8_linear.GRANULARITIES]
            shape = f"{one.tokens} × {one.inputs} → {one.outputs}"
            lines.append([f"{name} {one.layer}", shape, *times, one.granularity, f"{one.gain:.2f}"])
    print(
        markdown(
            ["layer", "shape", *(f"{way}, ms" for way in fp8_linear.GRANULARITIES), "chosen", "gain"], lines
        ),
        flush=True,
    )


# --------------------------------------------------------------------------- losses


def losses(out: Path, count: int = 180, batch: int = 256) -> None:
    """The same run with every layer in bf16 and in fp8: same first weights, same images, same order."""
    count, batch = (count, batch) if GPU else (24, 16)
    facts = {"shape": "B/16", "patch": 8, "image": 64} if GPU else TOY
    model = config.Model(**facts, pool="gap", classes=128, head_bias=0.0)  # pyright: ignore
    source = batches_of(config.Data(source="strokes"), image=model.image, classes=128, batch=batch)
    kept = [(b.images.to(DEVICE), b.labels.to(DEVICE)) for b in (source[i] for i in range(min(64, count)))]
    curves = {way: curve(model, way, kept, count, batch) for way in fp8_linear.GRANULARITIES}
    with (out / "fp8_losses.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["step", *curves])
        for step in range(9, count, 10):
            sheet.writerow([step + 1, *(f"{curves[way][step]:.4f}" for way in curves)])
    smooth = {way: list(smoothed(values, count // 12)) for way, values in curves.items()}
    lines = []
    for way, values in smooth.items():
        apart = [abs(a - b) / b for a, b in zip(values, smooth["bf16"])]
        lines.append(
            [way, f"{curves[way][0]:.4f}", f"{values[-1]:.4f}", f"{max(apart):.2%}", f"{apart[-1]:.2%}"]
        )
    head = ["layers", "first loss", f"last {count // 12}", "largest difference from bf16", "at the end"]
    print(markdown(head, lines), flush=True)


def curve(
    words: config.Model,
    way: fp8_linear.Granularity,
    kept: list[tuple[Tensor, Tensor]],
    count: int,
    batch: int,
) -> list[float]:
    model = ViT(words, device=DEVICE)
    fp8_linear.convert_blocks(model.blocks)
    fp8_linear.set_granularities(model.blocks, dict.fromkeys(fp8_linear.FP8_LAYERS, way))
    state, recipe = stepper(model, batch, "adam", rate=3e-4)
    found, before = [], torch.zeros(3, device=DEVICE)
    for step in range(count):
        images, labels = kept[step % len(kept)]
        take_step(state, [(as_floats(images), labels)], recipe)
        found.append(state.meters[0] - before[0])
        before = state.meters.clone()
    values = torch.stack(found).tolist()
    say(way, "losses", *(f"{value:.3f}" for value in values[:: max(1, count // 12)]))
    return values


def smoothed(values: list[float], window: int) -> Iterator[float]:
    for end in range(window, len(values) + 1):
        yield statistics.fmean(values[end - window : end])


# --------------------------------------------------------------------------- a run


def run(out: Path) -> None:
    """Twenty steps in fp8 in one go, and twenty with a stop between: the same weights?"""
    stop_and_go_on("fp8")


def resume(out: Path) -> None:
    """The same in bf16."""
    stop_and_go_on("bf16")


def stop_and_go_on(kind: str) -> None:
    """A run in one go and one that is stopped; raises AssertionError where their weights differ."""
    from scalevit.artifacts import run_folder
    from scalevit.model.weights import load
    from scalevit.train.run import pretrain

    if precision.precision_errors(kind):
        say("refused here:", *precision.precision_errors(kind))
        return
    width = 1024 if GPU else 64
    wide = config.Model(
        shape="mu/16", width=width, depth=2, mlp=4 * width, heads=width // 64, patch=8, image=64,
        pool="gap", classes=64,
    )  # fmt: skip
    whole = config.Run(
        model=wide, schedule=Schedule("rsqrt", lr=1e-3, steps=20, warmup=5, cooldown=5),
        train=config.Train(
            batch=256 if GPU else 8, precision=kind, compile=GPU, log_every=5, save_every=10, keep_last=9,
        ),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ends = []
        for name in ("whole", "parts"):
            place = Path(folder) / name
            if name == "parts":
                pretrain(whole, place, max_minutes=1e-4)
            pretrain(whole, place)
            print((place / "log.txt").read_text(), flush=True)
            ends.append(load(str(place / run_folder.MODEL)).state_dict())
        apart = max((a - b).abs().max().item() for a, b in zip(ends[0].values(), ends[1].values()))
        say(f"{kind}: largest difference of a weight after a stop: {apart}")
        assert apart == 0


# --------------------------------------------------------------------------- the kernel


def tiles(out: Path) -> None:
    """GB/s of making eight bits, of bytes read and written, by the tile of a program; and beside the twin."""
    if not launch.use_triton(torch.empty(1, device=DEVICE)):
        say("needs a GPU, or TRITON_INTERPRET=1")
        return
    from scalevit.kernels.triton.quantise import quantise_kernel

    lines = []
    for rows, columns in ((16384, 1664), (16384, 8192), (8192, 1664)) if GPU else ((48, 160),):
        x = torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16)
        unit = x.abs().max().float() / fp8_linear.FORMAT_MAX[fp8_linear.E4M3]
        by_row, by_column = (x.abs().amax(d, keepdim=True).reshape(-1, 1).float() / 448 for d in (1, 0))
        for tile in ((64, 64), (128, 64), (64, 128), (128, 128)):
            for warps in (4, 8):
                work = partial(quantise_kernel, x, unit, unit, fp8_linear.E4M3, tile=tile, warps=warps)
                speed = 4 * x.numel() / fp8_autotune.milliseconds(work, DEVICE, 20) / 1e6
                lines.append([f"{rows} × {columns}", f"{tile[0]} × {tile[1]}", str(warps), f"{speed:.0f}"])
        for one, other in ((unit, unit), (by_row, by_column)):
            for dtype in fp8_linear.FORMAT_MAX:
                pairs = zip(
                    quantise_kernel(x, one, other, dtype),
                    fp8_linear.cast_scaled._init_fn(x, one, other, dtype),
                )
                apart = [(a.view(torch.uint8) != b.view(torch.uint8)).float().mean().item() for a, b in pairs]
                say(
                    f"{rows} × {columns} {dtype} {tuple(one.shape)}: share that differs from the twin {apart}"
                )
        spent = fp8_autotune.milliseconds(
            lambda x=x: torch.linalg.vector_norm(x, float("inf"), dim=1), DEVICE, 20
        )
        say(f"{rows} × {columns}: largest of each row, {2 * x.numel() / spent / 1e6:.0f} GB/s")
    print(markdown(["matrix", "tile", "warps", "GB/s"], lines), flush=True)


# --------------------------------------------------------------------------- the twin


def twin(out: Path) -> None:
    """A layer on this device beside the reference on the CPU: relative differences of what comes out, of both
    gradients and of the bias's; bf16 is rounded to 2⁻⁹."""
    torch.manual_seed(0)
    plain = nn.Linear(512, 384)
    x, gradient = torch.randn(256, 512), torch.randn(256, 384) * torch.logspace(-3, 0, 384)
    lines = []
    for way in fp8_linear.GRANULARITIES[1:]:
        reference = passes(plain, way, x, gradient, torch.device("cpu"))
        for compiled in (False, True) if GPU else (False,):
            found = passes(plain, way, x, gradient, DEVICE, compiled)
            apart = [(a - b).norm() / a.norm() for a, b in zip(reference, found)]
            lines.append([way + " compiled" * compiled, *(f"{value.item():.1e}" for value in apart)])
    print(markdown(["way", "y", "dx", "dw", "db"], lines), flush=True)


def passes(
    plain: nn.Linear,
    way: fp8_linear.Granularity,
    x: Tensor,
    gradient: Tensor,
    device: torch.device,
    compiled: bool = False,
) -> list[Tensor]:
    layer = fp8_linear.Fp8Linear.of(copy.deepcopy(plain).to(device))
    layer.granularity = way
    if compiled:
        layer.compile(dynamic=False)
    x = x.detach().to(device).requires_grad_()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        y = layer(x)
    y.backward(gradient.to(y))
    return [t.detach().float().cpu() for t in (y, x.grad, layer.weight.grad, layer.bias.grad)]  # pyright: ignore


# --------------------------------------------------------------------------- torchao


def torchao(out: Path) -> None:
    """One block of G/14, compiled, forward and backward: ours and torchao's."""
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    batch, model = batch_of("G/14"), words("G/14")
    s = model.resolve()
    x = torch.randn(batch, s.tokens(model.image), s.width, device=DEVICE, requires_grad=True)
    plain = Block(model).to(DEVICE)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    made: dict[str, Callable[[], Block]] = {
        way: lambda way=way: ours(plain, way) for way in fp8_linear.GRANULARITIES
    }
    for recipe in ("tensorwise", "rowwise"):
        settings = Float8LinearConfig.from_recipe_name(recipe)
        if not GPU:
            settings = replace(settings, emulate=True)
        made[f"torchao {recipe}"] = lambda c=settings: convert_to_float8_training(
            copy.deepcopy(plain), config=c
        )  # pyright: ignore
    lines = []
    for name, build in made.items():
        if time.perf_counter() - BEGAN > LIMIT:
            break
        block = build()
        if GPU:
            block.compile(dynamic=False)

        ms = fp8_autotune.milliseconds(partial(both_passes, block, x), DEVICE, 10)
        lines.append([name, f"{ms:.3f}"])
        say("block", name, f"{ms:.3f} ms")
    print(markdown([f"block of G/14, batch {batch}", "ms"], lines), flush=True)


def both_passes(block: Block, x: Tensor) -> None:
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        y = block(x)
    y.backward(x.detach())
    x.grad = None


def ours(plain: Block, way: fp8_linear.Granularity) -> Block:
    block = copy.deepcopy(plain)
    fp8_linear.convert_blocks([block])
    fp8_linear.set_granularities([block], dict.fromkeys(fp8_linear.FP8_LAYERS, way))
    return block


PARTS = {
    "twin": twin,
    "tiles": tiles,
    "layers": layers,
    "steps": steps,
    "losses": losses,
    "run": run,
    "resume": resume,
    "torchao": torchao,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default=".", type=Path, help="folder for the losses' CSV")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()
    LIMIT = args.seconds
    torch._dynamo.config.recompile_limit = 64  # of one script's many models; a run compiles once
    failed = False
    say(torch.__version__, torch.cuda.get_device_name() if GPU else "cpu")
    for part in args.parts:
        if time.perf_counter() - BEGAN > LIMIT:
            say(part, "left out: no time")
            continue
        say("---", part)
        try:
            PARTS[part](args.out)
        except Exception:
            failed = True
            say(part, "failed", traceback.format_exc())
        if GPU:
            torch.cuda.empty_cache()
    say("end")
    raise SystemExit(int(failed))
