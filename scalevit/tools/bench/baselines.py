"""Baselines: the same Vision Transformer from other libraries, of given width, depth, heads, image and
classes.

Every baseline is taken in the variant that is nearest to ours and fastest: without class token where it can
do without, exact GELU where that is its default, its own weights and its own attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from scalevit.config.model_sizes import Shape
from scalevit.model.formats.torchvision_shim import import_despite_torchvision

CLASSES = 1000


@dataclass(frozen=True)
class Baseline:
    """A peer library's model. build: from a shape and the images' side in pixels. class_token: one token more
    than ours."""

    build: Callable[[Shape, int], nn.Module]
    class_token: bool = False


def _timm(shape: Shape, image: int) -> nn.Module:
    made = import_despite_torchvision("timm.models.vision_transformer").VisionTransformer
    return made(
        img_size=image, patch_size=shape.patch, embed_dim=shape.width, depth=shape.depth,
        num_heads=shape.heads, mlp_ratio=shape.mlp / shape.width, num_classes=CLASSES, class_token=False,
        global_pool="avg",
    )  # fmt: skip


def _simple(shape: Shape, image: int) -> nn.Module:
    made = import_despite_torchvision("vit_pytorch.simple_vit").SimpleViT
    return made(
        image_size=image, patch_size=shape.patch, dim=shape.width, depth=shape.depth, heads=shape.heads,
        mlp_dim=shape.mlp, dim_head=shape.width // shape.heads, num_classes=CLASSES,
    )  # fmt: skip


class _Logits(nn.Module):
    """Logits of a transformers model, whose forward pass returns an object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def _transformers(shape: Shape, image: int) -> nn.Module:
    library = import_despite_torchvision("transformers")
    config = library.ViTConfig(
        hidden_size=shape.width, num_hidden_layers=shape.depth, num_attention_heads=shape.heads,
        intermediate_size=shape.mlp, image_size=image, patch_size=shape.patch, num_labels=CLASSES,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return _Logits(library.ViTForImageClassification(config))


BASELINES = {
    "timm": Baseline(_timm),
    "vit-pytorch SimpleViT": Baseline(_simple),
    "transformers": Baseline(_transformers, class_token=True),
}
