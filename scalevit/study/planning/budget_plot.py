"""A picture of a budget's choice: expected error over size and images seen, and what the budget buys."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scalevit.study.planning.compute_budget import Basis, Budget, BudgetPlan

#: Errors at which a contour is drawn, in units of the choice's.
CONTOURS = np.array([0.7, 0.8, 0.9, 1.01, 1.05, 1.15, 1.3, 1.6, 2.0, 3.0])


def draw(budget: Budget, basis: Basis, answer: BudgetPlan, path: Path) -> None:
    """Contours of the expected error over size and images seen, lines of equal compute, and the choice."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    task, model = basis.laws.named(budget.task), answer.best.run.model
    own = basis.laws.flops(model.resolve(), model)
    least, most = _around(answer)
    flops, seen = np.geomspace(min(5e8, own / 30), 5e12, 60), np.geomspace(least, most, 60)
    error = 100 * basis.laws.errors(task, flops, seen[:, None], budget.unique_images)
    figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
    levels = 100 * answer.best.error * CONTOURS
    lines = axes.contour(flops / 1e9, seen / 1e6, error, levels=levels[levels < 100], cmap="viridis")
    axes.clabel(lines, fmt="%.1f %%", fontsize=8, inline_spacing=1)
    line = own / flops * answer.best.images / 1e6
    axes.plot(flops / 1e9, line, "k--", lw=1, label="the budget")
    axes.plot(flops / 1e9, line / 10, "k:", lw=0.7, label="a tenth of it, and ten times")
    axes.plot(flops / 1e9, 10 * line, "k:", lw=0.7)
    axes.plot(
        own / 1e9,
        answer.best.images / 1e6,
        "ko",
        label=f"{answer.best.name}, {100 * answer.best.error:.1f} %",
    )
    axes.set(
        xscale="log", yscale="log", xlabel="forward GFLOPs of one image", ylabel="images seen (millions)",
        ylim=(least / 1e6, most / 1e6), title=f"expected error, {task.replace('_', ' ')}",
    )  # fmt: skip
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)


def _around(answer: BudgetPlan) -> tuple[float, float]:
    """Images seen, from and to: the paper's runs, and farther where the choice lies elsewhere."""
    return min(1e7, answer.best.images / 30), max(1e11, answer.best.images * 10)
