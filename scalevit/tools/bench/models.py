"""Benchmark of training steps and inference: scalevit, other libraries, and the machine's ceiling.

All candidates of a row alternate in one process, so that a busy machine slows all of them; medians count. The
ceiling is measured in the same rounds: the forward matrix products of the model's linear layers, at its own
shapes and precision, with nothing in between, by the fastest product there is (kernels/linear.py). FLOPs are
the model's own (config/model_sizes.py): three forward passes a training step, and a token more for a peer
that cannot do without a class token."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalevit import config, optim
from scalevit.config.lr_schedule import Schedule
from scalevit.config.model_sizes import Shape, shape
from scalevit.kernels.cuda_graph import CudaGraphRunner
from scalevit.kernels.linear import linear
from scalevit.model.losses import LOSSES
from scalevit.model.vit import ViT
from scalevit.optim import factory
from scalevit.tools.bench.baselines import BASELINES, CLASSES
from scalevit.tools.bench.interleaved import (
    bench_device,
    busy_note,
    device_name,
    out_of_time,
    rounds_spread,
    time_interleaved,
)  # fmt: skip
from scalevit.tools.bench.markdown import markdown, share, times
from scalevit.train.loop import Recipe, State, take_step
from scalevit.train.malloc import keep_freed
from scalevit.train.precision import autocast_for, compile_blocks, peak_flops

OURS, CEILING = "scalevit", "matrix products"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class BenchCase:
    """A benchmark case: model, images' side in pixels, and batch sizes on a CPU and on a GPU."""

    shape: str
    image: int = 224
    batch: int = 8
    gpu_batch: int = 256


CASES = {
    "mu/16-32px": BenchCase("mu/16", 32, 32, 4096),
    "Ti/16-128px": BenchCase("Ti/16", 128, 32, 2048),
    "Ti/16": BenchCase("Ti/16", 224, 32, 1024),
    "S/16": BenchCase("S/16", 224, 16, 1024),
    "B/16": BenchCase("B/16", 224, 8, 512),
    "L/16": BenchCase("L/16", 224, 4, 256),
    "g/14": BenchCase("g/14", 224, 1, 64),
    "G/14": BenchCase("G/14", 224, 1, 64),
}


COMPILED = " compiled"
OUT_OF_TIME = "out of time"
CANDIDATES = tuple(name + suffix for name in (OURS, *BASELINES) for suffix in ("", COMPILED))
#: Valid names of each option.
KNOWN = {
    "model": (*CASES,), "precision": (*DTYPES,), "work": ("train", "infer"), "among": CANDIDATES,
    "optimizer": (*factory.OPTIMIZERS,),
}  # fmt: skip


@dataclass(frozen=True)
class BenchJob:
    """One measurement: a model at one precision, in training or inference. work: "train" or "infer";
    optimizer: ours, the peers have AdamW"""

    model: str
    precision: str
    work: str
    batch: int
    device: torch.device
    optimizer: str = "adam"

    @property
    def case(self) -> BenchCase:
        return CASES[self.model]

    @property
    def shape(self) -> Shape:
        return shape(self.case.shape)

    def flops(self, class_token: bool = False) -> float:
        """Of one image."""
        forward = self.shape.flops(self.case.image, "token" if class_token else "gap", CLASSES)
        return 3 * forward if self.work == "train" else forward

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.Generator().manual_seed(0)
        size = (self.batch, 3, self.case.image, self.case.image)
        images = torch.rand(size, generator=draw) * 2 - 1
        labels = torch.randint(CLASSES, (self.batch,), generator=draw)
        return images.to(self.device), labels.to(self.device)


@dataclass(frozen=True)
class Candidate:
    """A timed candidate. run: once. flops: of one run."""

    name: str
    run: Callable[[], object]
    flops: float


def measure(
    model: tuple[str, ...],
    precision: tuple[str, ...],
    work: tuple[str, ...],
    among: tuple[str, ...],
    optimizer: str,
    batch: int,
    rounds: int,
    threads: int,
) -> dict[str, Any]:
    """Measured rows, one for every candidate of every model, precision and kind of work. batch 0: the
    case's."""
    asked = {"model": model, "precision": precision, "work": work, "among": among, "optimizer": (optimizer,)}
    _require(asked)
    if batch < 0 or min(rounds, threads) < 1:
        raise ValueError("--batch must not be negative, --rounds and --threads must be at least 1")
    torch.set_num_threads(threads)
    device, rows, missing = bench_device(), [], dict[str, str]()
    if device.type == "cpu":
        keep_freed()  # as a run does; it helps the peers, too
    for name in model:
        usual = CASES[name].gpu_batch if device.type == "cuda" else CASES[name].batch
        for kind in precision:
            for what in work:
                job = BenchJob(name, kind, what, batch or usual, device, optimizer)
                if rows and out_of_time():
                    missing[f"{name} {kind} {what}"] = OUT_OF_TIME
                else:
                    rows += _rows(job, among, rounds, threads, missing)
    about = {"device": device_name(device), "threads": threads, "rounds": rounds, "torch": torch.__version__}
    about |= {"optimizer": optimizer, "rounds_spread": max(row["rounds_spread"] for row in rows)}
    return {**about, "rows": rows, "missing": missing}


def table(found: dict[str, Any]) -> str:
    """The measurements as Markdown tables."""
    head = ["", "images/s", "± %", "GFLOP/s", "of ceiling", "MFU", "× best peer"]
    about = "{device}, {threads} thread(s), torch {torch}, medians of {rounds}; {optimizer} against AdamW"
    about = about.format(**found)
    groups: dict[str, list[list[str]]] = {}
    for row in found["rows"]:
        title = (
            "{model}, {image} px, {precision}, {work}, batch {batch}; ceiling {ceiling_gflops:.0f} GFLOP/s"
        )
        rate, spread = f"{row['images_per_second']:.1f}", f"{100 * row['spread']:.0f}"
        shares = share(row["ceiling_share"]), share(row["mfu"]), times(row["ratio_to_best_peer"])
        line = [row["candidate"], rate, spread, f"{row['gflops']:.0f}", *shares]
        groups.setdefault(title.format(**row), []).append(line)
    tables = [f"{title}\n\n{markdown(head, lines)}" for title, lines in groups.items()]
    return "\n\n".join([about, *busy_note(found["rounds_spread"]), *tables])


def _require(asked: dict[str, tuple[str, ...]]) -> None:
    for option, names in asked.items():
        for name in names:
            if name not in KNOWN[option]:
                raise ValueError(f"--{option} knows no {name!r}; known: {', '.join(KNOWN[option])}")


def _rows(
    job: BenchJob, among: Sequence[str], rounds: int, threads: int, missing: dict[str, str]
) -> Iterator[dict[str, Any]]:
    made = [_ceiling(job), *_ours(job, among, missing), *_peers(job, among, missing)]
    spent = time_interleaved({one.name: one.run for one in made}, rounds, threads, job.device)
    rates = {one.name: one.flops / statistics.median(spent[one.name]) for one in made}
    spread = rounds_spread(spent)
    rivals = [rate for name, rate in rates.items() if not name.startswith((CEILING, OURS))]
    for one in made[1:]:
        middle = statistics.median(spent[one.name])
        yield {
            "model": job.model,
            "image": job.case.image,
            "precision": job.precision,
            "work": job.work,
            "batch": job.batch,
            "candidate": one.name,
            "images_per_second": job.batch / middle,
            "spread": (max(spent[one.name]) - min(spent[one.name])) / middle / 2,
            "rounds_spread": spread,
            "gflops": rates[one.name] / 1e9,
            "ceiling_gflops": rates[CEILING] / 1e9,
            "ceiling_share": rates[one.name] / rates[CEILING],
            "mfu": _mfu(rates[one.name], job),
            "ratio_to_best_peer": rates[one.name] / max(rivals) if rivals else None,
        }


def _mfu(rate: float, job: BenchJob) -> float | None:
    peak = peak_flops(job.precision, job.device)
    return None if peak is None else rate / peak


# --------------------------------------------------------------------------- who takes part


def _ceiling(job: BenchJob) -> Candidate:
    """Ceiling: each linear layer of one block, once, on all tokens of a batch."""
    s, dtype = job.shape, DTYPES[job.precision]
    tokens = job.batch * s.tokens(job.case.image)
    sizes = [(s.width, 3 * s.width), (s.width, s.width), (s.width, s.mlp), (s.mlp, s.width)]
    draw = partial(torch.randn, device=job.device, dtype=dtype)
    pairs = [(draw(tokens, inputs), draw(outputs, inputs)) for inputs, outputs in sizes]

    def run() -> None:
        for inputs, weight in pairs:
            linear(inputs, weight, None)

    return Candidate(CEILING, run, 2.0 * tokens * sum(a * b for a, b in sizes))


def _ours(job: BenchJob, among: Sequence[str], missing: dict[str, str]) -> Iterator[Candidate]:
    for suffix in ("", COMPILED):
        if suffix and OURS + suffix in among and out_of_time():
            missing[f"{OURS}{suffix}, {job.model} {job.precision} {job.work}"] = OUT_OF_TIME
        elif OURS + suffix in among:
            words = config.Model(shape=job.case.shape, image=job.case.image, pool="gap", classes=CLASSES)
            model = _random_vit(words, job.device)
            if suffix:
                compile_blocks(model.blocks)
            inputs = partial(tuple, job.inputs())  # the same each time
            step = partial(our_step, model, job, inputs, bool(suffix))
            run = step() if job.work == "train" else _inference(model, job)
            yield Candidate(OURS + suffix, run, job.flops() * job.batch)


def _random_vit(words: config.Model, device: torch.device) -> ViT:
    """With random weights; those of a run are drawn on a CPU, which takes long for the largest models."""
    if device.type == "cpu":
        return ViT(words)
    model = ViT(words, device="meta").to_empty(device=device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return model


def our_step(
    model: ViT, job: BenchJob, inputs: Callable[[], tuple[Tensor, Tensor]], compiled: bool = False
) -> Callable[[], object]:
    """The training step of `scalevit pretrain`, with the baselines' loss, on the images and labels that
    `inputs` returns each time."""
    words = config.Optimizer(name=job.optimizer)  # pyright: ignore[reportArgumentType]
    state = State(model, optim.build(words, model), None)
    state.world, state.meters = replace(state.world, device=job.device), state.meters.to(job.device)
    state.replay = CudaGraphRunner(model) if compiled and job.device.type == "cuda" else None
    settings = config.Train(batch=job.batch, precision=job.precision, loss="softmax")  # pyright: ignore
    constant = Schedule("constant", lr=LEARNING_RATE, steps=1 << 60, warmup=0, cooldown=0)
    recipe = Recipe(constant, settings, 0.0, config.Guard(on=False), LOSSES["softmax"])
    return lambda: take_step(state, [inputs()], recipe)


def _peers(job: BenchJob, among: Sequence[str], missing: dict[str, str]) -> Iterator[Candidate]:
    for name, peer in BASELINES.items():
        for suffix in ("", COMPILED):
            if name + suffix not in among or name in missing:
                continue
            if suffix and out_of_time():
                missing[f"{name}{suffix}, {job.model} {job.precision} {job.work}"] = OUT_OF_TIME
                continue
            try:
                with torch.device(job.device):
                    model = peer.build(job.shape, job.case.image)
            except (ImportError, RuntimeError) as error:
                missing[name] = str(error).splitlines()[0]
                continue
            if suffix:
                _compile_peer(model, job)
            run = (_peer_step if job.work == "train" else _inference)(model, job)
            yield Candidate(name + suffix, run, job.flops(peer.class_token) * job.batch)


def _compile_peer(model: nn.Module, job: BenchJob) -> None:
    """Compile a baseline as a whole; on a GPU block by block, where it has blocks, so that deep models take
    seconds."""
    blocks = getattr(model, "blocks", None)
    if job.device.type == "cuda" and blocks is not None:
        for block in blocks:
            block.compile()
    else:
        model.compile()


def _peer_step(model: nn.Module, job: BenchJob) -> Callable[[], object]:
    """PyTorch's usual training step with its fastest optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.03, fused=True)
    images, labels = job.inputs()

    def step() -> Tensor:
        with autocast_for(job.precision, job.device):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _inference(model: nn.Module, job: BenchJob) -> Callable[[], object]:
    """Inference with weights and images in the precision: nothing is cast on the way."""
    dtype = DTYPES[job.precision]
    model.eval().to(dtype)
    images = job.inputs()[0].to(dtype)

    def run() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return run
