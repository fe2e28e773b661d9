"""Conversion of small ViTs of timm, transformers and open_clip: exact to 1e-5, or refused in one line.

Every model has random weights, is saved as its own library saves it, loaded by scalevit, and compared on the
same random images: the largest difference of outputs over the largest output. Run from the project's root:

    python -m benchmarks.convert [--markdown]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scalevit as sv
from scalevit.model.formats.timm import import_timm

TOLERANCE = 1e-5
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
HF = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
CLIP_TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
CLIP_VISION = {"layers": 2, "width": 48, "head_width": 16, "patch_size": 8, "image_size": 32}

#: Architectures of timm, and the arguments that make them small or unusual.
TIMM_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_tiny_patch16_224", {}),
    "ViT without a head": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "AugReg, GAP": ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),
    "ViT, GAP beside a class token": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "SigLIP": ("vit_base_patch16_siglip_224", {}),
    "SigLIP 2, GAP": ("vit_base_patch16_siglip_gap_224", {}),
    "CLIP": ("vit_base_patch16_clip_224", {}),
    "CLIP, quick GELU": ("vit_base_patch16_clip_quickgelu_224", {}),
    "DINO": ("vit_small_patch16_224", {"num_classes": 0}),
    "DINOv2": ("vit_small_patch14_dinov2", {"patch_size": 8, "num_classes": 0}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", {"patch_size": 8, "num_classes": 0}),
    "DeiT": ("deit_tiny_patch16_224", {}),
    "DeiT distilled": ("deit_tiny_distilled_patch16_224", {}),
    "DeiT III": ("deit3_small_patch16_224", {}),
    "betwixt, registers, GAP": ("vit_betwixt_patch16_reg4_gap_256", {}),
    "no bias of q, k, v": ("vit_tiny_patch16_224", {"qkv_bias": False}),
    "normalised q and k": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "no positions": ("vit_tiny_patch16_224", {"pos_embed": "none"}),
    "one channel": ("vit_tiny_patch16_224", {"in_chans": 1}),
    "four channels": ("vit_tiny_patch16_224", {"in_chans": 4}),
    "32 × 48 pixels": ("vit_tiny_patch16_224", {"img_size": (32, 48)}),
    "gated MLP": ("vit_giant_patch14_dinov2", {"patch_size": 8, "num_classes": 0}),
    "parallel blocks": ("vit_small_patch16_18x2_224", {}),
    "maximum pooling": ("vit_tiny_patch16_224", {"global_pool": "avgmax"}),
}


@dataclass(frozen=True)
class Outcome:
    """One model: the largest relative difference, or the reason of the refusal."""

    library: str
    name: str
    difference: float | None
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether the outputs agree to the tolerance."""
        return self.difference is not None and self.difference <= TOLERANCE


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter drawn from a normal distribution, so that no difference hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.normal_(std=0.1, generator=generator)
            if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
                value.add_(1.0)
    return module.eval()


def images(height: int = 32, width: int = 32, channels: int = 3) -> Tensor:
    """Two random images, always the same."""
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


Case = tuple[str, str, Callable[[Path], tuple[Callable[[Tensor], Tensor], Tensor]]]


def timm_cases() -> Iterator[Case]:
    """Models of timm: saved as a folder with config.json, as its hub repositories are."""
    timm = import_timm()

    def case(architecture: str, changed: dict[str, Any]) -> Callable[[Path], Any]:
        def write(folder: Path) -> tuple[Callable[[Tensor], Tensor], Tensor]:
            from safetensors.torch import save_file

            args = TIMM | changed
            module = randomise(timm.create_model(architecture, **args))
            state = {name: value.contiguous() for name, value in module.state_dict().items()}
            save_file(state, str(folder / "model.safetensors"))
            pretrained = {"mean": [0.5] * args.get("in_chans", 3), "std": [0.5] * args.get("in_chans", 3)}
            about = {"architecture": architecture, "model_args": args, "pretrained_cfg": pretrained}
            (folder / "config.json").write_text(json.dumps(about))
            size = args["img_size"]
            height, width = size if isinstance(size, tuple) else (size, size)
            return module, images(height, width, args.get("in_chans", 3))

        return write

    for name, (architecture, changed) in TIMM_MODELS.items():
        yield "timm", name, case(architecture, changed)


def transformers_cases() -> Iterator[Case]:
    """Models of transformers: saved by save_pretrained."""
    import_timm()
    import transformers as t

    vit = HF | {"intermediate_size": 96, "num_labels": 5}
    dino = HF | {"mlp_ratio": 2, "num_labels": 5}
    tower = HF | {"intermediate_size": 96}

    def pooled(output: Any) -> Tensor:
        return output.pooler_output

    def logits(output: Any) -> Tensor:
        return output.logits

    def first(output: Any) -> Tensor:
        return output.last_hidden_state[:, 0]

    def embeds(output: Any) -> Tensor:
        return output.image_embeds

    clip = t.CLIPConfig(
        vision_config=tower, projection_dim=12,
        text_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "vocab_size": 20},
    )  # fmt: skip
    models: list[tuple[str, Callable[[], Any], Callable[[Any], Tensor]]] = [
        ("ViTModel", lambda: t.ViTModel(t.ViTConfig(**vit)), pooled),
        ("ViTForImageClassification", lambda: t.ViTForImageClassification(t.ViTConfig(**vit)), logits),
        ("ViT without biases of q, k, v",
         lambda: t.ViTForImageClassification(t.ViTConfig(**vit, qkv_bias=False)), logits),
        ("ViT of one channel",
         lambda: t.ViTForImageClassification(t.ViTConfig(**vit, num_channels=1)), logits),
        ("DeiTModel", lambda: t.DeiTModel(t.DeiTConfig(**vit)), pooled),
        ("DeiTForImageClassification", lambda: t.DeiTForImageClassification(t.DeiTConfig(**vit)), logits),
        ("DeiT with teacher",
         lambda: t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**vit)), logits),
        ("ViTMSNModel", lambda: t.ViTMSNModel(t.ViTMSNConfig(**vit)), first),
        ("IJepaForImageClassification", lambda: t.IJepaForImageClassification(t.IJepaConfig(**vit)), logits),
        ("Dinov2Model", lambda: t.Dinov2Model(t.Dinov2Config(**dino)), pooled),
        ("Dinov2ForImageClassification",
         lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**dino)), logits),
        ("Dinov2WithRegistersModel",
         lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**dino)), pooled),
        ("Dinov2WithRegistersForImageClassification",
         lambda: t.Dinov2WithRegistersForImageClassification(t.Dinov2WithRegistersConfig(**dino)), logits),
        ("CLIPVisionModel", lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**tower)), pooled),
        ("CLIPVisionModelWithProjection",
         lambda: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**tower, projection_dim=12)), embeds),
        ("CLIPModel", lambda: t.CLIPModel(clip), None),
        ("SiglipVisionModel", lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**tower)), pooled),
        ("SiglipForImageClassification",
         lambda: t.SiglipForImageClassification(t.SiglipConfig(vision_config=tower, num_labels=5)), logits),
        ("DINOv3ViTModel",
         lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**tower, num_register_tokens=2)), pooled),
    ]  # fmt: skip

    def case(build: Callable[[], Any], read: Callable[[Any], Tensor] | None) -> Callable[[Path], Any]:
        def write(folder: Path) -> tuple[Callable[[Tensor], Tensor], Tensor]:
            module: Any = randomise(build())
            module.save_pretrained(folder)
            config = getattr(module.config, "vision_config", module.config)
            if read is None:
                return lambda x: pooled(module.vision_model(x)) @ module.visual_projection.weight.T, images()
            return lambda x: read(module(pixel_values=x)), images(channels=config.num_channels)

        return write

    for name, build, read in models:
        yield "transformers", name, case(build, read)


def open_clip_cases() -> Iterator[Case]:
    """Visual towers of open_clip: saved with open_clip_config.json, as its hub repositories are."""
    import_timm()
    from open_clip.model import CLIP

    towers: dict[str, dict[str, Any]] = {
        "CLIP, image_size as a list": {"image_size": [32, 32]},
        "CLIPA": {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        "CLIP, layer scale": {"ls_init_value": 0.1},
        "attentional pooling": {"attentional_pool": True, "attn_pooler_heads": 4},
    }

    def case(changed: dict[str, Any]) -> Callable[[Path], Any]:
        def write(folder: Path) -> tuple[Callable[[Tensor], Tensor], Tensor]:
            from safetensors.torch import save_file

            vision = CLIP_VISION | changed
            size = vision["image_size"]
            built = vision | ({"image_size": tuple(size)} if isinstance(size, list) else {})
            module: Any = randomise(CLIP(12, built, dict(CLIP_TEXT)))
            state = {name: value.detach().clone() for name, value in module.state_dict().items()}
            save_file(state, str(folder / "open_clip_model.safetensors"))
            about = {"model_cfg": {"embed_dim": 12, "vision_cfg": vision, "text_cfg": CLIP_TEXT}}
            (folder / "open_clip_config.json").write_text(json.dumps(about))
            return module.visual, images()

        return write

    for name, changed in towers.items():
        yield "open_clip", name, case(changed)


def outcome(library: str, name: str, write: Callable[[Path], Any]) -> Outcome:
    """Save, load and compare one model."""
    with tempfile.TemporaryDirectory() as home:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            theirs, x = write(Path(home))
            try:
                ours = sv.load(home).eval()
            except ValueError as error:
                return Outcome(library, name, None, str(error).replace(home, "FOLDER"))
        with torch.no_grad():
            expected, found = theirs(x), ours(x)
    difference = (found - expected).abs().max() / expected.abs().max()
    return Outcome(library, name, float(difference))


def outcomes() -> list[Outcome]:
    """All models, library by library."""
    warnings.simplefilter("ignore")
    cases = [*timm_cases(), *transformers_cases(), *open_clip_cases()]
    return [outcome(*case) for case in cases]


def markdown(rows: list[Outcome]) -> str:
    """The table of docs/convert.md."""
    lines = ["| library | model | largest difference |", "|---|---|---|"]
    for row in rows:
        cell = f"{row.difference:.0e}" if row.difference is not None else f"refused: {row.reason}"
        lines.append(f"| {row.library} | {row.name} | {cell} |")
    return "\n".join(lines)


def main() -> None:
    """Print every model's outcome and how many are exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the table of the documentation")
    args = parser.parse_args()
    rows = outcomes()
    if args.markdown:
        print(markdown(rows))
    else:
        for row in rows:
            cell = row.reason if row.difference is None else f"{row.difference:.1e}"
            print(f"{row.library:13} {row.name:44} {cell}")
    exact, refused = sum(row.exact for row in rows), sum(row.difference is None for row in rows)
    wrong = len(rows) - exact - refused
    print(f"{exact} of {len(rows)} exact to {TOLERANCE:g}, {refused} refused, {wrong} wrong")


if __name__ == "__main__":
    main()
