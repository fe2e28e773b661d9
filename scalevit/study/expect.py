"""The error that a run should end with, from runs that others or you have finished.

A joint law in forward FLOPs of one image F, images seen n and unique images u, all saturating:

    E = a F^-alpha + b n_eff^-beta + c,     n_eff = ((n + d)^-q + (k u F^h)^-q)^(-1/q)

Images seen beyond what u unique ones can teach stop to help, sooner for larger models (h < 0) or later
(h > 0). FLOPs, not parameters, measure the size of a ViT: patches of 16 and 32 pixels share their weights.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from scipy.optimize import least_squares

from scalevit.shapes import shape

#: Table of the paper, column of the accuracy, column of the steps.
TABLES = {
    "imagenet_10shot": ("zhai_fewshot_tables4-13.csv", "INet10", "steps_at_bs4096"),
    "imagenet_finetune": ("zhai_finetune_tables14-22.csv", "ImageNet", "steps"),
}
SIZES = {"30M": 30e6, "300M": 300e6, "1B": 1e9, "3B": 3e9}
BATCH = 4096

Numbers = np.ndarray | float

#: Units that keep the parameters near 1: FLOPs, images, unique images.
UNITS = (1e11, 1e9, 1e9)
#: a, alpha, b, beta, k, c, d, q in logs, then h.
START = np.append(np.log([0.12, 0.3, 0.09, 0.55, 15.0, 0.05, 0.02, 1.5]), 0.0)


@dataclass(frozen=True)
class Expected:
    """Error as a fraction with its 90 % interval; `beyond` names what lies outside the data."""

    error: float
    low: float
    high: float
    beyond: tuple[str, ...]


@dataclass(frozen=True)
class JointLaw:
    """A fitted joint law. spread: root mean square of log residuals on models left out of the fit."""

    parameters: np.ndarray
    spread: float
    lowest: np.ndarray
    highest: np.ndarray

    def error(self, flops: float, seen: float, unique: float) -> float:
        """Error as a fraction."""
        return float(np.exp(min(0.0, _log_error(self.parameters, *_scaled(flops, seen, unique)))))

    def expect(self, flops: float, seen: float, unique: float) -> Expected:
        """Error with a 90 % interval that widens with the distance from the data (in factors of e)."""
        inputs = np.log([flops, seen, unique])
        outside = np.maximum(0, np.maximum(np.log(self.lowest) - inputs, inputs - np.log(self.highest)))
        reach = 1.645 * self.spread * (1 + outside.sum())
        error = self.error(flops, seen, unique)
        names = np.array(["model size", "images seen", "unique images"])
        beyond = tuple(str(name) for name in names[outside > 1e-9])
        return Expected(error, error * math.exp(-reach), min(1.0, error * math.exp(reach)), beyond)


@dataclass(frozen=True)
class Runs:
    """Finished runs, one entry each: model's name, forward FLOPs, images seen, unique images, error."""

    model: np.ndarray
    flops: np.ndarray
    seen: np.ndarray
    unique: np.ndarray
    error: np.ndarray


def published(task: str) -> Runs:
    """The paper's Tables 4-13 or 14-22 as runs."""
    file, column, steps = TABLES[task]
    text = resources.files("scalevit.study").joinpath("published", file).read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row[column]]
    return Runs(
        np.array([row["model"] for row in rows]),
        np.array([shape(row["model"]).flops() for row in rows]),
        np.array([float(row[steps]) * BATCH for row in rows]),
        np.array([SIZES[row["data_size"]] for row in rows]),
        np.array([1 - float(row[column]) / 100 for row in rows]),
    )


@cache
def paper_law(task: str) -> JointLaw:
    """The joint law of the paper's own table."""
    return fit_joint(published(task))


def fit_joint(runs: Runs) -> JointLaw:
    """Robust least squares in log error; the spread comes from leaving out one model at a time."""
    inputs = _scaled(runs.flops, runs.seen, runs.unique)
    target = np.log(runs.error)
    best = _solve(START, inputs, target)
    missed = []
    for model in dict.fromkeys(runs.model):
        kept = runs.model != model
        without = _solve(best, tuple(np.asarray(x)[kept] for x in inputs), target[kept])
        missed.append(_log_error(without, *(np.asarray(x)[~kept] for x in inputs)) - target[~kept])
    spread = float(np.sqrt(np.mean(np.concatenate(missed) ** 2)))
    columns = np.stack([runs.flops, runs.seen, runs.unique])
    return JointLaw(best, spread, columns.min(1), columns.max(1))


def _solve(start: np.ndarray, inputs: tuple[Numbers, ...], target: np.ndarray) -> np.ndarray:
    """Bounded in logs: exponents and scales stay within e^±4 of the start, so nothing overflows."""

    def residuals(p: np.ndarray) -> Numbers:
        return _log_error(p, *inputs) - target

    return least_squares(
        residuals, start, bounds=(START - 4, START + 4), loss="huber", f_scale=0.05, max_nfev=200
    ).x


def _log_error(p: np.ndarray, flops: Numbers, seen: Numbers, unique: Numbers) -> Numbers:
    a, alpha, b, beta, k, c, d, q = np.exp(p[:-1])
    room = np.log(k) + np.log(unique) + p[-1] * np.log(flops)
    effective = -np.logaddexp(-q * np.log(seen + d), -q * room) / q
    return np.log(a * flops**-alpha + b * np.exp(-beta * effective) + c)


def _scaled(flops: Numbers, seen: Numbers, unique: Numbers) -> tuple[Numbers, ...]:
    return tuple(np.asarray(value, float) / unit for value, unit in zip((flops, seen, unique), UNITS))
