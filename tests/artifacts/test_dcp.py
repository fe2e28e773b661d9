"""The format is torch's own: what we write torch reads, what torch writes we read."""

import pickle
from itertools import pairwise

import pytest
import torch
import torch.distributed.checkpoint as torch_dcp
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.artifacts import dcp

#: torch says so when it saves or loads without a process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {
        "blocks.0.weight": torch.randn(6, 5, generator=generator),
        "half": torch.randn(7, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "counts": torch.arange(4),
        "view": torch.randn(8, 8, generator=generator).T[2:4],
    }


def write(folder, pieces):
    places, _ = dcp.write_shards(folder, 0, pieces)
    dcp.write_index(folder, places)
    return dcp.ShardReader(folder)


def same(found, expected):
    return found.dtype == expected.dtype and torch.equal(found, expected)


def test_torch_reads_what_we_write(tmp_path):
    write(tmp_path, dcp.unsharded(tensors()))
    out = {name: torch.zeros_like(value) for name, value in tensors().items()}
    torch_dcp.load(out, checkpoint_id=str(tmp_path), no_dist=True)
    assert all(same(out[name], value) for name, value in tensors().items())


def test_torch_converts_what_we_write_to_one_file(tmp_path):
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    (tmp_path / "in").mkdir()
    write(tmp_path / "in", dcp.unsharded(tensors()))
    dcp_to_torch_save(tmp_path / "in", tmp_path / "out.pt")
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    assert all(same(out[name], value) for name, value in tensors().items())


def test_we_read_what_torch_writes(tmp_path):
    torch_dcp.save(tensors(), checkpoint_id=str(tmp_path), no_dist=True)
    reader = dcp.ShardReader(tmp_path)
    assert all(same(reader.read_tensor(name), value) for name, value in tensors().items())


def test_a_view_does_not_drag_its_storage_along(tmp_path):
    big = torch.zeros(1 << 20)
    _, written = dcp.write_shards(tmp_path, 0, dcp.unsharded({"small": big[:4]}))
    assert written.bytes < 4096


@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.integers(1, 9), columns=st.integers(1, 5))
def test_any_block_of_any_sharding(tmp_path_factory, data, rows, columns):
    """Written in random bands, read as a random block: what indexing the whole tensor gives."""
    full = torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=3))})
    bands = [dcp.Shard("x", full[a:b], (rows, columns), (a, 0)) for a, b in pairwise(cuts)]
    reader = write(tmp_path_factory.mktemp("dcp"), bands)
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    height, width = data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
    out = torch.full((height, width), -1.0)
    reader.read_into("x", out, (top, left))
    assert torch.equal(out, full[top : top + height, left : left + width])
    assert torch.equal(reader.read_tensor("x"), full)


def test_an_index_cannot_smuggle_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    (tmp_path / dcp.INDEX).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"):
        dcp.ShardReader(tmp_path)
