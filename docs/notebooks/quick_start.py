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
# # Quick start on a CPU, in Python
#
# Say what a run is, see what it costs, train it, go on where it stopped, probe it, and put it on one page.
# Under a minute on one core, no GPU, no data set, no network: the images are endless procedural pen
# strokes, and the test is real handwritten digits. Jupyter opens this file through jupytext; it also runs
# as `python quick_start.py`.

# %%
import tempfile
from pathlib import Path

import scalevit as sv
from scalevit.config.load import load

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A run is data
#
# A preset and changes to it. A mistake in a key or a value is an error that names the nearest right one,
# before anything is created. Planning needs no torch.

# %%
run = load("demo", [
    "name=quick", "model.width=64", "model.depth=2", "model.mlp=256", "model.heads=2", "model.classes=128",
    "schedule.steps=600", "schedule.cooldown=180", "schedule.warmup=30",
    "train.batch=64", "train.save_every=300",
])  # fmt: skip
shape = run.model.resolve()
print(f"{shape.parameters(16, 'gap', 128):,} parameters, {shape.flops(16) / 1e6:.2f} MFLOPs an image")
print(
    "learning rate at steps 1, 30, 420, 599:", [f"{sv.lr_at(run.schedule, s):.2e}" for s in (1, 30, 420, 599)]
)

giant = sv.plan(load("paper/G14"), device_name="h200", devices=256)
print(f"the same for ViT-G/14 on 256 H200: {giant.hours / 24:.0f} days (at an assumed MFU of 35 %), "
      f"ten-shot ImageNet error {100 * giant.expected['imagenet_10shot'].error:.1f} %")  # fmt: skip

# %% [markdown]
# ## Train
#
# In a terminal: `scalevit pretrain demo model.width=64 … --out runs/quick`. Interrupt it whenever you like:
# the same call goes on, to the same weights, bit for bit. On a finished run it does nothing.

# %%
done = sv.pretrain(run, folder / "quick")
again = sv.pretrain(run, folder / "quick")
print(f"{done.step} steps, complete: {done.stopped is None}; again: {again.step} steps")

# %% [markdown]
# ## Everything that was measured is in the records
#
# One line a number. A probe is worth little without its floors: what raw pixels and the untrained network
# reach on the same draws.

# %%
table = sv.records(folder / "quick")
losses = table[table.metric == "loss"]
print(
    "loss:", [(int(s), round(v, 2)) for s, v in zip(losses.step, losses.value)][:: max(1, len(losses) // 6)]
)


def error(metric):
    rows = table[(table.metric == metric) & (table.dataset == "digits") & (table.shots == 10)]
    return 1 - rows.value.mean()


trained, untrained, pixels = map(error, ("accuracy", "untrained_accuracy", "raw_pixels_accuracy"))
print(f"ten-shot error on digits: trained {trained:.1%}, untrained {untrained:.1%}, raw pixels {pixels:.1%}")

# %% [markdown]
# A few seconds of training beat the untrained network, not yet the pixels. `make demo` trains long enough
# for that.
#
# ## Use the model

# %%
import torch  # noqa: E402

model = sv.load(folder / "quick")
with torch.no_grad():
    features = model.features(torch.rand(4, 3, 16, 16) * 2 - 1)
print(tuple(features.shape))
sv.save(model, folder / "model")  # timm reads it, too
print(sorted(path.name for path in (folder / "model").iterdir()))

# %% [markdown]
# ## One page
#
# `scalevit report runs/quick` writes the same file: no server, no network, mail it.

# %%
from scalevit.study.report import html, results  # noqa: E402

page = html.write([results.read_results(folder / "quick")], folder / "report.html")
print(f"{page.name}: {page.stat().st_size // 1000} kB")
