"""Robust least squares in log error for a batch of problems at once: Levenberg and Marquardt's method.

One batch holds all starts of a fit, all bootstrap replicates or all back-tests: they share a form and differ
in the start, the weights of the points, or both. A weight of zero leaves a point out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scalevit.study.laws.forms import Array, Form

TOLERANCE = 1e-10
STIFFEST = 1e9


@dataclass(frozen=True)
class Prior:
    """Gaussian in theta, in units of the loss: adds (theta - mean)' precision (theta - mean) / 2."""

    mean: Array
    precision: Array


@dataclass(frozen=True)
class Problem:
    """u, v (b, n) or (1, n): ln x and ln y in the form's units; weights likewise; Huber's knee (b,)."""

    form: Form
    u: Array
    v: Array
    weights: Array
    knee: Array
    prior: Prior | None = None

    def rows(self, kept: Array) -> Problem:
        """The same for some rows of the batch."""
        u, v, weights, knee = (
            a if len(a) == 1 else a[kept] for a in (self.u, self.v, self.weights, self.knee)
        )
        prior = self.prior
        if prior is not None and len(prior.mean) > 1:
            prior = Prior(prior.mean[kept], prior.precision[kept])
        return Problem(self.form, u, v, weights, knee, prior)

    def loss(self, theta: Array) -> Array:
        """Huber's loss of the log residuals, plus the prior: (b,)."""
        return self._loss(theta, self.form.value(theta, self.u)[0] - self.v)

    def _loss(self, theta: Array, residual: Array) -> Array:
        size, knee = np.abs(residual), self.knee[:, None]
        rho = np.where(size <= knee, 0.5 * residual**2, knee * (size - 0.5 * knee))
        loss = np.sum(self.weights * rho, axis=1)
        if self.prior is not None:
            away = theta - self.prior.mean
            loss = loss + 0.5 * np.einsum("bp,bpq,bq->b", away, self._precision(theta), away)
        return loss

    def _precision(self, theta: Array) -> Array:
        assert self.prior is not None
        return np.broadcast_to(self.prior.precision, (len(theta), *self.prior.precision.shape[1:]))

    def normal_equations(self, theta: Array) -> tuple[Array, Array, Array]:
        """Loss (b,), gradient (b, p) and Gauss-Newton matrix (b, p, p)."""
        value, jacobian = self.form.value(theta, self.u)
        residual = value - self.v
        inside = self.knee[:, None] / np.maximum(np.abs(residual), 1e-300)
        weighted = jacobian * (self.weights * np.minimum(1.0, inside))[:, :, None]
        gradient = np.einsum("bnp,bn->bp", weighted, np.broadcast_to(residual, weighted.shape[:2]))
        matrix = np.matmul(weighted.transpose(0, 2, 1), jacobian)
        if self.prior is not None:
            precision = self._precision(theta)
            gradient = gradient + np.einsum("bpq,bq->bp", precision, theta - self.prior.mean)
            matrix = matrix + precision
        return self._loss(theta, residual), gradient, matrix


def levenberg_marquardt(
    problem: Problem, start: Array, iterations: int = 80, tolerance: float = TOLERANCE,
    held: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Minimise from each row of `start` (b, p) within the form's bounds -> theta (b, p), loss (b,).
    `held` (p,) marks parameters that stay as they start."""
    low, high = problem.form.low, problem.form.high
    held = np.zeros(len(low), bool) if held is None else held
    theta = np.clip(np.asarray(start, float), low, high)
    loss = problem.loss(theta)
    damping = np.full(len(theta), 1e-2)
    busy = np.arange(len(theta))
    for _ in range(iterations):
        part = problem.rows(busy)
        _, gradient, matrix = part.normal_equations(theta[busy])
        step = _step(theta[busy], gradient, matrix, damping[busy], low, high, held)
        tried = np.clip(theta[busy] + step, low, high)
        now = part.loss(tried)
        better = now < loss[busy]
        done = np.where(
            better, loss[busy] - now <= tolerance * (loss[busy] + 1e-300), damping[busy] > STIFFEST
        )
        theta[busy[better]], loss[busy[better]] = tried[better], now[better]
        damping[busy] = np.clip(damping[busy] * np.where(better, 0.2, 5.0), 1e-9, 1e12)
        busy = busy[~done]
        if not len(busy):
            break
    return theta, loss


def _step(
    theta: Array, gradient: Array, matrix: Array, damping: Array, low: Array, high: Array, held: Array
) -> Array:
    """Damped Gauss-Newton; a parameter that a bound holds stays where it is."""
    held = held | ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    free = ~held
    matrix = matrix * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("bpp->bp", matrix)
    floor = 1e-9 * np.max(diagonal, axis=1, keepdims=True) + 1e-30
    extra = np.where(held, 1.0, damping[:, None] * diagonal + floor)
    size = np.arange(theta.shape[1])
    matrix[:, size, size] += extra
    return -np.linalg.solve(matrix, (gradient * free)[:, :, None])[:, :, 0]
