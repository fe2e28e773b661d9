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
# # How sure is a forecast?
#
# A law that fits well where the data are may be wrong beyond them, so the interval of a forecast does not
# come from the noise of the fit. Here forty curves are planted, cut, forecast, and compared with what comes
# next: how many of the 90 % intervals hold it, how wide they are, and what makes them narrower. Needs no
# torch.

# %%
import tempfile
from pathlib import Path

import numpy as np

import scalevit as sv

AHEAD = np.array([2.0, 4.0, 10.0])


def measured(seed, noise=0.01, points=16, longest=1000.0):
    """A saturating law with random coefficients: x, y, and later measurements, at 2, 4 and 10 times the last
    x."""
    random = np.random.default_rng(seed)
    b, c, d = random.uniform(0.2, 0.7), random.uniform(0, 0.2), random.uniform(0.1, 3)
    x = np.append(np.geomspace(1, longest, points), longest * AHEAD)
    y = (0.6 * (x + d) ** -b + c) * np.exp(noise * random.normal(size=len(x)))
    return x[:points], y[:points], y[points:]


def held(curves, **more):
    """Share of later measurements inside 90 % intervals, and the intervals' width, by distance."""
    inside, width = [], []
    for x, y, later in curves:
        ahead = sv.forecast(x, y, x[-1] * AHEAD, chance=1.0, **more)
        inside.append((ahead.low <= later) & (later <= ahead.high))
        width.append(np.log(ahead.high / ahead.low))
    return np.mean(inside, axis=0), np.mean(width, axis=0)


# %% [markdown]
# ## Do 90 % intervals hold 90 %?
#
# The bootstrap interval of a fit says where the law lies if its form is right. The forecast's interval says
# where the next measurement lies.

# %%
curves = [measured(seed) for seed in range(40)]
coverage, width = held(curves)
bootstrap = []
for x, y, later in curves[:20]:
    low, high = sv.fit(x, y, "M2", bootstrap=100).interval(x[-1] * AHEAD)
    bootstrap.append((low <= later) & (later <= high))
print("times the last x        ", *(f"{times:6.0f}" for times in AHEAD))
print("held by forecasts       ", *(f"{share:6.2f}" for share in coverage))
print("width of their intervals", *(f"{wide:6.2f}" for wide in width))
print("held by M2's bootstrap  ", *(f"{share:6.2f}" for share in np.mean(bootstrap, axis=0)))

# %% [markdown]
# ## What makes a forecast surer
#
# Less noise near the data, more points, and not asking so far. Noise that is known (from seeds, or from the
# number of test items: an error e on n items has a relative standard deviation of sqrt((1 - e) / (e n))) can
# be given instead of being read off a few points.

# %%
few = held([measured(seed, points=6) for seed in range(15)])
noisy = held([measured(seed, noise=0.05) for seed in range(15)])
told = held([measured(seed, points=6) for seed in range(15)], noise=0.01)
for name, (share, wide) in {"6 points": few, "5 % noise": noisy, "6 points, noise known": told}.items():
    print(f"{name:<24} held", *(f"{one:5.2f}" for one in share), " width", *(f"{one:5.2f}" for one in wide))

# %% [markdown]
# ## What the package says of its own intervals
#
# The same question was asked of public curves whose families had no part in choosing the settings
# (`benchmarks/laws.py`). The words that `scalevit fit` prints beside a forecast come from there.

# %%
from scalevit.study.laws.interval import coverage_words  # noqa: E402

for times in (1.3, 5, 20, 100):
    print(coverage_words(times))

# %% [markdown]
# ## A picture

# %%
from scalevit.study.laws.law_plot import Panel, draw  # noqa: E402

x, y, later = measured(3)
ahead = sv.forecast(x, y, x[-1] * AHEAD, chance=1.0)
picture = Path(tempfile.mkdtemp()) / "forecast.svg"
draw(picture, [Panel("measured and forecast", sv.fit(x, y, bootstrap=200), ahead)], "x", "error")
print(picture)
