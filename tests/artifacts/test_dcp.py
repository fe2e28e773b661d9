"""The format is torch's own: what we write torch reads, what torch writes we read."""

import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

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


def test_transposed_tensors_of_torch_are_read(tmp_path):
    value = {
        "t": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        "z": torch.zeros(0, 3),
        "one": torch.ones(1, 4).T,
    }
    torch_dcp.save(value, checkpoint_id=str(tmp_path), no_dist=True)
    reader = dcp.ShardReader(tmp_path)
    assert all(same(reader.read_tensor(name), expected) for name, expected in value.items())


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def attribute_of_a_class():
    """BUILD on a class, as the index's pickle could do to pathlib's."""
    return b"\x80\x02cpathlib\nPosixPath\n(N}X\x04\0\0\0nameX\x05\0\0\0EVIL!stb."


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Evil()), pickle.dumps(Evil(), 0), attribute_of_a_class(), b"", b"\x80\x02", b"\x80\x02.",
        b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.", b"\x80\x02(t.",
        pickle.dumps({"a": 1}), b"\x80\x02]r\xff\xff\xff\xff.",
        b"\x80\x04\x8c\xff", b"\x80\x02\x8a\xff1.", pickle.dumps(bytes(9)), b"\x80\x02}]K\x01s.",
    ],
)  # fmt: skip
def test_an_index_of_a_stranger_runs_nothing_and_changes_nothing(tmp_path, data, capsys):
    (tmp_path / dcp.INDEX).write_bytes(data)
    with pytest.raises(ValueError, match="no index of a checkpoint"):
        dcp.ShardReader(tmp_path)
    assert capsys.readouterr().out == ""
    assert Path("/a/b").name == "b"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_index_is_refused_or_reads_the_same_folder(tmp_path_factory, data):
    """Random bytes changed anywhere in the index: an error in one line, or tensors of the folder's files."""
    folder = tmp_path_factory.mktemp("fuzz")
    write(folder, dcp.unsharded({"x": torch.ones(3, 2)}))
    index = bytearray((folder / dcp.INDEX).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    (folder / dcp.INDEX).write_bytes(index)
    try:
        reader = dcp.ShardReader(folder)
        for name in reader.locations:
            reader.read_tensor(name)
    except ValueError:
        return


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../outside"}, {"file": "/etc/passwd"}, {"file": ".."}, {"file": "link"},
        {"file": "missing"},
        {"start": 1}, {"start": 1 << 40}, {"length": 1 << 40}, {"length": 3}, {"size": (6, 2)},
        {"offset": (1, 0)},
        {"dtype": torch.float64}, {"size": (1 << 40, 1 << 40)}, {"shape": (1, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_an_index_reads_nothing_outside_its_folder_and_beyond_its_files(tmp_path, change):
    folder = tmp_path / "step_1"
    folder.mkdir()
    locations, _ = dcp.write_shards(folder, 0, dcp.unsharded({"x": torch.ones(3, 2)}))
    (tmp_path / "outside").write_bytes((folder / locations[0].file).read_bytes())
    (folder / "link").symlink_to(tmp_path / "outside")
    dcp.write_index(folder, [replace(locations[0], **change)])
    with pytest.raises(ValueError, match=r"elsewhere|missing|beyond|outside|make up|agree|cannot be read"):
        dcp.ShardReader(folder).read_tensor("x")
