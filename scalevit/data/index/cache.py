"""What was read last, kept: large pieces of remote files and row groups of tables, each read once though
several threads ask for it at the same time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scalevit.artifacts import remote

#: Bytes of a piece. A request for one costs little more than a request for an image.
RANGE_BYTES = 4 << 20
#: Row groups kept where nothing is known of the order in which samples are asked for.
GROUPS = 8


class LRUCache:
    """Values by key, of which the `most` used last stay."""

    def __init__(self, most: int) -> None:
        self.most, self._lock = most, threading.Lock()
        self._values: OrderedDict[Hashable, Future[Any]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of `key`, made by whoever asks first; what `make` raises is raised to all who wait."""
        with self._lock:
            value = self._values.get(key)
            is_mine = value is None
            if value is None:
                value = self._values[key] = Future()
            self._values.move_to_end(key)
            while len(self._values) > self.most:
                self._values.popitem(last=False)
        if is_mine:
            self._make(key, value, make)
        return value.result()

    def _make(self, key: Hashable, value: Future[Any], make: Callable[[], Any]) -> None:
        try:
            value.set_result(make())
        except BaseException as error:
            with self._lock:
                if self._values.get(key) is value:
                    del self._values[key]
            value.set_exception(error)


class RangeCache:
    """Reads of remote files, served from pieces of them."""

    def __init__(self, most: int) -> None:
        self.kept = LRUCache(most)

    def read(self, path: str, start: int, length: int) -> bytes:
        """As `remote.read` does."""
        if not remote.is_remote(path):
            return remote.read_range(path, start, length)
        first, last = start // RANGE_BYTES, (start + max(length, 1) - 1) // RANGE_BYTES
        joined = b"".join(
            self.kept.get((path, n), partial(remote.read_range, path, n * RANGE_BYTES, RANGE_BYTES))
            for n in range(first, last + 1)
        )
        return joined[start - first * RANGE_BYTES :][:length]


def _plain(path: str, start: int, length: int) -> bytes:
    return remote.read_range(path, start, length)


@dataclass(frozen=True)
class CachedReader:
    """How a form gets at bytes. read: a part of a file, as `remote.read`; groups: row groups of tables."""

    read: Callable[[str, int, int], bytes] = _plain
    groups: LRUCache = field(default_factory=lambda: LRUCache(GROUPS))


#: For samples in any order.
UNCACHED = CachedReader()


def sequential_reader(threads: int = 1) -> CachedReader:
    """For samples one after another; threads go ahead of each other a little."""
    return CachedReader(RangeCache(3 * threads).read, LRUCache(3 * threads))
