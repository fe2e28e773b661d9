"""scalevit: plan, pretrain, probe and study Vision Transformers at any scale.

The public names are below; each is imported when it is first used, so that `import scalevit` costs
milliseconds and planning or fitting needs no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

#: How long OpenMP threads spin while they wait, for GNU's runtime (in loops) and LLVM's (in milliseconds).
#: Their own defaults keep a core busy for milliseconds, during which a thread that has work cannot run.
OPENMP_SPINNING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


def _bound_openmp_spinning() -> str:
    """Bound the spinning of OpenMP threads, in this process and its children, before a runtime starts.

    Gives "user" where the user has set a waiting policy, which stays; "late" where torch was imported before;
    else "bounded"."""
    if any(os.environ.get(name) for name in (*OPENMP_SPINNING, "OMP_WAIT_POLICY")):
        return "bounded" if all(os.environ.get(k) == v for k, v in OPENMP_SPINNING.items()) else "user"
    os.environ.update(OPENMP_SPINNING)
    return "late" if "torch" in sys.modules else "bounded"


openmp_spinning = _bound_openmp_spinning()

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
