"""Accuracies measured by several processes are those of one: in a run, by `probe` and by `evaluate`, with the
weights in shares and with a test set that no number of processes divides.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from pictures import make_folder
from tiny_run import TINY

from scalevit import config
from scalevit.artifacts import records
from scalevit.cli import main

pytestmark = pytest.mark.slow

#: Blocks of 64 images: 3 of support, 4 of query images, the last one of 7.
SUPPORT, QUERY = 150, 199
STEPS = (
    "schedule.steps=6", "schedule.warmup=2", "schedule.cooldown=2", "train.batch=12", "train.micro_batch=0",
    "train.log_every=1", "train.save_every=0", "train.keep_at=[]", "parallel.strategy=fsdp",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An .npz of bright stripes in noise, and the runs of 1, 2 and 3 processes that were probed on it."""
    home = tmp_path_factory.mktemp("home")
    draw, labels = np.random.default_rng(0), np.arange(SUPPORT + QUERY) % 5
    images = draw.integers(0, 120, (len(labels), 16, 16), np.uint8)
    for image, label in zip(images, labels):
        image[3 * label : 3 * label + 3] += 25
    np.savez(home / "stripes.npz", x=images, y=labels, split=(np.arange(len(labels)) >= SUPPORT).astype(int))
    (home / "run.yaml").write_text(config.dump(TINY))
    assert main.main(pretraining(home, "run1")) == 0
    for processes in (2, 3):
        over(processes, pretraining(home, f"run{processes}"))
    return home


def pretraining(home, out, every=2):
    """Words of a run that is probed in every so many steps, and at its end."""
    probe = (f"probe.datasets=[{home}/stripes.npz]", "probe.shots=[1,5]", "probe.draws=3")
    words = [*STEPS, *probe, f"train.eval_every={every}", "--out", str(home / out)]
    return ["pretrain", str(home / "run.yaml"), *words]


def over(processes, words, status=0):
    """What torchrun's processes print, and what is said of their end."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    words = [*start, "--standalone", "-m", "scalevit", *words]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def told(folder):
    """Every accuracy in a run's records: of the model and of its floors."""
    wanted = ("kind", "step", "metric", "shots", "seed", "value")
    return [
        [row[key] for key in wanted]
        for row in records.read_records(folder)
        if row["kind"] in ("probe", "floor")
    ]


@pytest.mark.parametrize("processes", [2, 3])
def test_a_run_measures_itself_alike(home, processes):
    found = told(home / f"run{processes}")
    assert found == told(home / "run1")
    assert len(found) == 3 * 2 * 3 + 2 * 2 * 3  # three times, two shots, three draws; two floors
    assert len({value for *_, value in found}) > 5


def test_measuring_does_not_change_a_sharded_run(home):
    over(2, pretraining(home, "once", every=0))
    both = [
        [row["value"] for row in records.read_records(home / out) if row["metric"] in ("loss", "grad_norm")]
        for out in ("run2", "once")
    ]
    assert both[0] == both[1]
    weights = [(home / out / "model" / "model.safetensors").read_bytes() for out in ("run2", "once")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("processes", [2, 3])
def test_probe_and_evaluate_print_the_same_once(home, processes, capsys):
    model, data = str(home / "run1"), str(home / "stripes.npz")
    for words in (
        ["probe", model, data, "--shots", "1", "5", "--knn", "--cache", str(home / f"cache{processes}")],
        ["evaluate", model, data],
    ):
        capsys.readouterr()
        assert main.main([*words, "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        printed, _ = over(processes, [*words, "--json"])
        assert json.loads(printed) == alone


def test_a_broken_image_that_one_process_meets_is_named_once(home, tmp_path):
    """The second of three processes meets it, in its first block."""
    root = make_folder(tmp_path / "photos", 198)
    (tmp_path / "map.json").write_text(json.dumps({"ant": 0, "bee": 1, "cow": 2}))
    file = sorted(root.glob("bee/*.jpg"))[20]
    file.write_bytes(file.read_bytes()[:300])
    words = ["evaluate", str(home / "run1"), str(root), "--map", str(tmp_path / "map.json")]
    _, said = over(3, words, status=1)
    (line,) = [line for line in said.splitlines() if "job ends" in line]
    assert str(file) in line
