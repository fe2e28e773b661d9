"""Backbones: models for probes and evaluation, with features of named layers and a hash of their weights.

A backbone is named by a run's or a model's folder, "timm:NAME", "timm-local:DIR", a big_vision npz, or
"module:callable": any function of images (b, 3, side, side) in [-1, 1] that returns features (b, d).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalevit.config.dataclass_io import nearest_names
from scalevit.config.run import Preprocessing
from scalevit.evals.attention_maps import attention_maps
from scalevit.evals.normalisation import mismatch_warning, with_preset
from scalevit.model import weights
from scalevit.model.formats import files
from scalevit.model.formats import timm as timm_format
from scalevit.model.formats.preprocessing import from_timm
from scalevit.model.formats.schema import JsonObject
from scalevit.model.formats.timm import import_timm
from scalevit.model.vit import ViT

#: The representation before the head, which the paper probes.
LAST_LAYER = "pre_logits"
#: The head's output; not listed among the layers.
LOGITS = "logits"
CPU = torch.device("cpu")

LayerFunction = Callable[[Tensor, tuple[str, ...]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Backbone:
    """A model as a function of images.

    run(images, layers): features (b, d) of each layer, for images (b, 3, image, image) after `preprocessing`.
    layers: all layer names, from input to output. fingerprint: a hash of everything that decides the
    features; None when there is none. untrained: the same network with fresh weights; None where that is not
    available or this one is untrained itself. note: a remark printed with its numbers. outputs: classes of
    the head, the width of `LOGITS`; 0 for none. attention_maps: None where the pooling has no attention.
    device: where it computes. width: of its images, where they are not square. class_names: of the outputs,
    () where they are unknown."""

    name: str
    run: LayerFunction
    layers: tuple[str, ...]
    image: int
    preprocessing: Preprocessing
    fingerprint: Callable[[], str] | None
    untrained: Callable[[], Backbone] | None = None
    note: str = ""
    outputs: int = 0
    attention_maps: Callable[[Tensor], Tensor] | None = None
    device: torch.device = CPU
    width: int = 0
    class_names: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its images in pixels."""
        return self.image, self.width or self.image


def open_model(target: str, *, image: int = 0, scale: str = "", device: torch.device = CPU) -> Backbone:
    """The backbone of this name. image: side in pixels to which a ViT's positions are resampled, or the side
    of the images that a function takes (224 unless given). scale: one of `PRESETS` instead of the weights'
    own normalisation, with a warning on stderr where they differ. device: where networks compute; functions
    stay where they are. Raises ValueError when there is no such model."""
    if image < 0:
        raise ValueError(f"--image: must be at least 1, found {image}")
    backbone = _open(target, image, device)
    if not scale:
        return backbone
    stored, preprocessing = backbone.preprocessing, with_preset(backbone.preprocessing, scale)
    if preprocessing != stored and not _is_function(target):
        print(f"scalevit: {backbone.name}: warning: {mismatch_warning(stored, scale)}", file=sys.stderr)
    fresh = backbone.untrained
    untrained = fresh and (lambda: replace(fresh(), preprocessing=preprocessing))
    return replace(backbone, preprocessing=preprocessing, untrained=untrained)


def _is_function(target: str) -> bool:
    scheme, colon, _ = target.partition(":")
    dotted = scheme.replace(".", "").isidentifier()
    return bool(colon) and scheme not in OPENERS and not Path(target).exists() and dotted


def _open(target: str, image: int, device: torch.device) -> Backbone:
    scheme, colon, rest = target.partition(":")
    if colon and scheme in OPENERS:
        return OPENERS[scheme](rest, image, device)
    if _is_function(target):
        return _callable(scheme, rest, image, device)
    return of_vit(weights.load(target, image=image).to(device), target)


def of_vit(model: ViT, name: str, note: str = "") -> Backbone:
    """Backbone of a ViT. Layers of tokens are averaged over the patches."""
    device = next(model.parameters()).device
    layers = ("embedded", *(f"blocks.{i}" for i in range(len(model.blocks))), "pooled", LAST_LAYER)

    def run(images: Tensor, wanted: tuple[str, ...]) -> Mapping[str, Tensor]:
        # keeping every layer's output costs fresh memory for each: only where one is asked for
        stages: dict[str, Tensor] = {}
        inner = not set(wanted) <= {LAST_LAYER, LOGITS}
        last = model.features(images.to(device), stages if inner else None)
        stages |= {LAST_LAYER: last, LOGITS: model.head(last)} if LOGITS in wanted else {LAST_LAYER: last}
        return {layer: _flat(stages[layer], model.prefix) for layer in wanted}

    def untrained() -> Backbone:
        fresh = ViT(model.config, device=device, seed=0)
        fresh.preprocessing = model.preprocessing
        return of_vit(fresh, f"{name} untrained")

    about = repr(replace(model.config, classes=0))
    weights_hash = partial(fingerprint, model.state_dict(), about)
    side, outputs = model.config.image, model.config.classes
    maps = partial(attention_maps, model) if model.config.pool in ("map", "token") else None
    return Backbone(
        name, run, layers, side, model.preprocessing, weights_hash, untrained, note, outputs, maps, device,
        width=model.config.image_width, class_names=model.class_names,
    )  # fmt: skip


def _flat(x: Tensor, prefix: int) -> Tensor:
    return x[:, prefix:].mean(dim=1) if x.dim() == 3 else x


def fingerprint(state: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 of every tensor but the head's, which features do not see, and of `about`."""
    digest = hashlib.sha256(about.encode())
    for name in sorted(state):
        if not name.startswith("head."):
            value = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --------------------------------------------------------------------------- timm


def _timm(name: str, image: int, device: torch.device) -> Backbone:
    timm = import_timm()
    if not timm.is_model(name):
        near = ", ".join(nearest_names(name.split(".")[0], timm.list_models()))
        raise ValueError(f"timm has no model {name!r}; nearest: {near}")
    module, note = _with_weights(timm, name)
    return _of_timm(module.to(device), f"timm:{name}", image, note)


def _timm_local(folder: str, image: int, device: torch.device) -> Backbone:
    """A folder in timm's layout: a plain ViT as ours, any other network of timm as it is."""
    name = f"timm-local:{folder}"
    try:
        return of_vit(weights.load(folder, image=image).to(device), name)
    except ValueError as error:
        if not (Path(folder) / "config.json").is_file():
            raise
        reason = str(error)
    about = files.read_json(Path(folder) / "config.json")
    if "model_type" in about or "scalevit" in about:
        raise ValueError(reason)
    try:
        module, given = timm_format.described(about, vit=False)
        module.to_empty(device="cpu")
        module.load_state_dict(files.WeightSource(Path(folder)).tensors(timm_format.NAMES))
    except (ValueError, RuntimeError):
        raise ValueError(reason) from None
    module.pretrained_cfg = {**module.pretrained_cfg, **given}
    return _of_timm(module.to(device), name, image, "")


def _of_timm(module: nn.Module, name: str, image: int, note: str) -> Backbone:
    """Backbone through our own ViT where that computes the same, so that `scalevit convert` changes no
    number."""
    try:
        model = weights.build(timm_format.from_module(module))
    except ValueError:
        return _raw_timm(module, name, image, note)
    backbone = of_vit(weights.resized(model, image) if image else model, name, note)
    return replace(backbone, untrained=None) if note else backbone


def _raw_timm(module: Any, name: str, image: int, note: str) -> Backbone:
    """Backbone of any other timm network: its features after pooling, before the classifier."""
    given = module.pretrained_cfg
    height, width = JsonObject({"size": list(given.get("input_size", (3, 224, 224)))[-2:]}).size("size", 224)
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 3)
    scaling = from_timm(given, channels, image or height)
    module.eval()
    device = next(module.parameters()).device

    def run(images: Tensor, wanted: tuple[str, ...]) -> Mapping[str, Tensor]:
        tokens = _call_foreign(name, module.forward_features, images.to(device))
        features = {LAST_LAYER: module.forward_head(tokens, pre_logits=True).flatten(1)}
        return features | {LOGITS: module.forward_head(tokens)} if LOGITS in wanted else features

    return Backbone(
        name, run, (LAST_LAYER,), image or height, scaling, partial(fingerprint, module.state_dict(), name),
        note=note, outputs=int(module.num_classes), device=device,
        width=0 if image or width == height else width,
    )  # fmt: skip


def _with_weights(timm: Any, name: str) -> tuple[nn.Module, str]:
    """The pretrained network; where its weights cannot be downloaded, random weights with a warning."""
    try:
        with _offline_when_unreachable():
            return timm.create_model(name, pretrained=True), ""
    except (OSError, RuntimeError):
        note = "random weights: the pretrained ones are neither here nor to be downloaded"
        print(f"scalevit: timm:{name}: {note}", file=sys.stderr)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, pretrained=False), note


class _offline_when_unreachable:
    """Use the hub's local cache alone when the hub cannot be reached: its client would retry for a minute."""

    def __enter__(self) -> None:
        from huggingface_hub import constants

        self.before = constants.HF_HUB_OFFLINE
        host = constants.ENDPOINT.split("//")[-1].split("/")[0].split(":")[0]
        try:
            if not os.environ.get("HTTPS_PROXY") and not os.environ.get("https_proxy"):
                socket.getaddrinfo(host, 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True

    def __exit__(self, *about: object) -> None:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = self.before


# --------------------------------------------------------------------------- functions


def _callable(module: str, attribute: str, image: int, device: torch.device) -> Backbone:
    """Backbone of a foreign function or torch module. A function gets its images on the CPU."""
    try:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
        found = importlib.import_module(module)
    except Exception as error:  # what somebody else's module does when it is imported
        raise ValueError(f"{module}:{attribute}: {_first_line(error)}") from None
    finally:
        sys.path.pop(0)
    function = getattr(found, attribute, None)
    if not callable(function):
        near = ", ".join(nearest_names(attribute, [n for n in vars(found) if callable(getattr(found, n))]))
        raise ValueError(f"{module} has no callable {attribute!r}; nearest: {near}")
    name, side = f"{module}:{attribute}", image or 224
    told, device = None, device if isinstance(function, nn.Module) else CPU
    if isinstance(function, nn.Module):
        function.to(device)
        told = partial(fingerprint, function.eval().state_dict(), f"{name} {function}")

    def run(images: Tensor, wanted: tuple[str, ...]) -> Mapping[str, Tensor]:
        given = _call_foreign(name, function, images.to(device))
        shape = getattr(given, "shape", None)
        if shape is None or len(shape) < 2 or shape[0] != len(images):
            found = type(given).__name__ if shape is None else tuple(shape)
            raise ValueError(f"{name}: expected ({len(images)}, d) features, found {found}")
        return {LAST_LAYER: torch.as_tensor(given).flatten(1)}

    return Backbone(name, run, (LAST_LAYER,), side, Preprocessing(), told, device=device)


def _call_foreign(name: str, function: Callable[[Tensor], Any], images: Tensor) -> Any:
    """Call a foreign network; whatever it raises becomes a ValueError of one line, which every process can
    re-raise."""
    try:
        return function(images)
    except Exception as error:
        raise ValueError(f"{name} on images {tuple(images.shape)}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first:.200}"


OPENERS: dict[str, Callable[[str, int, torch.device], Backbone]] = {"timm": _timm, "timm-local": _timm_local}
