"""The Vision Transformer: its network, losses, weights in and out."""

from scalevit.model.vit import ViT

__all__ = ["ViT"]
