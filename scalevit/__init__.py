"""scalevit: plan, pretrain, probe and study Vision Transformers at any scale.

The public names are below; each is imported when it is first used, so that `import scalevit` costs
milliseconds and planning or fitting needs no torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers see of the names below
    from scalevit import config as config
    from scalevit import optim as optim
    from scalevit.cli.python_api import evaluate as evaluate
    from scalevit.cli.python_api import finetune as finetune
    from scalevit.cli.python_api import probe as probe
    from scalevit.cli.python_api import records as records
    from scalevit.cli.python_api import report as report
    from scalevit.cli.python_api import study as study
    from scalevit.config.lr_schedule import Schedule as Schedule
    from scalevit.config.lr_schedule import lr_at as lr_at
    from scalevit.config.model_sizes import Shape as Shape
    from scalevit.config.model_sizes import shape as shape
    from scalevit.config.run import Run as Run
    from scalevit.evals.predict import predict as predict
    from scalevit.evals.predict import preprocess as preprocess
    from scalevit.evals.probes import ridge_probe as ridge_probe
    from scalevit.model.vit import ViT as ViT
    from scalevit.model.weights import load as load
    from scalevit.model.weights import save as save
    from scalevit.study.laws.dimension import fit_dimension as fit_dimension
    from scalevit.study.laws.fit import Fit as Fit
    from scalevit.study.laws.fit import fit as fit
    from scalevit.study.laws.forecast import forecast as forecast
    from scalevit.study.laws.joint import fit_joint as fit_joint
    from scalevit.study.laws.joint import forecast_joint as forecast_joint
    from scalevit.study.laws.pareto import frontier as frontier
    from scalevit.study.planning.plan import plan as plan
    from scalevit.train.run import pretrain as pretrain

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
    "predict": "evals.predict",
    "preprocess": "evals.predict",
    "probe": "cli.python_api",
    "evaluate": "cli.python_api",
    "finetune": "cli.python_api",
    "study": "cli.python_api",
    "report": "cli.python_api",
    "records": "cli.python_api",
    "fit": "study.laws.fit",
    "Fit": "study.laws.fit",
    "fit_joint": "study.laws.joint",
    "fit_dimension": "study.laws.dimension",
    "forecast": "study.laws.forecast",
    "forecast_joint": "study.laws.joint",
    "frontier": "study.laws.pareto",
    "compare": "study.compare.sources",
    "CompareColumns": "study.compare.sources",
    "plan": "study.planning.plan",
}
_MODULES = {"optim": "optim", "config": "config"}

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"scalevit.{_MODULES[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"scalevit has no {name!r}")
    return getattr(importlib.import_module(f"scalevit.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
