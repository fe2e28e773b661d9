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
# # A scaling law from my own CSV
#
# From a table of finished runs to a law, a forecast with an interval, and a law of several inputs. Needs no
# torch. Jupyter opens this file through jupytext; it also runs as `python law_from_my_csv.py`.
#
# The table written here is made up, so that we know what should come out:
# error = 0.15 (F / 1e10)^-0.3 + 0.12 (n / 1e8)^-0.4 + 0.06 for F forward FLOPs of an image and n images seen,
# with 2 % scatter. Put your own file in its place.

# %%
import csv
import tempfile
from pathlib import Path

import numpy as np

import scalevit as sv

folder = Path(tempfile.mkdtemp())
table = folder / "runs.csv"
sizes = {"Ti/16": 2.5e9, "S/16": 9.2e9, "B/16": 3.5e10, "L/16": 1.23e11}


def planted(flops, images):
    return 0.15 * (flops / 1e10) ** -0.3 + 0.12 * (images / 1e8) ** -0.4 + 0.06


scatter = np.random.default_rng(0)
with table.open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["model", "flops_per_image", "images", "accuracy"])
    for model, flops in sizes.items():
        for images in np.geomspace(1e7, 3e9, 9):
            error = planted(flops, images) * np.exp(0.02 * scatter.normal())
            writer.writerow([model, flops, images, 1 - error])

# %% [markdown]
# ## One curve a model
#
# The same from a terminal:
# `scalevit fit runs.csv --x images --y accuracy --accuracy --group model --forecast 3e10 --picture law.svg`

# %%
from scalevit.study.design.table_groups import TableColumns, read_groups  # noqa: E402

groups, _ = read_groups(table, TableColumns(("images",), "accuracy", group="model", accuracy=True))
curves = {one.name: one for one in groups}
laws = {name: sv.fit(one.x, one.y, chance=1.0, bootstrap=300) for name, one in curves.items()}
for name, law in laws.items():
    low, high = law.ranges()["b"]
    print(f"{name}: floor {law.floor:.3f}, b {law.params['b']:.2f} [{low:.2f}, {high:.2f}], "
          f"{law.agreeing} of {law.starts} starts agree")  # fmt: skip

# %% [markdown]
# ## Ten times farther
#
# `forecast` averages several extrapolators; its interval comes from how badly they predicted what is known
# already, here and on the other models' curves. It bounds a new measurement, not just the law.

# %%
own = curves["L/16"]
related = [(one.x, one.y) for name, one in curves.items() if name != "L/16"]
ahead = sv.forecast(own.x, own.y, [3e10], level=0.9, related=related, chance=1.0)
print(f"L/16 after 3e10 images: {ahead.mean[0]:.4f} [{ahead.low[0]:.4f}, {ahead.high[0]:.4f}], "
      f"planted {planted(sizes['L/16'], 3e10):.4f}")  # fmt: skip
for warning in ahead.warnings:
    print("note:", warning)

# %% [markdown]
# ## All runs at once
#
# A joint law also says what a size that nobody has trained should reach. One model at a time is left out and
# predicted; the misses are the width of the interval, which grows outside the data. With a column of unique
# images, give it instead of None, and the law knows that repeated images help less.

# %%
names = [name for name, one in curves.items() for _ in one.x]
flops = np.array([sizes[name] for name in names])
images = np.concatenate([one.x for one in curves.values()])
error = np.concatenate([one.y for one in curves.values()])
joint = sv.fit_joint(flops, images, None, error, groups=names)
print(joint.law, {name: float(f"{value:.3g}") for name, value in joint.params.items()})
print(f"scatter {joint.spread:.2%}, left-out models missed by {joint.left_out:.2%}")
giant = joint.expect(5e11, 3e9)
print(f"four times the size of L/16: {giant.error:.4f} [{giant.low:.4f}, {giant.high:.4f}], "
      f"planted {planted(5e11, 3e9):.4f}; beyond the data in: {', '.join(giant.beyond)}")  # fmt: skip

# %% [markdown]
# ## The picture

# %%
from scalevit.study.laws.law_plot import Panel, draw  # noqa: E402

picture = folder / "law.svg"
draw(picture, [Panel("L/16", laws["L/16"], ahead)], "images seen", "error")
print(picture)
