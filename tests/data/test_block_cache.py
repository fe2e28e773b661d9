"""Blocks of neighbours are fetched together: few large requests, none of them twice, the same images."""

import threading
import time

import numpy as np
import pytest
import torch
from http_server import serving
from pictures import make_folder, make_shards

from scalevit.artifacts import remote
from scalevit.config.run import Data
from scalevit.data import block_cache
from scalevit.data.block_cache import with_block_cache
from scalevit.data.dataset import open_dataset
from scalevit.data.formats import parquet
from scalevit.data.index import cache
from scalevit.data.index.build import build
from scalevit.data.index.cache import LRUCache
from scalevit.data.registry import batches_of

COUNT = 480


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("blocks") / "f", COUNT)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "RETRY_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "cache"))


def epoch(source, **settings):
    loader = batches_of(Data(str(source), **settings), image=16, classes=3, batch=48)
    batches = [pair[1] for pair, _ in zip(loader.iter_from(0), range(COUNT // 48))]
    return torch.cat([batch.images for batch in batches])


def test_a_tar_far_away_is_read_in_pieces(folder, tmp_path, monkeypatch):
    packed = make_shards(folder, tmp_path / "p", "tar", shards=2)
    size = sum(file.stat().st_size for file in packed.glob("*.tar"))
    piece = size // 60
    monkeypatch.setattr(cache, "RANGE_BYTES", piece)
    monkeypatch.setattr(block_cache, "RANGE_BYTES", piece)
    wanted = epoch(packed, block=5)
    with serving(packed) as (address, seen):
        source = f"{address}/shard-{{000000..000001}}.tar"
        build(source)
        seen.clear()
        assert torch.equal(epoch(source, block=5, workers=3), wanted)
        assert len(seen) < 150  # each of the 60 pieces hardly more than twice
        seen.clear()
        assert torch.equal(epoch(source), epoch(packed))
        assert len(seen) >= COUNT
        assert (
            with_block_cache(open_dataset(source), 5, world=1000).reader is cache.UNCACHED
        )  # who uses little asks for it


def test_row_groups_stay_until_they_are_used_up(folder, tmp_path, monkeypatch):
    packed = make_shards(folder, tmp_path / "p", "parquet", shards=1)
    read, real = [], parquet._group
    monkeypatch.setattr(parquet, "_group", lambda *args: read.append(args[1]) or real(*args))
    monkeypatch.setattr("scalevit.data.pack.ROWS", 2)
    small = make_shards(folder, tmp_path / "q", "parquet", shards=1)
    epoch(packed)
    assert len(read) == 5  # there are no more than are kept in any case
    read.clear()
    epoch(small, block=2)
    assert 240 <= len(read) < 300
    read.clear()
    epoch(small)
    assert len(read) > 400


def test_what_would_fill_the_memory_is_refused(folder, monkeypatch):
    store = open_dataset(str(folder))
    assert with_block_cache(store, 10**9) is store  # files are read one by one anyway
    with pytest.raises(
        ValueError, match=r"data.block=1000000 would keep \d+\.\d GiB .* choose a smaller one"
    ):
        block_cache._in_use(1e6 / 40, 1 << 22, 1_000_000)


def test_what_is_kept_is_made_once_and_what_fails_is_made_again():
    values, made, failures = LRUCache(2), [], []

    def slowly():
        made.append(1)
        time.sleep(0.05)
        return "value"

    threads = [threading.Thread(target=values.get, args=("a", slowly)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            values.get("b", lambda: failures.append(1) or (_ for _ in ()).throw(OSError("away")))
    assert len(failures) == 2
    values.get("c", lambda: 1), values.get("d", lambda: 2)
    assert values.get("a", lambda: "anew") == "anew"  # two newer ones took its place


def test_pieces_join(tmp_path, monkeypatch):
    data = np.random.default_rng(0).bytes(1000)
    (tmp_path / "x").write_bytes(data)
    monkeypatch.setattr(cache, "RANGE_BYTES", 64)
    with serving(tmp_path) as (address, seen):
        pieces = cache.RangeCache(4)
        for start, length in ((0, 10), (60, 10), (0, 300), (990, 10), (990, 50), (128, 64), (5, 0)):
            assert pieces.read(f"{address}/x", start, length) == data[start : start + length]
        assert len(seen) < 16
