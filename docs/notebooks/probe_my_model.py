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
# # What are my model's features worth?
#
# Few-shot accuracy of any function from images to features, by the paper's protocol (App. D): freeze it,
# give a ridge regression a few images a class, ask it about the rest. Always beside raw pixels. A few
# seconds on a CPU.
#
# The model here is no network at all, so that everybody can run it: histograms of edge directions. Put your
# own function in its place.

# %%
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A model: any function
#
# From float images (batch, 3, side, side) in [-1, 1] to features (batch, d), in a module that can be
# imported. A torch module works too, and so do folders of timm, transformers, open_clip and our runs, and
# big_vision's `.npz`.

# %%
(folder / "my_model.py").write_text('''
import torch


def edges(images, cells=4, directions=8):
    """How much edge of each direction is in each cell of a grid."""
    grey = images.mean(1)
    dy, dx = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1], grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    strength, angle = torch.hypot(dx, dy), torch.atan2(dy, dx) / (2 * torch.pi) % 1 * directions
    near = (1 - (angle[:, None] - torch.arange(directions)[:, None, None]).abs()).clamp(0)
    near[:, 0] += (angle - directions + 1).clamp(0)
    return torch.nn.functional.adaptive_avg_pool2d(near * strength[:, None], cells).flatten(1)
''')
sys.path.insert(0, str(folder))

# %% [markdown]
# ## Data: any labelled images
#
# A folder of classes, tars, parquet tables, or an `.npz` with `x` (n, h, w[, 3]) uint8 and `y`; `split` may
# say which images are support (0) and which are query (1). Here: scikit-learn's digits.

# %%
import numpy as np  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

digits = load_digits()
x = (digits.images * 255 / 16).astype(np.uint8)
np.savez(folder / "mine.npz", x=x, y=digits.target, split=np.arange(len(x)) % 2)

# %% [markdown]
# ## Probe
#
# In a terminal, from the folder of `my_model.py`:
# `scalevit probe my_model:edges mine.npz --image 32 --shots 1 5 10 25 --draws 10 --l2 1 8 64 --knn`

# %%
from scalevit.evals.backbones import open_model  # noqa: E402
from scalevit.evals.compare import ProbeProtocol, compare  # noqa: E402
from scalevit.evals.datasets.open import open_probe_set  # noqa: E402

ask = ProbeProtocol(shots=(1, 5, 10, 25), draws=10, l2=(1.0, 8.0, 64.0), methods=("ridge", "knn"))
lines = list(
    compare([open_model("my_model:edges", image=32)], [open_probe_set(str(folder / "mine.npz"))], ask)
)
for line in lines:
    if line.accuracy.shots == 10:
        strength = f"λ {line.accuracy.l2:g}" if line.accuracy.l2 is not None else ""
        interval = f"[{line.accuracy.low:.1%}, {line.accuracy.high:.1%}]"
        name, mean = line.baseline or line.model, line.accuracy.mean
        print(f"{name:<16} {line.method:<6} {strength:<6} {mean:.1%} {interval}")

# %% [markdown]
# λ matters as much as many a model: compare models at each one's best λ, and say which it was. The paper's
# 2¹⁰ suits a thousand classes and wide features; ten classes of ten images want far less.
#
# ## Features that you already have
#
# Two arrays are enough, and need no torch. Several λ cost one decomposition.

# %%
import scalevit as sv  # noqa: E402

flat = x.reshape(len(x), -1).astype(float)
half = np.arange(len(x)) % 2 == 0
accuracies = sv.ridge_probe(
    flat[half], digits.target[half], flat[~half], digits.target[~half], l2=[1.0, 8.0, 64.0]
)
print("all support images, raw pixels:", [f"{accuracy:.1%}" for accuracy in accuracies])

# %% [markdown]
# ## The picture

# %%
from scalevit.evals.figures import draw_accuracies  # noqa: E402

picture = folder / "shots.png"
draw_accuracies([line for line in lines if line.method == "ridge" and line.accuracy.l2 == 8], picture)
print(picture.name)
