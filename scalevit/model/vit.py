"""Vision Transformer (ViT) of the paper: patch embedding, pre-norm blocks, MAP / GAP / token pooling, a
linear head.

Numbers follow the authors' code (tanh GELU, LayerNorm epsilon 1e-6, positions added before extra tokens);
names and layouts of parameters are timm's, so weights move between the two without a mapping.

Shapes: b images · n tokens (prefix tokens, that is class token and registers, come first) · d width · m width
of the MLP · h heads · e = d / h · p side of a patch · c classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.config.run import Model, Preprocessing
from scalevit.kernels.linear import Linear
from scalevit.model.attention import Block
from scalevit.model.attention_pool import AttentionPool
from scalevit.model.initialisation import ParameterSpec, constant, generator_for, normal, sincos2d, zeros
from scalevit.model.layers import LayerNorm, PatchEmbed, PreLogits
from scalevit.model.reference_layout import ReferenceLayout, same_layout, transposed_layout


class ViT(nn.Module):
    """Vision Transformer that `config` describes, initialised from `seed`.

    device: where its parameters live, "meta" for a model without memory; materialise that with `to_empty`
    and `init_weights`. `forward` takes float images, NCHW, scaled as `preprocessing` says ([-1, 1] unless the
    weights came from elsewhere), and gives logits, whose names are `class_names`, where they have any. Raises
    ValueError for a shape that cannot be."""

    preprocessing = Preprocessing()
    class_names: tuple[str, ...] = ()

    def __init__(self, config: Model, *, device: torch.device | str | None = None, seed: int = 0) -> None:
        super().__init__()
        _require_buildable(config)
        self.config = config
        with torch.device("meta"):
            self._build(config)
        if torch.device(device or "cpu").type != "meta":
            # to_empty would do it too, through a part of torch that costs every process most of a second
            self._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device or "cpu"))
            self.init_weights(seed)

    def _build(self, config: Model) -> None:
        s = config.resolve()
        norm = partial(LayerNorm, s.width, eps=config.norm_eps)
        self.has_class_token = config.class_token or config.pool in ("token", "token_gap", "distilled")
        self.prefix = int(self.has_class_token) + config.registers
        self.patch_embed = PatchEmbed(s.patch, s.width, bias=not config.pre_norm, channels=config.channels)
        if self.has_class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, s.width))
        if config.registers:
            self.reg_token = nn.Parameter(torch.empty(1, config.registers, s.width))
        positions = math.prod(config.grid) + self.prefix * config.prefix_positions
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, positions, s.width))
        else:
            self.register_buffer("pos_embed", torch.empty(1, positions, s.width))
        self.norm_pre = norm() if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(s.depth))
        self.norm = nn.Identity() if config.pooled_norm else norm()
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.fc_norm = norm() if config.pooled_norm else nn.Identity()
        self.pre_logits = PreLogits(s.width) if config.pre_logits else nn.Identity()
        self.head = Linear(self.feature_width, config.classes) if config.classes else nn.Identity()

    @property
    def feature_width(self) -> int:
        """Width of the features: twice the model's where the pooling concatenates two vectors."""
        return self.config.resolve().width * (2 if self.config.pool in ("token_gap", "distilled") else 1)

    def forward(self, images: Float[Tensor, "b k y x"]) -> Float[Tensor, "b c"]:
        """Logits, or the features of a model without a head."""
        return self.head(self.features(images))

    @property
    def num_classes(self) -> int:
        """Outputs of the head, under the name that timm gives them; 0 without a head."""
        return self.config.classes

    def forward_features(self, images: Float[Tensor, "b k y x"]) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, width) after the last block and the final norm, as in timm."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def features(
        self, images: Float[Tensor, "b k y x"], intermediates: dict[str, Tensor] | None = None
    ) -> Float[Tensor, "b f"]:
        """The representation (b, width) that the head reads. A dictionary given as `intermediates` is filled
        with the stages that the method of that name lists."""
        x = self.embed(images)
        _record(intermediates, "embedded", x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            _record(intermediates, f"blocks.{i}", x)
        _record(intermediates, "encoded", x)
        x = self.fc_norm(self._pool(self.norm(x)))
        _record(intermediates, "pooled", x)
        return self.pre_logits(x)

    def intermediates(self, images: Float[Tensor, "b k y x"]) -> dict[str, Tensor]:
        """Intermediate features by name: "embedded", "blocks.0" … the last block, which is "encoded" too,
        before the final norm (b, n, d); "pooled" and "pre_logits" (b, d); "logits" (b, c)."""
        stages: dict[str, Tensor] = {}
        stages["pre_logits"] = self.features(images, stages)
        stages["logits"] = self.head(stages["pre_logits"])
        return stages

    def embed(self, images: Float[Tensor, "b k y x"]) -> Float[Tensor, "b n d"]:
        """Patch embeddings with positions, preceded by the prefix tokens (class token, then registers)."""
        self._check(images)
        x, prefix = self.patch_embed(images), self._prefix(images)
        if self.config.prefix_positions:
            x = torch.cat([*prefix, x], dim=1) + self.pos_embed
        else:
            x = x + self.pos_embed
            x = torch.cat([*prefix, x], dim=1) if prefix else x
        return self.norm_pre(x)

    def _prefix(self, images: Tensor) -> list[Tensor]:
        tokens = [self.cls_token] if self.has_class_token else []
        tokens += [self.reg_token] if self.config.registers else []
        return [token.expand(images.shape[0], -1, -1) for token in tokens]

    def _pool(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b f"]:
        pool = self.config.pool
        if pool == "token":
            return x[:, 0]
        if pool == "distilled":
            return x[:, :2].flatten(1)
        if pool == "token_gap":
            return torch.cat([x[:, 0], x[:, self.prefix :].mean(dim=1)], dim=1)
        x = x[:, self.prefix :]
        return x.mean(dim=1) if self.attn_pool is None else self.attn_pool(x)

    def _check(self, images: Tensor) -> None:
        (height, width), channels = self.config.image_size, self.config.channels
        if tuple(images.shape[-3:]) != (channels, height, width):
            size = " × ".join(str(n) for n in images.shape[-2:])
            of = f" and {images.shape[-3]} channels" if images.shape[-3] != channels else ""
            takes = f"{height} × {width} pixels" + (f" and {channels} channels" if of else "")
            raise ValueError(f"this model takes images of {takes}, found {size}{of}")

    def parameter_specs(self) -> dict[str, ParameterSpec]:
        """Specs of the model's own parameters: tokens, positions and the head."""
        d = self.config.resolve().width
        spread = normal(1 / math.sqrt(d))
        out = {}
        if self.has_class_token:
            out["cls_token"] = ParameterSpec(same_layout((1, 1, d)), zeros)
        if self.config.registers:  # identical ones would stay identical
            out["reg_token"] = ParameterSpec(same_layout((1, self.config.registers, d)), spread)
        if self.config.positions == "learned":
            out["pos_embed"] = ParameterSpec(same_layout(tuple(self.pos_embed.shape)), spread)
        if self.config.classes:
            out["head.weight"] = ParameterSpec(
                transposed_layout(self.config.classes, self.feature_width), zeros
            )
            out["head.bias"] = ParameterSpec(
                same_layout((self.config.classes,)), constant(self.config.head_bias)
            )
        return out

    def reference_layouts(self) -> dict[str, ReferenceLayout]:
        """The reference layout of each parameter, by name (reference_layout.py)."""
        return {name: spec.layout for name, spec in self._parameter_specs()}

    def initial_values(self, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
        """Initial values of all parameters and buffers, fp32 on the CPU, one at a time. Each parameter has a
        random stream of its own, decided by the seed and its name, so no value depends on the others."""
        shapes = {name: value.shape for name, value in self.named_parameters()}
        for name, spec in self._parameter_specs():
            value = torch.empty(shapes[name], dtype=torch.float32, device="cpu")
            spec.init(value, generator_for(seed, name))
            yield name, value
        if self.config.positions == "sincos2d":
            s = self.config.resolve()
            grid = sincos2d(*self.config.grid, s.width)
            prefix = torch.zeros(1, self.pos_embed.shape[1] - grid.shape[1], s.width)
            yield "pos_embed", torch.cat([prefix, grid], dim=1)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Re-initialise with `initial_values` of this seed; the same values on every device."""
        targets = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, value in self.initial_values(seed):
            targets[name].copy_(value)

    def _parameter_specs(self) -> Iterator[tuple[str, ParameterSpec]]:
        for prefix, module in self.named_modules():
            for name, spec in getattr(module, "parameter_specs", dict)().items():
                yield f"{prefix}.{name}" if prefix else name, spec


def _require_buildable(config: Model) -> None:
    s = config.resolve()
    size = config.image_size
    if min(s.width, s.depth, s.mlp, s.heads, s.patch, config.channels, *size) < 1 or config.classes < 0:
        raise ValueError(f"no model has such a shape: {s}, image {config.image}, classes {config.classes}")
    if s.width % s.heads:
        raise ValueError(f"{s.heads} heads do not divide the width {s.width}")
    for side in size:
        if side % s.patch:
            raise ValueError(f"an image of {side} pixels is not divisible by patches of {s.patch}")
    if config.pool == "distilled" and config.registers != 1:
        raise ValueError("distilled pooling needs exactly one token beside the class token")


def _record(intermediates: dict[str, Tensor] | None, name: str, x: Tensor) -> None:
    if intermediates is not None:
        intermediates[name] = x
