"""Weights leave a checkpoint tensor by tensor, whatever wrote it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_run import TINY

from scalevit import config
from scalevit.artifacts import checkpoint, dcp, run_folder
from scalevit.model import export
from scalevit.model.formats import files
from scalevit.model.vit import ViT
from scalevit.tools.bench.checkpoint import growth
from scalevit.tools.memory_tracker import MemoryTracker

MIB = 2**20


def halves(tensors):
    """Pieces as two processes hold them: half of the rows each, and what has one row on the first."""
    shares = [], []
    for name, value in tensors.items():
        cut = -(-len(value) // 2)
        for share, part, first in zip(shares, (value[:cut], value[cut:]), (0, cut)):
            offset = (first,) + (0,) * (value.ndim - 1)
            share += [dcp.Shard(name, part, tuple(value.shape), offset)] if part.numel() else []
    return shares


def saved(out, model, run):
    """A checkpoint of step 1 by two processes."""
    out.mkdir()
    (out / run_folder.CONFIG).write_text(config.dump(run))
    draft = checkpoint.create_staging(out / run_folder.CHECKPOINTS, 1)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    written = [dcp.write_shards(draft, rank, share) for rank, share in enumerate(halves(tensors))]
    places = [place for found, _ in written for place in found]
    checkpoint.commit(draft, 1, places, [file for _, file in written], {})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures with Linux's /proc")
def test_no_more_than_one_tensor_and_a_share_of_it_is_in_memory(tmp_path, monkeypatch):
    network = replace(TINY.model, shape="S/16", width=768, mlp=3072, heads=12, depth=6, image=32)
    run = replace(TINY, model=network)
    model = ViT(network)
    saved(tmp_path / "run", model, run)
    expected = {name: value.double().sum().item() for name, value in model.state_dict().items()}
    largest = max(value.nbytes for value in model.state_dict().values())
    whole = sum(value.nbytes for value in model.state_dict().values())
    followed, fill, piece = MemoryTracker(), dcp.ShardReader.read_into, dcp.ShardReader._read_shard

    def follow(out):
        followed.track("read", [out])
        return out

    monkeypatch.setattr(dcp.ShardReader, "read_into", lambda self, n, out, o: fill(self, n, follow(out), o))
    monkeypatch.setattr(dcp.ShardReader, "_read_shard", lambda self, locate: follow(piece(self, locate)))
    with growth() as grown:
        export.export_run(run, tmp_path / "run", 1)
    assert largest < followed.peak <= 1.5 * largest and followed.live["read"] == 0
    assert grown.bytes < whole / 2  # with all that the allocator and imports keep
    with safe_open(tmp_path / "run/model/model.safetensors", "pt") as file:
        found = {name: file.get_tensor(name).double().sum().item() for name in file.keys()}  # noqa: SIM118
    assert found == expected


def test_safetensors_reads_what_is_streamed(tmp_path):
    tensors = {
        "wide": torch.arange(6, dtype=torch.float64).reshape(2, 3),
        "half": torch.randn(3, 5).bfloat16(),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 4),
        "view": torch.randn(4, 4).T,
        "true": torch.tensor([True, False]),
    }
    files.write_tensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
