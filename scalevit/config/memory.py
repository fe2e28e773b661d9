"""What a training step keeps in one device's memory, counted from the shape as our model and loop keep it.

Per token, with d the width, m the MLP's and i the bytes of a number as the precision computes it: the stream
between blocks, which norms read, is fp32; what matrix products read is kept in the precision. The allocator's
rounding and the workspaces inside of operations are not in it (`plan.RESERVED`). scalevit bench memory
compares with bytes counted while real steps run, `scalevit plan --rehearse` with those of a pretended step on
many devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from scalevit.config.model_sizes import Shape
from scalevit.config.run import Run

GIB = 2**30
FP32 = 4
#: Elements whose updates an accelerator works out at once, where an optimizer treats parameters alike.
CHUNK_SIZE = 1 << 26
KINDS = (
    "weights", "gradients", "optimizer", "averages", "copies", "gathered", "inputs", "activations", "loss",
    "workspace",
)  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """GiB on one device by kind, at the fullest moment of a step with `micro_batch` images at once.

    averages: running averages of the weights. copies: weights in the precision that computes. gathered:
    weights and gradients that belong to other devices. inputs: the device's share of the batch. loss: logits,
    and what the loss keeps. workspace: what the backward pass or the optimizer needs besides. moment: which
    one it is. shards: devices that share one copy of the weights."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    averages: float = 0.0
    copies: float = 0.0
    gathered: float = 0.0
    inputs: float = 0.0
    activations: float = 0.0
    loss: float = 0.0
    workspace: float = 0.0
    moment: str = ""
    micro_batch: int = 1
    shards: int = 1

    @property
    def total(self) -> float:
        return math.fsum(getattr(self, kind) for kind in KINDS)


def shard_count(run: Run, devices: int) -> int:
    """Devices that share one copy of the weights."""
    return {"ddp": 1, "fsdp": devices, "hybrid": run.parallel.shard or 1}[run.parallel.strategy]


def optimizer_bytes(run: Run, resolved: Shape) -> int:
    """What the optimizer of `run` keeps of all parameters."""
    model, momentum = run.model, {"bf16": 2, "fp32": FP32}[run.optimizer.momentum]
    return resolved.optimizer_bytes(run.optimizer.name, model.image, model.pool, model.classes, momentum)


def step_memory(run: Run, resolved: Shape, micro_batch: int, devices: int) -> Memory:
    """The fullest moment of a step of `run` on one of `devices` devices, `micro_batch` images at once."""
    counted = _StepBytes(run, resolved, micro_batch, devices)
    moments = [moment for moment in MOMENTS if counted.shards > 1 or moment is not _last_block_scatters]
    fullest = max((moment(counted) for moment in moments), key=lambda memory: memory.total)
    sizes = {kind: getattr(fullest, kind) / GIB for kind in KINDS}
    return replace(fullest, **sizes, micro_batch=micro_batch, shards=shard_count(run, devices))


#: Share of the free memory that a step may take by this count: rounding and workspaces are not in it.
USABLE_SHARE = 0.9


def micro_batch_that_fits(run: Run, devices: int, room: float) -> int:
    """The largest divisor of a device's share of the batch whose step takes at most `USABLE_SHARE` of `room`
    GiB on each of `devices` devices; 0 when not even one image at a time fits."""
    share, shape = max(1, run.train.batch // devices), run.model.resolve()
    sizes = [size for size in range(share, 0, -1) if share % size == 0] if share <= 2**20 else [share, 1]
    usable = USABLE_SHARE * room
    return next((n for n in sizes if step_memory(run, shape, n, devices).total <= usable), 0)


@dataclass(frozen=True)
class _StepBytes:
    """Bytes of what the moments are made of, on one of `devices` devices with `images` at once."""

    run: Run
    shape: Shape
    images: int
    devices: int

    @property
    def size(self) -> tuple[int, str, int]:
        return self.run.model.image, self.run.model.pool, self.run.model.classes

    @property
    def itemsize(self) -> int:
        return FP32 if self.run.train.precision == "fp32" else 2  # of fp8, what is kept in bf16 is most

    @cached_property
    def shards(self) -> int:
        return shard_count(self.run, self.devices)

    @property
    def share(self) -> int:
        return max(1, self.run.train.batch // self.devices)

    @cached_property
    def tokens(self) -> int:
        return self.images * (self.shape.tokens(*self.size[:2]) + self.run.model.registers)

    # ------------------------------------------------------------------ numbers

    @cached_property
    def numbers(self) -> int:
        return count_parameters(self.run, self.shape)["total"]

    @cached_property
    def block(self) -> int:
        """Numbers of one block."""
        below = replace(self.shape, depth=self.shape.depth - 1)
        return self.shape.parameters(self.run.model.image) - below.parameters(self.run.model.image)

    @cached_property
    def top(self) -> int:
        """Numbers whose gradients come before the last block's: the head's, and the pool's."""
        return self.shape.parameters(*self.size) - self.shape.parameters(self.run.model.image)

    @cached_property
    def updated(self) -> float:
        """Numbers on this device whose updates are worked out together: Adafactor's of one parameter, the
        others' of one group, which is either the head's matrix or as good as all the rest."""
        if self.run.optimizer.name == "adafactor":
            one_block = replace(self.shape, depth=1)
            return max(math.prod(shape) for _, shape in one_block.tensors(*self.size)) / self.shards
        head = self.shape.width * self.run.model.classes
        return min(CHUNK_SIZE, max(head, self.numbers - head) / self.shards)

    # ------------------------------------------------------------------ bytes

    @cached_property
    def always(self) -> Memory:
        """What is there at every moment."""
        positions = self.run.model.positions == "sincos2d"
        buffers = self.shape.tokens(self.run.model.image) * self.shape.width * positions
        return Memory(
            weights=FP32 * (self.numbers + buffers) / self.shards,
            optimizer=optimizer_bytes(self.run, self.shape) / self.shards,
            averages=FP32 * self.numbers / self.shards * self.run.train.averages,
            inputs=self.share * (3 * self.run.model.image**2 + 8),
        )

    @cached_property
    def lasting(self) -> bool:
        """Whether all gradients are whole and there at every moment: DDP's buckets, and sums over
        micro-batches."""
        return self.share > self.images or (self.devices > 1 and self.shards == 1)

    def gradients(self, numbers: int) -> float:
        """Those of so many numbers, which stay."""
        return FP32 * (self.numbers if self.lasting and self.shards == 1 else numbers) / self.shards

    def copies(self, blocks: int, top: bool) -> float:
        """Autocast's, kept for the backward pass: of blocks, of the patches, and of pool and head."""
        if self.itemsize == FP32:
            return 0
        matrices = blocks * self.block + self.top * top + 3 * self.shape.patch**2 * self.shape.width
        return self.itemsize * matrices

    def kept(self) -> float:
        """What the forward pass keeps of patches and blocks."""
        patches = self.images * 3 * self.run.model.image**2 * self.itemsize
        per_token = self.shape.depth * SAVED_FOR_BACKWARD[self.run.parallel.recompute](
            self.shape, self.itemsize
        )
        return self.tokens * per_token + patches

    def pooled(self) -> float:
        """What it keeps of the last norm and of the pooling."""
        several = 3 * self.itemsize if self.run.model.pool == "map" else 0
        return self.tokens * self.shape.width * (FP32 + several)

    def one_block(self) -> float:
        """What a block keeps that is not recomputed, or has just been."""
        return self.tokens * _whole(self.shape, self.itemsize)

    def fresh(self, numbers: int) -> float:
        """A matrix's gradient in the precision that computes, and in fp32 where it will be added to
        another."""
        narrow = self.itemsize if self.itemsize < FP32 else 0
        return (narrow + FP32 * self.lasting) * numbers

    def in_a_block(self) -> float:
        """What the backward pass needs at the widest place of a block: gradients of the stream and of the
        MLP's inside, and the one of its second matrix."""
        d, m, i = self.shape.width, self.shape.mlp, self.itemsize
        stream = FP32 * d + (i < FP32) * i * d
        return self.tokens * (stream + i * m) + self.fresh(d * m)

    def gathered(self, blocks: int, gradients: int) -> float:
        """Where weights are sharded: those of so many blocks and of all that is outside of blocks, and so
        many gradients that are not scattered yet; over several micro-batches FSDP2 keeps all of them."""
        if self.shards == 1:
            return 0
        whole = self.numbers if self.lasting else gradients
        return FP32 * (self._padded_outside() + blocks * self._padded_block() + whole)

    def _padded(self, rows: int, numbers: int) -> int:
        """Numbers of a parameter once FSDP2 has given every device equally many rows."""
        return math.ceil(rows / self.shards) * self.shards * (numbers // rows)

    def _padded_block(self) -> int:
        d, m = self.shape.width, self.shape.mlp
        matrices = ((3 * d, d + 1), (d, d + 1), (m, d + 1), (d, m + 1), (d, 4))
        return sum(self._padded(rows, rows * rest) for rows, rest in matrices)

    def _padded_outside(self) -> int:
        """Positions and the pool's query are one row each, of which FSDP2 makes one for each device."""
        d, model = self.shape.width, self.run.model
        single = (model.positions == "learned") * self.shape.tokens(model.image) * d
        single += (model.pool != "gap") * d + model.registers * d
        outside = self.numbers - self.shape.depth * self.block
        return self._padded(d, outside - single) + single * self.shards


# --------------------------------------------------------------------------- moments


def _last_block_goes(of: _StepBytes) -> Memory:
    """The forward pass is inside of the last block, behind its GELU; the images as floats are not let go yet,
    and weights of two blocks are here where they are sharded."""
    d, m, i = of.shape.width, of.shape.mlp, of.itemsize
    own, pixels = SAVED_FOR_BACKWARD[of.run.parallel.recompute](of.shape, i) - FP32 * d, of.run.model.image**2
    return replace(
        of.always, moment="the forward pass ends", gradients=of.gradients(0), activations=of.kept(),
        copies=of.copies(of.shape.depth, False), gathered=of.gathered(2, 0),
        workspace=of.tokens * max(0, FP32 * d + 2 * i * m - own) + of.images * 3 * FP32 * pixels,
    )  # fmt: skip


def _forward_ends(of: _StepBytes) -> Memory:
    """All activations, all copies, and the loss."""
    wide = of.itemsize < FP32
    loss = of.images * of.run.model.classes * (2 * FP32 + of.itemsize + wide * FP32)
    return replace(
        of.always, moment="the forward pass ends", gradients=of.gradients(0),
        activations=of.kept() + of.pooled(), loss=loss, copies=of.copies(of.shape.depth, True),
        gathered=of.gathered(1, 0),
    )  # fmt: skip


def _head_returns(of: _StepBytes) -> Memory:
    """The backward pass is at the head: all activations, and the gradient of one large matrix."""
    head = of.shape.width * of.run.model.classes
    alive = of.shape.depth if of.run.parallel.recompute == "none" else 0
    return replace(
        of.always, moment="the backward pass begins", gradients=of.gradients(0 if of.shards > 1 else head),
        activations=of.kept() + of.pooled(),
        copies=of.copies(alive, True) - (of.itemsize < FP32) * of.itemsize * head,
        gathered=of.gathered(0, head), workspace=of.fresh(head),
    )  # fmt: skip


def _pool_returns(of: _StepBytes) -> Memory:
    """It is at the pooling: all activations, and gradients of what was pooled."""
    mapped, top = of.run.model.pool == "map", of.top
    alive = of.shape.depth if of.run.parallel.recompute == "none" else 0
    return replace(
        of.always, moment="the backward pass begins", gradients=of.gradients(0 if of.shards > 1 else top),
        activations=of.kept() + of.pooled(), copies=of.copies(alive, False), gathered=of.gathered(1, top),
        workspace=of.tokens * of.shape.width * (2 * of.itemsize if mapped else 2 * FP32),
    )  # fmt: skip


def _last_block_returns(of: _StepBytes) -> Memory:
    """It is at the last block, which has perhaps been computed again."""
    own = of.tokens * SAVED_FOR_BACKWARD[of.run.parallel.recompute](of.shape, of.itemsize)
    alive = of.shape.depth if of.run.parallel.recompute == "none" else 1
    done = of.top + of.shape.width * of.shape.mlp
    return replace(
        of.always, moment="the backward pass begins", gradients=of.gradients(0 if of.shards > 1 else done),
        activations=of.kept() - own + of.one_block(), copies=of.copies(alive, False),
        gathered=of.gathered(2, done), workspace=of.in_a_block(),
    )  # fmt: skip


def _last_block_scatters(of: _StepBytes) -> Memory:
    """It has passed the last block, whose gradients are here twice until they are sent; only where
    sharded."""
    own = of.tokens * SAVED_FOR_BACKWARD[of.run.parallel.recompute](of.shape, of.itemsize)
    alive = of.shape.depth - 1 if of.run.parallel.recompute == "none" else 1
    return replace(
        of.always, moment="gradients are sent", activations=of.kept() - own, copies=of.copies(alive, False),
        gradients=of.gradients(of.block), gathered=of.gathered(3, of.top + of.block),
        workspace=FP32 * of.tokens * of.shape.width,
    )  # fmt: skip


def _first_block_returns(of: _StepBytes) -> Memory:
    """It is at the first block, and all other gradients are there."""
    patches = of.images * 3 * of.run.model.image**2 * of.itemsize
    return replace(
        of.always, moment="the backward pass ends", gradients=of.gradients(of.numbers - of.block // 2),
        activations=of.one_block() + patches, copies=of.copies(1, False),
        gathered=of.gathered(2, of.top + of.block // 2), workspace=of.in_a_block(),
    )  # fmt: skip


def _weights_move(of: _StepBytes) -> Memory:
    """The most that is updated at once, for which every optimizer takes fp32 memory."""
    gradients, room = of.gradients(of.numbers), FP32 * of.updated
    return replace(of.always, moment="the weights are updated", gradients=gradients, workspace=room)


MOMENTS: tuple[Callable[[_StepBytes], Memory], ...] = (
    _last_block_goes, _forward_ends, _head_returns, _pool_returns, _last_block_returns, _last_block_scatters,
    _first_block_returns, _weights_move,
)  # fmt: skip


# --------------------------------------------------------------------------- what blocks keep


def _whole(shape: Shape, i: int) -> int:
    """Two norms' inputs and outputs; query, key, value, the attention's output and normaliser; the MLP before
    and behind GELU."""
    return 2 * FP32 * shape.width + i * (6 * shape.width + 2 * shape.mlp) + FP32 * (shape.heads + 4)


def _products(shape: Shape, i: int) -> int:
    """The block's input, and what matrix products and the attention give."""
    return FP32 * shape.width + i * (6 * shape.width + shape.mlp) + FP32 * shape.heads


#: Bytes a token that a block keeps for its backward pass, by what is recomputed.
SAVED_FOR_BACKWARD: dict[str, Callable[[Shape, int], int]] = {
    "none": _whole,
    "selective": _products,
    "full": lambda shape, i: FP32 * shape.width,
}


def count_parameters(run: Run, resolved: Shape) -> dict[str, int]:
    """Exact counts: the trunk as the paper's Table 2 has it, with the pool, and with everything."""
    model = run.model
    trunk = resolved.parameters(model.image)
    pooled = resolved.parameters(model.image, model.pool)
    head = resolved.parameters(model.image, model.pool, model.classes) - pooled
    extras = model.registers * resolved.width
    extras += model.qk_norm * resolved.depth * 4 * (resolved.width // resolved.heads)
    extras += model.pre_logits * (resolved.width + 1) * resolved.width
    extras -= (model.positions == "sincos2d") * resolved.tokens(model.image) * resolved.width
    return {"trunk": trunk, f"with_{model.pool}": pooled, "head": head, "total": pooled + head + extras}
