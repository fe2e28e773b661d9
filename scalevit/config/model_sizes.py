"""Named Vision Transformers and exact counts of any shape: parameters, FLOPs, bytes.

Letters and sizes are those of the paper's Table 2 (arXiv 2106.04560) and of the authors' code. Case matters:
`g/14` is not `G/14`, and `s/16` is not `S/16`. One list of tensors answers every question, so the counts
cannot disagree with each other.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

#            width  depth   mlp  heads
LETTERS: dict[str, tuple[int, int, int, int]] = {
    "mu": (32, 1, 128, 2),
    "s": (256, 6, 1024, 8),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}

#: The eleven models of the paper's Table 2, smallest compute first.
PAPER = ("s/28", "s/16", "S/32", "Ti/16", "B/32", "S/16", "B/28", "B/16", "L/16", "g/14", "G/14")

POOLS = ("map", "gap", "token")

#: Smaller of the two largest axes below which Adafactor keeps a full second moment (paper.md §2; optax).
FACTOR_FROM = 32

Named = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    """Width, depth, MLP width and heads of a ViT, and the side of its square patches in pixels."""

    width: int
    depth: int
    mlp: int
    heads: int
    patch: int

    def tokens(self, image: int = 224, pool: str | None = None) -> int:
        """Tokens that the blocks see; a class token is one more."""
        return (image // self.patch) ** 2 + (pool == "token")

    def tensors(self, image: int = 224, pool: str | None = None, classes: int = 0) -> Iterator[Named]:
        """Every parameter as the reference holds it: (name, shape)."""
        d = self.width
        yield "patch.kernel", (self.patch, self.patch, 3, d)
        yield "patch.bias", (d,)
        yield "positions", (1, (image // self.patch) ** 2, d)
        for _ in range(self.depth):
            yield from self._norm()
            yield from self._attention()
            yield from self._norm()
            yield from self._mlp()
        yield from self._norm()
        if pool == "token":
            yield "cls", (1, 1, d)
        if pool == "map":
            yield "probe", (1, 1, d)
            yield from self._attention()
            yield from self._norm()
            yield from self._mlp()
        if classes:
            yield "head.kernel", (d, classes)
            yield "head.bias", (classes,)

    def _norm(self) -> Iterator[Named]:
        yield "norm.scale", (self.width,)
        yield "norm.bias", (self.width,)

    def _attention(self) -> Iterator[Named]:
        d, h, hd = self.width, self.heads, self.width // self.heads
        for name in ("query", "key", "value"):
            yield f"{name}.kernel", (d, h, hd)
            yield f"{name}.bias", (h, hd)
        yield "out.kernel", (h, hd, d)
        yield "out.bias", (d,)

    def _mlp(self) -> Iterator[Named]:
        yield "fc1.kernel", (self.width, self.mlp)
        yield "fc1.bias", (self.mlp,)
        yield "fc2.kernel", (self.mlp, self.width)
        yield "fc2.bias", (self.width,)

    def parameters(self, image: int = 224, pool: str | None = None, classes: int = 0) -> int:
        """Exact number of parameters. Without pool and classes this is the trunk that the paper's Table 2
        prints ("Mio. Param"); `pool="map"` adds the attention pooling head, `classes` the classifier."""
        return _parameters(self, image, pool, classes)

    def flops_by_part(self, image: int = 224, pool: str | None = None, classes: int = 0) -> dict[str, float]:
        """Forward FLOPs of one image by part, a multiply-add counted as 2; norms, softmax, GELU left out."""
        d, m, n, patches = self.width, self.mlp, self.tokens(image, pool), (image // self.patch) ** 2
        parts = {
            "patches": 2.0 * patches * 3 * self.patch**2 * d,
            "projections": self.depth * 2.0 * n * 4 * d * d,
            "attention": self.depth * 4.0 * n * n * d,
            "mlp": self.depth * 2.0 * n * 2 * d * m,
        }
        if pool == "map":
            parts["pool"] = 2.0 * n * 2 * d * d + 4.0 * n * d + 2.0 * 2 * d * d + 2.0 * 2 * d * m
        if classes:
            parts["head"] = 2.0 * d * classes
        return parts

    def flops(self, image: int = 224, pool: str | None = None, classes: int = 0) -> float:
        """Forward FLOPs of one image (multiply-add = 2). A training step costs three times as much."""
        return sum(self.flops_by_part(image, pool, classes).values())

    def optimizer_bytes(
        self, optimizer: str, image: int = 224, pool: str | None = None, classes: int = 0, momentum: int = 2
    ) -> int:
        """Bytes of optimizer state: first moments of `momentum` bytes each (bf16); Adafactor's second moment
        is factored where the reference factors it (paper §3.4 and App. B)."""
        return _optimizer_bytes(self, optimizer, image, pool, classes, momentum)

    def activation_bytes(self, image: int = 224, pool: str | None = None, itemsize: int = 2) -> int:
        """Bytes that one image's forward pass keeps for the backward pass: per token and block the two
        norms' inputs and outputs, query, key, value, the attention's output, and the MLP before and after
        GELU; attention weights are not kept (fused attention)."""
        per_token = 8 * self.width + 2 * self.mlp
        return itemsize * self.tokens(image, pool) * (self.depth * per_token + 2 * self.width)


@cache
def _parameters(of: Shape, image: int, pool: str | None, classes: int) -> int:
    return sum(math.prod(shape) for _, shape in of.tensors(image, pool, classes))


@cache
def _optimizer_bytes(
    of: Shape, optimizer: str, image: int, pool: str | None, classes: int, momentum: int
) -> int:
    tensors = [shape for _, shape in of.tensors(image, pool, classes)]
    return sum(momentum * math.prod(shape) + SECOND_MOMENT[optimizer](shape) for shape in tensors)


def factored(shape: tuple[int, ...]) -> bool:
    """Whether Adafactor factors a reference tensor: both of its two largest axes reach `FACTOR_FROM`."""
    return len(shape) >= 2 and sorted(shape)[-2] >= FACTOR_FROM


def _factored_bytes(shape: tuple[int, ...]) -> int:
    if not factored(shape):
        return 4 * math.prod(shape)
    small, large = sorted(shape)[-2:]
    return 4 * math.prod(shape) // large + 4 * math.prod(shape) // small


SECOND_MOMENT = {
    "adafactor": _factored_bytes,
    "adam": lambda shape: 4 * math.prod(shape),
    "sgd": lambda shape: 0,
}


def shape(name: str, **changes: int) -> Shape:
    """The shape called `name`, e.g. "G/14" or "B/8"; `changes` replace single dimensions, e.g. depth=6.

    Raises ValueError with the nearest names for an unknown letter or a patch that is no number."""
    letter, _, patch = name.removeprefix("ViT-").partition("/")
    if letter not in LETTERS or not patch.isdigit() or int(patch) == 0:
        raise ValueError(f"unknown shape {name!r}: {_nearest(letter)}")
    return replace(Shape(*LETTERS[letter], patch=int(patch)), **changes)


def _nearest(letter: str) -> str:
    if letter in LETTERS:
        return f"say the patch size too, e.g. {letter}/16"
    same = [known for known in LETTERS if known.lower() == letter.lower()]
    close = same or difflib.get_close_matches(letter, LETTERS, n=3, cutoff=0.4) or list(LETTERS)
    return f"letters are case-sensitive; nearest: {', '.join(f'{known}/16' for known in close)}"
