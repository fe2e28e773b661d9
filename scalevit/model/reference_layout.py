"""How a parameter of ours holds tensors of the reference (big_vision's flax layout).

Our attention keeps query, key and value in one matrix, as timm does; the reference keeps three kernels of
shape (width, heads, head_dim). Adafactor's statistics, and weights that move in and out, depend on the
reference's shapes, so every layer declares its views (`ViT.views`) and nobody else guesses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ReferenceLayout:
    """`parts` reference tensors stacked along our first dimension.

    split: our shape with that dimension divided, without the leading `parts`, e.g. (heads, head_dim, width).
    axes: where each axis of the reference is found in `split`, e.g. (2, 0, 1) for (width, heads, head_dim).
    """

    parts: int
    split: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one reference tensor."""
        return tuple(self.split[axis] for axis in self.axes)

    def of(self, ours: Tensor) -> Tensor:
        """Our tensor as (parts, *shape); shares its memory."""
        return ours.view(self.parts, *self.split).permute(0, *(axis + 1 for axis in self.axes))

    def from_reference(self, reference: Tensor) -> Tensor:
        """The inverse of `of`, as (parts * split[0], *split[1:]); reshape it to the parameter."""
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        split = reference.permute(0, *(axis + 1 for axis in order))
        return split.reshape(self.parts * self.split[0], *self.split[1:])


def same_layout(shape: tuple[int, ...]) -> ReferenceLayout:
    """A parameter that the reference holds in the same layout (norms, biases, positions)."""
    return ReferenceLayout(1, tuple(shape), tuple(range(len(shape))))


def transposed_layout(outputs: int, inputs: int) -> ReferenceLayout:
    """A linear layer: ours (out, in), the reference's kernel (in, out)."""
    return ReferenceLayout(1, (outputs, inputs), (1, 0))
