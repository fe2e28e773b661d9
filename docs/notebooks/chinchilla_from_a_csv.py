# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Chinchilla from a CSV
#
# From a table of model size, tokens and loss to L(N, D) = a_F N^-b_F + a_n D^-b_n + c, and from it to the
# compute-optimal size and data for a budget (arXiv 2203.15556, approach 3), with intervals. Needs no torch.
#
# The table written here is made up, so that we know what should come out: the law that arXiv 2404.10102
# refitted, 1.8172 + 482.01 N^-.3478 + 2085.43 D^-.3658, with 0.5 % scatter, and one run that diverged. Put
# your own file in its place. The same from a terminal:
#
# `scalevit fit runs.csv --x N D --y loss --without-outliers --optimal 1e24 --picture law.png`

# %%
import csv
import tempfile
from pathlib import Path

import numpy as np

import scalevit as sv

folder = Path(tempfile.mkdtemp())
table = folder / "runs.csv"


def planted(size, data):
    return 1.8172 + 482.01 * size**-0.3478 + 2085.43 * data**-0.3658


scatter = np.random.default_rng(0)
with table.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["N", "D", "loss"])
    for budget in np.geomspace(6e18, 3e21, 8):
        for factor in np.geomspace(0.2, 5, 8):
            size = 0.1 * budget**0.5 * factor
            data = budget / 6 / size
            writer.writerow([size, data, planted(size, data) * np.exp(0.005 * scatter.normal())])
    writer.writerow([1e9, 1e10, "nan"])

# %% [markdown]
# ## The law
#
# `fit_joint` takes columns by name. Losses have no chance level; errors below 1 get one.

# %%
law = sv.fit_joint("N", "D", "loss", data=table)
for name, (low, high) in law.ranges(0.9).items():
    print(f"{name:<4} {law.params[name]:10.4g}  90 % [{low:.4g}, {high:.4g}]")
print(f"scatter {law.spread:.2%}, sizes left out of the fit missed by {law.left_out:.2%}")

# %% [markdown]
# ## Compute-optimal size and data
#
# The law is minimised over N at D = C / (6 N), for the fit and for each bootstrap replicate.

# %%
best = law.optimal([5.76e23, 1e24])
for i, compute in enumerate(best.compute):
    low, high = best.size_interval[:, i]
    print(f"C = {compute:.3g}: {best.size[i]:.3g} parameters [{low:.3g}, {high:.3g}], "
          f"{best.data[i]:.3g} tokens, {best.ratio[i]:.1f} a parameter, loss {best.y[i]:.3f}")  # fmt: skip
print(f"optimal size grows as C^{best.exponent:.3f} "
      f"[{best.exponent_interval[0]:.3f}, {best.exponent_interval[1]:.3f}]")  # fmt: skip
for warning in best.warnings:
    print("note:", warning)

# %% [markdown]
# ## The other way: IsoFLOP profiles
#
# A parabola in ln N for each budget, and a power law through the lowest points. Parabolas are biased where
# the sizes do not surround the lowest point evenly; where both ways disagree, trust neither.

# %%
from scalevit.study.design.table import load_table  # noqa: E402
from scalevit.study.laws.compute_optimal import isoflop  # noqa: E402

columns = load_table(table)
size, data, loss = (columns.numbers(name) for name in ("N", "D", "loss"))
known = np.isfinite(loss)
profiles = isoflop(size[known], data[known], loss[known])
print(f"{len(profiles.compute)} budgets: C^{profiles.exponent:.3f}, at 1e24 {profiles.size_at(1e24):.3g}")

# %% [markdown]
# ## The picture

# %%
from scalevit.study.laws.law_plot import draw_joint  # noqa: E402

picture = folder / "law.svg"
draw_joint(picture, law, best, profiles, ("parameters", "tokens"), "loss")
print(picture)
