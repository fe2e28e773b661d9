"""Shards over HTTP: ranges, retries, and one clear line when a server is away or refuses."""

import pytest
import torch
from http_server import serving
from pictures import make_folder, make_shards

from scalevit.artifacts import remote
from scalevit.config.run import Data
from scalevit.data.dataset import open_dataset
from scalevit.data.index.build import build
from scalevit.data.registry import batches_of


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "RETRY_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_a_run_over_http_sees_what_a_local_one_sees(tmp_path, form):
    packed = make_shards(make_folder(tmp_path / "f"), tmp_path / "p", form)
    with serving(packed, fail_first=2) as (address, _):
        pattern = f"{address}/shard-{{000000..000002}}.{form}"
        assert build(pattern).samples == 30  # its index lies in the cache
        options = {"transform": "inception"}
        mine = batches_of(Data(str(packed), **options), image=16, classes=3, batch=12)
        theirs = batches_of(Data(pattern, **options), image=16, classes=3, batch=12)
        for step in range(5):
            assert torch.equal(mine[step].images, theirs[step].images)
            assert torch.equal(mine[step].labels, theirs[step].labels)
    assert not list(packed.glob("*index*"))


def test_a_changed_remote_shard_is_refused(tmp_path):
    packed = make_shards(make_folder(tmp_path / "f"), tmp_path / "p", "tar", shards=1)
    with serving(packed) as (address, _):
        build(f"{address}/shard-000000.tar")
        with (packed / "shard-000000.tar").open("ab") as file:
            file.write(bytes(512))
        with pytest.raises(ValueError, match="changed after it was indexed"):
            open_dataset(f"{address}/shard-000000.tar")


def test_a_server_that_stays_away_refuses_or_knows_nothing(tmp_path):
    (tmp_path / "a.tar").write_bytes(bytes(2048))
    with serving(tmp_path, fail_first=99) as (address, seen):
        with pytest.raises(remote.StoreUnavailable, match=r"/a\.tar: Service Unavailable after 4 tries"):
            open_dataset(f"{address}/a.tar")
        assert len(seen) == 4
    with serving(tmp_path, status=403) as (address, seen):
        with pytest.raises(ValueError, match="access refused; give credentials"):
            open_dataset(f"{address}/a.tar")
        assert len(seen) == 1
    with serving(tmp_path) as (address, _), pytest.raises(ValueError, match="no such file"):
        open_dataset(f"{address}/b.tar")
    with pytest.raises(remote.StoreUnavailable, match="after 4 tries"):
        open_dataset(f"{address}/a.tar")  # nobody listens any more
    with serving(tmp_path, ranges=False) as (address, _), pytest.raises(ValueError, match="ignores ranges"):
        remote.read_range(f"{address}/a.tar", 512, 10)


def test_fsspec_addresses(tmp_path):
    import fsspec

    packed = make_shards(make_folder(tmp_path / "f"), tmp_path / "p", "tar")
    memory = fsspec.filesystem("memory")
    for shard in packed.glob("*.tar"):
        memory.pipe(f"/bucket/{shard.name}", shard.read_bytes())
    assert open_dataset("memory://bucket/shard-{000000..000002}.tar").samples == 30
    assert open_dataset("memory://bucket/*.tar").encoded(7) == open_dataset(str(packed)).encoded(7)
    with pytest.raises(ValueError, match="no such file"):
        open_dataset("memory://bucket/other.tar")
    with pytest.raises(ValueError, match=r'abfs:// cannot be used here .*pip install "adlfs"'):
        open_dataset("abfs://bucket/a.tar")
    with pytest.raises(ValueError, match="nonsense:// cannot be used here"):
        open_dataset("nonsense://bucket/a.tar")
