"""scalevit: plan, pretrain, probe and study Vision Transformers at any scale.

The public names are below; each is imported when it is first used, so that `import scalevit` costs
milliseconds and planning or fitting needs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Shape": "config.model_sizes",
    "shape": "config.model_sizes",
    "Schedule": "config.lr_schedule",
    "lr_at": "config.lr_schedule",
    "Run": "config.run",
    "ViT": "model.vit",
    "load": "model.weights",
    "save": "model.weights",
    "ridge_probe": "evals.probes",
    "pretrain": "train.run",
    "fit": "study.laws.fit",
    "Fit": "study.laws.fit",
    "fit_joint": "study.laws.joint",
    "fit_dimension": "study.laws.dimension",
    "forecast": "study.laws.forecast",
    "forecast_joint": "study.laws.joint",
    "frontier": "study.laws.pareto",
    "plan": "study.planning.plan",
}
_MODULES = {"optim": "optim", "records": "artifacts.records", "config": "config"}

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"scalevit.{_MODULES[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"scalevit has no {name!r}")
    return getattr(importlib.import_module(f"scalevit.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
