"""The Vision Transformer of the paper: patches, pre-norm blocks, MAP / GAP / token pooling, a linear head.

Numbers follow the authors' code (tanh GELU, LayerNorm epsilon 1e-6, positions added before extra tokens);
names and layouts of parameters are timm's, so weights move between the two without a mapping.

Shapes: b images · n tokens (prefix tokens, that is class token and registers, come first) · d width ·
m width of the MLP · h heads · e = d / h · p side of a patch · c classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scalevit.config.run import Model, Preprocessing
from scalevit.kernels import usable
from scalevit.kernels.attention import attend
from scalevit.kernels.cpu import build
from scalevit.kernels.cpu.attention import self_attention
from scalevit.kernels.gelu import bias_gelu
from scalevit.kernels.linear import Linear, linear, mlp
from scalevit.kernels.norm import add_norm, norm
from scalevit.model.reference_layout import ReferenceLayout, same_layout, transposed_layout

# --------------------------------------------------------------------------- how parameters start

Init = Callable[[Tensor, torch.Generator], object]


@dataclass(frozen=True)
class ParameterSpec:
    """What a layer says about one of its parameters: the reference's tensors in it, and how it starts."""

    view: ReferenceLayout
    init: Init


def zeros(value: Tensor, generator: torch.Generator) -> None:
    value.zero_()


def constant(number: float) -> Init:
    return lambda value, generator: value.fill_(number)


def normal(std: float) -> Init:
    return lambda value, generator: value.normal_(std=std, generator=generator)


def xavier(inputs: int, outputs: int) -> Init:
    """Uniform with variance 2 / (inputs + outputs) (Glorot and Bengio 2010)."""
    limit = math.sqrt(6 / (inputs + outputs))
    return lambda value, generator: value.uniform_(-limit, limit, generator=generator)


def lecun(inputs: int) -> Init:
    """Normal with variance 1 / inputs, cut at two standard deviations, which 0.8796 makes up for."""
    std = 1 / math.sqrt(inputs) / 0.87962566103423978
    return lambda value, generator: nn.init.trunc_normal_(
        value, std=std, a=-2 * std, b=2 * std, generator=generator
    )


def sincos2d(side: int, width: int, temperature: float = 10_000.0) -> Float[Tensor, "1 n d"]:
    """Fixed positions of a side × side grid: sine and cosine of x, then of y (Chen et al. 2021, MoCo v3)."""
    omega = temperature ** -(torch.arange(width // 4, dtype=torch.float64) / max(1, width // 4 - 1))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x, y = x.reshape(-1, 1) * omega, y.reshape(-1, 1) * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()[None]


# --------------------------------------------------------------------------- layers


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), the GELU of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def tanh_gelu(x: Tensor) -> Tensor:
    """x/2 · (1 + tanh u) = x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³). A CPU's compiled code takes
    less than half the time with the second form (docs/lab-log.md, 2026-11-27)."""
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        wide = x.float()
        return (wide * torch.sigmoid(math.sqrt(8 / math.pi) * (wide + 0.044715 * wide**3))).to(x.dtype)
    return F.gelu(x, approximate="tanh")


GELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": tanh_gelu,
    "erf": F.gelu,
    "quick": quick_gelu,
}


class LayerNorm(nn.LayerNorm):
    def declare(self) -> dict[str, ParameterSpec]:
        view = same_layout(tuple(self.normalized_shape))
        return {"weight": ParameterSpec(view, constant(1.0)), "bias": ParameterSpec(view, zeros)}


class LayerScale(nn.Module):
    """A learned factor for each feature of a residual branch (Touvron et al. 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.gamma

    def declare(self) -> dict[str, ParameterSpec]:
        return {"gamma": ParameterSpec(same_layout((self.gamma.numel(),)), constant(1e-5))}


class PatchEmbed(nn.Module):
    """Non-overlapping patches, each mapped linearly. `proj` is a convolution only in name and layout: a
    reshape and one matrix product compute the same in half the time."""

    def __init__(self, patch: int, width: int, bias: bool) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, width, patch, patch, bias=bias)

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b n d"]:
        b, channels, height, width = images.shape
        p = self.patch
        cells = images.reshape(b, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        return linear(cells.reshape(b, -1, channels * p * p), self.proj.weight.flatten(1), self.proj.bias)

    def declare(self) -> dict[str, ParameterSpec]:
        shape = tuple(self.proj.weight.shape)
        kernel = ReferenceLayout(1, shape, (2, 3, 1, 0))
        out = {"proj.weight": ParameterSpec(kernel, lecun(math.prod(shape[1:])))}
        if self.proj.bias is not None:
            out["proj.bias"] = ParameterSpec(same_layout(shape[:1]), zeros)
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, gelu: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, hidden), Linear(hidden, width)
        self.gelu = GELUS[gelu]

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        fused = self.gelu is tanh_gelu and isinstance(self.fc1, Linear) and not self.fc1.is_watched()
        y = mlp(x, self.fc1, self.fc2) if fused else None
        if y is not None:
            return y
        if fused and (usable(x) or build.usable(x)):
            return self.fc2(bias_gelu(self.fc1.product(x), self.fc1.bias))
        return self.fc2(self.gelu(self.fc1(x)))

    def declare(self) -> dict[str, ParameterSpec]:
        d, m = self.fc1.in_features, self.fc1.out_features
        return {
            "fc1.weight": ParameterSpec(transposed_layout(m, d), xavier(d, m)),
            "fc1.bias": ParameterSpec(same_layout((m,)), normal(1e-6)),
            "fc2.weight": ParameterSpec(transposed_layout(d, m), xavier(m, d)),
            "fc2.bias": ParameterSpec(same_layout((d,)), normal(1e-6)),
        }


def _projection(name: str, parts: int, width: int, heads: int) -> dict[str, ParameterSpec]:
    """`parts` of query, key, value in one matrix; the reference has (d, h, e) kernels and (h, e) biases."""
    e = width // heads
    return {
        f"{name}.weight": ParameterSpec(ReferenceLayout(parts, (heads, e, width), (2, 0, 1)), xavier(width, width)),
        f"{name}.bias": ParameterSpec(ReferenceLayout(parts, (heads, e), (0, 1)), zeros),
    }


def _output(width: int, heads: int) -> dict[str, ParameterSpec]:
    """The attention's output: the reference's kernel is (h, e, d)."""
    return {
        "proj.weight": ParameterSpec(ReferenceLayout(1, (width, heads, width // heads), (1, 2, 0)), xavier(width, width)),
        "proj.bias": ParameterSpec(same_layout((width,)), zeros),
    }


class Attention(nn.Module):
    """Multi-head self-attention; with `qk_norm`, queries and keys are normalised per head (2302.05442)."""

    def __init__(self, width: int, heads: int, qk_norm: bool, eps: float) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv, self.proj = Linear(width, 3 * width), Linear(width, width)
        self.q_norm = LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()
        self.k_norm = LayerNorm(width // heads, eps=eps) if qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        b, n, d = x.shape
        qkv = self.qkv(x)
        if not self.qk_norm and build.multiplies(qkv, qkv.dtype, n, d // self.heads):
            return self.proj(self_attention(qkv, self.heads))
        q, k, v = qkv.view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = attend(self.q_norm(q), self.k_norm(k), v)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))

    def declare(self) -> dict[str, ParameterSpec]:
        d = self.proj.in_features
        return {**_projection("qkv", 3, d, self.heads), **_output(d, self.heads)}


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        s, eps = config.resolve(), config.norm_eps
        self.norm1 = LayerNorm(s.width, eps=eps)
        self.attn = Attention(s.width, s.heads, config.qk_norm, eps)
        self.ls1 = LayerScale(s.width) if config.layer_scale else nn.Identity()
        self.norm2 = LayerNorm(s.width, eps=eps)
        self.mlp = Mlp(s.width, s.mlp, config.gelu)
        self.ls2 = LayerScale(s.width) if config.layer_scale else nn.Identity()

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x, y = norm(x, self.norm1)
        x, y = add_norm(x, self.ls1(self.attn(y)), self.norm2)
        return x + self.ls2(self.mlp(y))


class AttentionPool(nn.Module):
    """Multi-head attention pooling, MAP (paper §3.2): one learned query attends to all tokens; then
    x + mlp(norm(x)). No residual around the attention and no norm on the query."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        s = config.resolve()
        self.heads = s.heads
        self.latent = nn.Parameter(torch.empty(1, 1, s.width))
        self.q, self.kv = Linear(s.width, s.width), Linear(s.width, 2 * s.width)
        self.proj = Linear(s.width, s.width)
        self.norm = LayerNorm(s.width, eps=config.norm_eps)
        self.mlp = Mlp(s.width, s.mlp, config.gelu)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        b, n, d = x.shape
        e = d // self.heads
        k, v = self.kv(x).view(b, n, 2, self.heads, e).permute(2, 0, 3, 1, 4)
        q = self.q(self.latent).view(1, self.heads, 1, e).expand(b, -1, -1, -1)
        y = self.proj(attend(q, k, v).reshape(b, d))
        return y + self.mlp(self.norm(y))

    def declare(self) -> dict[str, ParameterSpec]:
        d = self.proj.in_features
        latent = ParameterSpec(same_layout((1, 1, d)), xavier(1, d))
        kv, q = _projection("kv", 2, d, self.heads), _projection("q", 1, d, self.heads)
        return {"latent": latent, **q, **kv, **_output(d, self.heads)}


class PreLogits(nn.Module):
    """The original ViT's tanh layer between pooling and head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = Linear(width, width)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return torch.tanh(self.fc(x))

    def declare(self) -> dict[str, ParameterSpec]:
        d = self.fc.in_features
        return {
            "fc.weight": ParameterSpec(transposed_layout(d, d), lecun(d)),
            "fc.bias": ParameterSpec(same_layout((d,)), zeros),
        }


# --------------------------------------------------------------------------- the model


class ViT(nn.Module):
    """The model that `config` describes, with initial weights drawn from `seed`.

    device: where its parameters live, "meta" for a model without memory; materialise that with `to_empty`
    and `init_weights`. `forward` takes float images, NCHW, scaled as `preprocessing` says ([-1, 1] unless the
    weights came from elsewhere), and gives logits. Raises ValueError for a shape that cannot be."""

    preprocessing = Preprocessing()

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
        self.has_class_token = config.class_token or config.pool == "token"
        self.prefix = int(self.has_class_token) + config.registers
        self.patch_embed = PatchEmbed(s.patch, s.width, bias=not config.pre_norm)
        if self.has_class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, s.width))
        if config.registers:
            self.reg_token = nn.Parameter(torch.empty(1, config.registers, s.width))
        places = s.tokens(config.image) + self.prefix * config.prefix_positions
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, places, s.width))
        else:
            self.register_buffer("pos_embed", torch.empty(1, places, s.width))
        self.norm_pre = norm() if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config) for _ in range(s.depth))
        self.norm = nn.Identity() if config.pooled_norm else norm()
        self.attn_pool = AttentionPool(config) if config.pool == "map" else None
        self.fc_norm = norm() if config.pooled_norm else nn.Identity()
        self.pre_logits = PreLogits(s.width) if config.pre_logits else nn.Identity()
        self.head = Linear(s.width, config.classes) if config.classes else nn.Identity()

    def forward(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b c"]:
        """Logits, or the features of a model without a head."""
        return self.head(self.features(images))

    def features(
        self, images: Float[Tensor, "b 3 y x"], taps: dict[str, Tensor] | None = None
    ) -> Float[Tensor, "b d"]:
        """The representation that the head reads; `taps` collects what `intermediates` names."""
        x = self.embed(images)
        _record(taps, "embedded", x)
        for i, block in enumerate(self.blocks):
            x = block(x)
            _record(taps, f"blocks.{i}", x)
        _record(taps, "encoded", x)
        x = self.fc_norm(self._pool(self.norm(x)))
        _record(taps, "pooled", x)
        return self.pre_logits(x)

    def intermediates(self, images: Float[Tensor, "b 3 y x"]) -> dict[str, Tensor]:
        """Every named stage: "embedded", "blocks.0" … the last block, which is "encoded" too, before the
        final norm (b, n, d); "pooled" and "pre_logits" (b, d); "logits" (b, c)."""
        taps: dict[str, Tensor] = {}
        taps["pre_logits"] = self.features(images, taps)
        taps["logits"] = self.head(taps["pre_logits"])
        return taps

    def embed(self, images: Float[Tensor, "b 3 y x"]) -> Float[Tensor, "b n d"]:
        """Patches with their positions, behind the prefix tokens."""
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

    def _pool(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        if self.config.pool == "token":
            return x[:, 0]
        x = x[:, self.prefix :]
        return x.mean(dim=1) if self.attn_pool is None else self.attn_pool(x)

    def _check(self, images: Tensor) -> None:
        side = self.config.image
        if tuple(images.shape[-2:]) != (side, side):
            found = " × ".join(str(n) for n in images.shape[-2:])
            raise ValueError(f"this model takes images of {side} × {side} pixels, found {found}")

    def declare(self) -> dict[str, ParameterSpec]:
        """The model's own parameters: tokens, positions and the head."""
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
            out["head.weight"] = ParameterSpec(transposed_layout(self.config.classes, d), zeros)
            out["head.bias"] = ParameterSpec(same_layout((self.config.classes,)), constant(self.config.head_bias))
        return out

    def views(self) -> dict[str, ReferenceLayout]:
        """How each parameter holds tensors of the reference (layout.py)."""
        return {name: declared.view for name, declared in self._declared()}

    def initial_values(self, seed: int = 0) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's and buffer's first value, fp32 on the CPU, one at a time. Each has a random
        stream of its own, drawn from the seed and its name: a value does not depend on the rest."""
        shapes = {name: value.shape for name, value in self.named_parameters()}
        for name, declared in self._declared():
            value = torch.empty(shapes[name], dtype=torch.float32, device="cpu")
            declared.init(value, _generator(seed, name))
            yield name, value
        if self.config.positions == "sincos2d":
            s = self.config.resolve()
            grid = sincos2d(self.config.image // s.patch, s.width)
            prefix = torch.zeros(1, self.pos_embed.shape[1] - grid.shape[1], s.width)
            yield "pos_embed", torch.cat([prefix, grid], dim=1)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> None:
        """Start again: the values that `initial_values` gives for this seed, the same on every device."""
        targets = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        for name, value in self.initial_values(seed):
            targets[name].copy_(value)

    def _declared(self) -> Iterator[tuple[str, ParameterSpec]]:
        for prefix, module in self.named_modules():
            for name, declared in getattr(module, "declare", dict)().items():
                yield f"{prefix}.{name}" if prefix else name, declared


def _require_buildable(config: Model) -> None:
    s = config.resolve()
    if min(s.width, s.depth, s.mlp, s.heads, s.patch, config.image) < 1:
        raise ValueError(f"no model has such a shape: {s}, image {config.image}")
    if s.width % s.heads:
        raise ValueError(f"{s.heads} heads do not divide the width {s.width}")
    if config.image % s.patch:
        raise ValueError(f"an image of {config.image} pixels is not divisible by patches of {s.patch}")


def _record(taps: dict[str, Tensor] | None, name: str, x: Tensor) -> None:
    if taps is not None:
        taps[name] = x


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
