"""Normalisation presets: means and standard deviations in common use, and a warning for a wrong one."""

from __future__ import annotations

from dataclasses import replace

from scalevit.config.run import Preprocessing

#: Means and standard deviations of red, green and blue, by name.
PRESETS: dict[str, Preprocessing] = {
    "half": Preprocessing(),
    "imagenet": Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": Preprocessing((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}

TRAINED_WITH = {
    "half": "the authors' ViTs and timm's augreg ones are",
    "imagenet": "most of timm's other networks, DINO and MAE are",
    "clip": "CLIP is",
}


def with_preset(preprocessing: Preprocessing, scale: str) -> Preprocessing:
    """This preprocessing with the mean and standard deviation of a preset."""
    return replace(preprocessing, mean=PRESETS[scale].mean, std=PRESETS[scale].std)


def mismatch_warning(stored: Preprocessing, scale: str) -> str:
    """Warning for a preset that differs from the weights' own normalisation, with the likely cause."""
    own = [f", as {TRAINED_WITH[name]}" for name in PRESETS if with_preset(stored, name) == stored]
    return (
        f"these weights came with mean {_three(stored.mean)} and std {_three(stored.std)}{''.join(own)}; "
        f"--scale {scale} is how {TRAINED_WITH[scale]} trained; leave it out unless what came with the "
        "weights is known to be wrong"
    )


def _three(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
