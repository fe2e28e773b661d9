"""The paper's tables and the points of its figures, and its laws as printed (arXiv 2106.04560v2)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

BATCH = 4096
IMAGES = {"30M": 30e6, "300M": 300e6, "1B": 1e9, "3B": 3e9,
          "1.3M": 1.3e6, "2.6M": 2.6e6, "5.1M": 5.1e6, "10.2M": 10.2e6, "13M": 13e6}  # fmt: skip
FEWSHOT, FINETUNE = "zhai_fewshot_tables4-13.csv", "zhai_finetune_tables14-22.csv"
FIGURE_2, FIGURE_4 = "zhai_fig2_points_digitized.csv", "zhai_fig4_in21k_points_digitized.csv"


@dataclass(frozen=True)
class Points:
    """Runs of a figure: TPUv3 core-days, error as a fraction, model, images in the data set, steps."""

    compute: np.ndarray
    error: np.ndarray
    model: np.ndarray
    unique: np.ndarray
    steps: np.ndarray

    def where(self, kept: np.ndarray) -> Points:
        """Some of the runs."""
        parts = (self.compute, self.error, self.model, self.unique, self.steps)
        return Points(*(part[kept] for part in parts))


@dataclass(frozen=True)
class Printed:
    """A law as the paper prints it: error = a (C + d)^-b + c, C in TPUv3 core-days."""

    a: float
    b: float
    c: float
    d: float
    where: str

    def predict(self, compute: np.ndarray) -> np.ndarray:
        """Error as a fraction."""
        return self.a * (np.asarray(compute, float) + self.d) ** -self.b + self.c


#: Figures 2, 4 and 9.
PRINTED = {
    "imagenet_finetune": Printed(0.26, 0.35, 0.09, 0.01, "figure 2, left"),
    "imagenet_10shot": Printed(0.63, 0.32, 0.12, 0.52, "figures 2, centre, and 9"),
    "imagenet_5shot": Printed(0.68, 0.32, 0.14, 0.67, "figure 9"),
    "cifar100_10shot": Printed(0.48, 0.21, 0.06, 0.03, "figure 9"),
    "cifar100_5shot": Printed(0.53, 0.20, 0.08, 0.07, "figure 9"),
    "pets_10shot": Printed(0.60, 0.77, 0.03, 0.75, "figure 9"),
    "pets_5shot": Printed(0.72, 0.72, 0.04, 0.97, "figure 9"),
    "birds_10shot": Printed(0.62, 0.43, 0.10, 0.55, "figure 9"),
    "birds_5shot": Printed(0.68, 0.37, 0.11, 0.65, "figure 9"),
    "imagenet21k_10shot": Printed(0.96, 0.61, 0.24, 1.57, "figure 4"),
}
#: Columns of tables 4-13 that figure 9 draws.
FEWSHOT_COLUMNS = {
    "imagenet_5shot": "INet5", "imagenet_10shot": "INet10", "cifar100_5shot": "Cifar5",
    "cifar100_10shot": "Cifar10", "pets_5shot": "Pets5", "pets_10shot": "Pets10",
    "birds_5shot": "Birds5", "birds_10shot": "Birds10",
}  # fmt: skip


def points(task: str) -> Points:
    """The runs behind a law of `PRINTED`: figure 2's or 4's points, or tables 4-13 for figure 9."""
    if task == "imagenet_finetune":
        return _figure_2("finetune")
    if task == "imagenet_10shot":
        return _figure_2("10shot")
    if task == "imagenet21k_10shot":
        rows = table(FIGURE_4)
        return _points(rows, [float(row["inet10shot_error_pct"]) for row in rows], "implied_steps_at_bs4096")
    if task not in FEWSHOT_COLUMNS:
        raise ValueError(f"the paper has no law of {task!r}; it has {', '.join(PRINTED)}")
    return _fewshot(FEWSHOT_COLUMNS[task])


def table(file: str) -> list[dict[str, str]]:
    """The rows of one of the four files."""
    text = resources.files("scalevit.study.paper").joinpath("published", file).read_text()
    return list(csv.DictReader(text.splitlines()))


def core_days(model: str, steps: float) -> float:
    """TPUv3 core-days of `steps` at batch 4096: figure 2's compute is a constant of the model times steps."""
    if model not in _rates():
        raise ValueError(f"figure 2 has no {model}; it has {', '.join(_rates())}")
    return _rates()[model] * steps


@cache
def _rates() -> dict[str, float]:
    own = _figure_2("10shot")
    return {
        str(name): float(np.median((own.compute / own.steps)[own.model == name]))
        for name in dict.fromkeys(own.model)
    }


def _figure_2(panel: str) -> Points:
    rows = [row for row in table(FIGURE_2) if row["panel"] == panel]
    return _points(rows, [float(row["error_pct"]) for row in rows], "steps_at_bs4096")


def _fewshot(column: str) -> Points:
    rows = [row for row in table(FEWSHOT) if row[column]]
    for row in rows:
        row["tpuv3_core_days"] = str(core_days(row["model"], float(row["steps_at_bs4096"])))
    return _points(rows, [100 - float(row[column]) for row in rows], "steps_at_bs4096")


def _points(rows: list[dict[str, str]], per_cent: list[float], steps: str) -> Points:
    return Points(
        np.array([float(row["tpuv3_core_days"]) for row in rows]),
        np.array(per_cent) / 100,
        np.array([row["model"] for row in rows]),
        np.array([IMAGES[row["data_size"]] for row in rows]),
        np.array([float(row[steps] or "nan") for row in rows]),
    )
