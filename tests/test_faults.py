"""A disk that is really full: a run says so, keeps its last checkpoint, and goes on once there is room."""

import subprocess
import sys
from dataclasses import replace

import pytest
from test_run import TINY, weights

from scalevit import checkpoint, config
from scalevit.run import pretrain

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of four MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs more rights than this user has")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(small_disk, tmp_path):
    run = replace(TINY, train=replace(TINY.train, save_every=1))
    (tmp_path / "run.yaml").write_text(config.dump(run))
    assert pretrain(run, small_disk / "run", max_minutes=0).step == 1
    filler = small_disk / "filler"
    used = sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())
    filler.write_bytes(bytes((4 << 20) - used - 120_000))
    words = [sys.executable, "-m", "scalevit", "pretrain", str(tmp_path / "run.yaml")]
    done = subprocess.run([*words, "--out", str(small_disk / "run")], capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    whole = checkpoint.latest(small_disk / "run" / "checkpoints", lambda text: None)
    assert whole is not None
    assert whole.step >= 1
    filler.unlink()
    assert pretrain(run, small_disk / "run").stopped is None
    pretrain(run, tmp_path / "roomy")
    assert weights(small_disk / "run") == weights(tmp_path / "roomy")
