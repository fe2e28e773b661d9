"""Training loop and training step: accumulate gradients, clip, update, average, log, evaluate, save, stop.

It knows no particular model and no data. `State` is everything that decides the rest of a run: the same state
and the same batches give the same weights, bit for bit, whether or not the process died in between.
`take_step` is the only training step: benchmarks, parity and the memory dry run call it too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.artifacts import dcp
from scalevit.config.lr_schedule import Schedule, lr_at
from scalevit.config.result import RunFailed
from scalevit.config.run import Guard, Train
from scalevit.distributed.parallelize import Forward, gradient_sync
from scalevit.distributed.shards import local_tensor, read_local
from scalevit.distributed.watchdog import COMPUTING, READING, SAVING
from scalevit.distributed.world import SINGLE_PROCESS, World
from scalevit.kernels.cuda_graph import CudaGraphRunner
from scalevit.optim.weight_averaging import decay_at, update_average
from scalevit.train.loss_guard import check_loss, skip_offset, update_history
from scalevit.train.precision import autocast_for

#: Inputs and labels of one micro-batch, on the device.
MicroBatch = tuple[Tensor, Tensor]


@dataclass
class State:
    """Training state. average: running average of the weights by name, None when none is kept. step:
    optimizer steps done. meters: sums since the last log line: loss, gradient norm, steps. seconds: spent on
    training steps in all attempts; evaluation_seconds: on evaluation. forward: what is called in place of the
    model when processes share it. replay: what launches forward and backward as one, where a device wants
    that. history: losses that the guard compares with; skips: (step, batches) left out from that step on;
    rewinds: how often the run went back."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    world: World = SINGLE_PROCESS
    forward: Forward | None = None
    replay: CudaGraphRunner | None = None
    step: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    meters: Tensor = field(default_factory=lambda: torch.zeros(3))
    history: list[float] = field(default_factory=list)
    skips: list[tuple[int, int]] = field(default_factory=list)
    rewinds: int = 0

    @property
    def device(self) -> torch.device:
        return self.world.device


@dataclass(frozen=True)
class Recipe:
    """Training recipe: the constants of a step. loss: mean over a micro-batch of (outputs, labels), in fp32.
    clip: largest global gradient norm, 0 for no clipping. prepare: inputs as they travel to inputs as the
    model takes them."""

    schedule: Schedule
    train: Train
    clip: float
    guard: Guard
    loss: Callable[[Tensor, Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Callbacks:
    """What the loop calls. log: step and mean values since the last call. stop: gives a reason to stop, or
    None. after_step: after every step, with the state and the newest logged values. rewind: put the last good
    state back, for this reason."""

    log: Callable[[int, Mapping[str, float]], None] = _nothing
    save: Callable[[State], None] = _nothing
    evaluate: Callable[[State], None] = _nothing
    stop: Callable[[], str | None] = lambda: None
    after_step: Callable[[State, Mapping[str, float]], None] = _nothing
    rewind: Callable[[State, str], None] = _nothing


def train(
    state: State,
    batches: Callable[[int], Iterator[Sequence[MicroBatch]]],
    recipe: Recipe,
    callbacks: Callbacks,
) -> str | None:
    """Train from `state.step` to the schedule's end; gives the reason when stopped before. Raises RunFailed
    when the guard gives the run up.

    batches: gives the batches n, n + 1, … of the data as lists of micro-batches, from a given n on."""
    clock, stream = StepTimer(state), batch_stream(state, batches)
    stopped, last = None, -1
    while state.step < recipe.schedule.steps and stopped is None:
        state.world.mark_progress(state.step, READING)
        batch = clock.next_batch(stream)
        state.world.mark_progress(state.step, COMPUTING)
        wrong = take_step(state, batch, recipe)
        if wrong is not None:
            rewind(state, wrong, recipe.guard, callbacks)
            stream = batch_stream(state, batches)
            continue
        due = Due(state.step, recipe)
        clock.end_step(sum(len(labels) for _, labels in batch), wait=due.any)
        state.world.mark_progress(state.step, SAVING)
        if due.log:
            callbacks.log(state.step, clock.means(recipe))
        stopped = None if due.last else state.world.any_rank(callbacks.stop())
        if due.save or stopped:
            callbacks.save(state)
            last = state.step
        if due.evaluate:
            callbacks.evaluate(state)
        callbacks.after_step(state, clock.latest)
    assert stopped is None or last == state.step
    return stopped


@dataclass(frozen=True)
class Due:
    """What is due after `step` steps; after the last one, everything."""

    step: int
    recipe: Recipe

    @property
    def last(self) -> bool:
        return self.step >= self.recipe.schedule.steps

    def _every(self, steps: int) -> bool:
        return self.last or (steps > 0 and self.step % steps == 0)

    @property
    def log(self) -> bool:
        return self._every(self.recipe.train.log_every)

    @property
    def any(self) -> bool:
        """Whether work other than training follows this step."""
        return self.log or self.save or self.evaluate

    @property
    def save(self) -> bool:
        return self._every(self.recipe.train.save_every) or self.step in self.recipe.train.keep_at

    @property
    def evaluate(self) -> bool:
        """Not after the last step: `Session.finish` evaluates then, also after a crash in between."""
        return not self.last and self._every(self.recipe.train.eval_every)


def batch_stream(
    state: State, batches: Callable[[int], Iterator[Sequence[MicroBatch]]]
) -> Iterator[Sequence[MicroBatch]]:
    """The batches from the state's step on, without those that the guard skips."""
    step, number = state.step, -1
    stream: Iterator[Sequence[MicroBatch]] = iter(())
    while True:
        wanted = step + skip_offset(step, state.skips)
        if wanted != number:
            stream, number = batches(wanted), wanted
        yield next(stream)
        step, number = step + 1, number + 1


def rewind(state: State, wrong: str, guard: Guard, callbacks: Callbacks) -> None:
    """Rewind to the last good state and skip the batches up to the bad one. Raises RunFailed when the guard
    allows no further rewind."""
    failed, skips, rewinds = state.step, list(state.skips), state.rewinds + 1
    if rewinds > guard.rewinds:
        raise RunFailed(f"{wrong} at step {failed}, after {guard.rewinds} rewinds; try a lower schedule.lr")
    callbacks.rewind(state, f"{wrong} at step {failed}")
    first = max(state.step, failed - guard.skip + 1)
    state.skips, state.rewinds = [*skips, (first, failed - first + 1)], rewinds


# --------------------------------------------------------------------------- one step


def take_step(state: State, batch: Sequence[MicroBatch], recipe: Recipe) -> str | None:
    """One training step on a batch given as micro-batches: learning rate, gradients, clipping, loss guard,
    update, average. Gives None, or what is wrong with the step, which then changes nothing.

    The loss and the gradient norm before clipping are added to `state.meters`."""
    rate = lr_at(recipe.schedule, state.step)
    for group in state.optimizer.param_groups:
        set_lr(group, rate)
    loss = accumulate_gradients(state, batch, recipe)
    gradients = [local_tensor(p.grad) for p in state.model.parameters() if p.grad is not None]
    norm = clip_gradients(gradients, recipe.clip, state.world)
    wrong = check_step(state, loss, norm, recipe.guard)
    if wrong is None:
        state.optimizer.step()
    for parameter in state.model.parameters():  # zero_grad would import torch's compiler
        parameter.grad = None
    if wrong is not None:
        return wrong
    if state.average is not None:
        update_average(state.average, state.model, decay_at(recipe.train, state.step + 1))
    state.meters += torch.stack([loss, norm, torch.ones_like(loss)])
    state.step += 1
    return None


def check_step(state: State, loss: Tensor, norm: Tensor, guard: Guard) -> str | None:
    """What the guard finds wrong with this step, the same on all processes; waits for the device unless the
    guard is off."""
    if not guard.on:
        return None
    state.world.all_reduce_mean(loss)
    loss_value, norm_value = torch.stack([loss, norm]).tolist()
    wrong = check_loss(loss_value, norm_value, state.history, guard)
    if wrong is None:
        update_history(state.history, loss_value, guard)
    return wrong


def set_lr(group: dict[str, Any], rate: float) -> None:
    """Set a parameter group's learning rate, scaled by the group's own factor where it has one."""
    rate *= group.get("lr_scale", 1.0)
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def accumulate_gradients(state: State, batch: Sequence[MicroBatch], recipe: Recipe) -> Float[Tensor, ""]:
    """Gradients of the mean loss over all micro-batches; gives that loss, still on the device."""
    images = sum(len(labels) for _, labels in batch)
    total = torch.zeros((), device=state.device)
    forward = state.forward or state.model

    def compute(inputs: Tensor, labels: Tensor, share: float) -> Tensor:
        with autocast_for(recipe.train.precision, state.device):
            outputs = forward(recipe.prepare(inputs))
            loss = recipe.loss(outputs, labels) * share
        loss.backward()
        return loss.detach()

    for index, (inputs, labels) in enumerate(batch):
        share = len(labels) / images
        with gradient_sync(forward, last=index == len(batch) - 1):
            if state.replay is None:
                total += compute(inputs, labels, share)
            else:
                total += state.replay(compute, inputs, labels, share, first=index == 0)
    return total


def clip_gradients(gradients: list[Tensor], limit: float, world: World = SINGLE_PROCESS) -> Float[Tensor, ""]:
    """Scale all gradients to a global norm of at most `limit`; gives the norm before. 0: no limit."""
    norm = world.global_norm(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
    if limit:
        torch._foreach_mul_(gradients, (limit / norm).clamp(max=1.0))
    return norm


# --------------------------------------------------------------------------- time


class StepTimer:
    """Time of training steps alone, without logging, evaluation and saving; and means since the last log
    line. Reads values of the device only when a line is due."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.began = time.perf_counter()
        self.waited, self.spent, self.images = 0.0, 0.0, 0
        self.latest: Mapping[str, float] = {}

    def next_batch(self, stream: Iterator[Sequence[MicroBatch]]) -> Sequence[MicroBatch]:
        """The next batch; the step's time begins here."""
        self.began = time.perf_counter()
        batch = next(stream)
        self.waited += time.perf_counter() - self.began
        return batch

    def end_step(self, images: int, wait: bool) -> None:
        """The step's time ends; `wait` for the device, so that no later work is charged with this step's."""
        if wait and self.state.device.type == "cuda":
            torch.cuda.synchronize(self.state.device)
        seconds = time.perf_counter() - self.began
        self.state.seconds += seconds
        self.spent += seconds
        self.images += images

    def means(self, recipe: Recipe) -> Mapping[str, float]:
        """Means since the last call: loss, grad_norm, images_per_second, and stall, the share of the time
        spent waiting for data; lr is that of the last step."""
        loss, norm, steps = self.state.world.all_reduce_mean(self.state.meters).tolist()
        spent = max(1e-9, self.spent)
        self.latest = {
            "loss": loss / steps,
            "grad_norm": norm / steps,
            "lr": lr_at(recipe.schedule, self.state.step - 1),
            "images_per_second": self.images * self.state.world.size / spent,
            "stall": self.waited / spent,
        }
        self.state.meters.zero_()
        self.waited, self.spent, self.images = 0.0, 0.0, 0
        return self.latest


# --------------------------------------------------------------------------- in and out of a checkpoint


def checkpoint_shards(state: State) -> list[dcp.Shard]:
    """Checkpoint shards: what this process writes of the tensors of the state."""
    state.world.all_reduce_mean(state.meters)
    return state.world.local_shards(state_tensors(state))


def state_tensors(state: State) -> dict[str, Tensor]:
    """The tensors of the state by name: model, average, optimizer, meters."""
    out = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    out |= {f"average.{name}": value for name, value in (state.average or {}).items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            out[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    return out | {"meters": state.meters}


def scalar_state(state: State) -> dict[str, Any]:
    """The part of the state that is not tensors, as JSON."""
    return {
        "step": state.step, "seconds": state.seconds, "history": state.history, "skips": state.skips,
        "rewinds": state.rewinds, "world": state.world.size, "evaluation_seconds": state.evaluation_seconds,
    }  # fmt: skip


def restore(state: State, reader: dcp.ShardReader, scalars: Mapping[str, Any]) -> None:
    """Restore a checkpoint into a state, whatever the number of processes that wrote it.

    Raises ValueError when a tensor is missing, left over, or of another shape."""
    ours = {name: value for name, value in state_tensors(state).items() if not name.startswith("optimizer.")}
    saved = {name for name in reader.locations if not name.startswith("optimizer.")}
    odd = sorted(ours.keys() ^ saved)
    odd += [name for name in ours.keys() & saved if reader.size(name) != tuple(ours[name].shape)]
    if odd:
        raise ValueError(f"{reader.folder} is a checkpoint of something else: {', '.join(odd[:4])} differ")
    with torch.no_grad():
        for name, value in ours.items():
            read_local(value, reader, name)
        _restore_optimizer(state, reader)
    state.step, state.seconds, state.rewinds = scalars["step"], scalars["seconds"], scalars["rewinds"]
    state.evaluation_seconds = scalars.get("evaluation_seconds", 0.0)
    state.history, state.skips = list(scalars["history"]), [(a, b) for a, b in scalars["skips"]]


def _restore_optimizer(state: State, reader: dcp.ShardReader) -> None:
    """Optimizers build their state in the first step. What has the shape of its parameter is shared among
    processes as the parameter is; the rest is small and whole everywhere."""
    parameters = dict(state.model.named_parameters())
    state.optimizer.state.clear()
    for full in (name for name in reader.locations if name.startswith("optimizer.")):
        name, _, key = full.removeprefix("optimizer.").rpartition(".")
        parameter = parameters[name]
        if key != "step" and reader.size(full) == tuple(parameter.shape):
            value = torch.empty_like(parameter, dtype=reader.dtype(full), requires_grad=False)
            read_local(value, reader, full)
        else:
            value = reader.read_tensor(full)
            value = value if key == "step" else value.to(state.device)
        state.optimizer.state[parameter][key] = value
