"""scalevit: plan, pretrain, probe and study Vision Transformers at any scale.

The public names are below; each is imported when it is first used, so that `import scalevit` costs
milliseconds and planning or fitting needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Shape": "shapes",
    "shape": "shapes",
    "Schedule": "schedule",
    "lr_at": "schedule",
    "Run": "config",
    "ViT": "model",
    "load": "weights",
    "save": "weights",
    "ridge_probe": "evals.probes",
    "pretrain": "run",
    "fit": "study.laws",
    "Fit": "study.laws",
    "fit_joint": "study.joint",
    "fit_dimension": "study.dimension",
    "forecast": "study.forecast",
    "forecast_joint": "study.joint",
    "frontier": "study.frontier",
    "plan": "study.plan",
}
_MODULES = ("optim", "records", "config")

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"scalevit.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"scalevit has no {name!r}")
    return getattr(importlib.import_module(f"scalevit.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
