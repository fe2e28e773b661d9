"""Reading in the order of blocks: what lies together is fetched together, and kept until it is used up."""

from __future__ import annotations

import math
from dataclasses import replace

from scalevit.artifacts.remote import is_remote
from scalevit.data.dataset import ImageDataset
from scalevit.data.index.cache import RANGE_BYTES, CachedReader, LRUCache, RangeCache
from scalevit.data.order import GROUP

#: Bytes that may be kept in memory.
MOST = 4 << 30
#: Of each piece a process uses at least so many images, or it is better to ask for each one.
WORTH = 4
#: While a group of blocks is used up, the next one is begun.
_ROOM = 1.5


def with_block_cache(store: ImageDataset, block: int, world: int = 1) -> ImageDataset:
    """The same samples, to be read in an `Order` of this `block` by `world` processes that share each batch:
    remote tars in large pieces, tables with all row groups kept that are in use.

    Raises ValueError when what is in use takes more than MOST bytes."""
    first = store.shards[0]
    length = float(first.records["length"].mean())  # 0 in a table that is not indexed
    if first.header.form in ("parquet", "arrow"):
        rows = int((first.records["offset"] == first.records["offset"][0]).sum())
        return replace(
            store, reader=CachedReader(groups=LRUCache(_in_use(block / rows, rows * length, block)))
        )
    if is_remote(first.header.path) and WORTH * world * length <= RANGE_BYTES:
        return replace(
            store,
            reader=CachedReader(RangeCache(_in_use(block * length / RANGE_BYTES, RANGE_BYTES, block)).read),
        )
    return store


def _in_use(parts: float, size: float, block: int) -> int:
    """How many parts of `size` bytes are in use at a time, where a block goes over `parts` of them."""
    count = math.ceil(_ROOM * GROUP * (parts + 2))  # neither end of a block is that of a part
    if count * size > MOST:
        raise ValueError(
            f"data.block={block} would keep {count * size / 2**30:.1f} GiB of images in memory, over "
            f"{MOST >> 30}; choose a smaller one"
        )
    return count
