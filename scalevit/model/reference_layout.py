"""Reference layout: how each parameter stores tensors of the reference code (big_vision's flax layout).

Attention keeps query, key and value in one matrix, as timm does; the reference keeps three kernels of shape
(width, heads, head_dim). Adafactor's statistics and the conversion of weights depend on the reference's
shapes, so every layer states the layout of its parameters (`ViT.reference_layouts`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ReferenceLayout:
    """Layout of one parameter: `parts` reference tensors stacked along its first dimension.

    split: the parameter's shape with that dimension divided, without the leading `parts`, e.g. (heads,
    head_dim, width). axes: the position in `split` of each axis of the reference, e.g. (2, 0, 1) for (width,
    heads, head_dim).
    """

    parts: int
    split: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one reference tensor."""
        return tuple(self.split[axis] for axis in self.axes)

    def to_reference(self, ours: Tensor) -> Tensor:
        """The parameter as reference tensors (parts, *shape); shares its memory."""
        return ours.view(self.parts, *self.split).permute(0, *(axis + 1 for axis in self.axes))

    def from_reference(self, reference: Tensor) -> Tensor:
        """The inverse of `to_reference`: (parts * split[0], *split[1:]), to be reshaped to the parameter's
        shape."""
        order = sorted(range(len(self.axes)), key=self.axes.__getitem__)
        split = reference.permute(0, *(axis + 1 for axis in order))
        return split.reshape(self.parts * self.split[0], *self.split[1:])


def same_layout(shape: tuple[int, ...]) -> ReferenceLayout:
    """Layout of a parameter that the reference stores unchanged (norms, biases, positions)."""
    return ReferenceLayout(1, tuple(shape), tuple(range(len(shape))))


def transposed_layout(outputs: int, inputs: int) -> ReferenceLayout:
    """Layout of a linear layer: here (out, in), in the reference (in, out)."""
    return ReferenceLayout(1, (outputs, inputs), (1, 0))
