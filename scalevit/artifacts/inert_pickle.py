"""Data-only pickle parser: reads what a pickle describes without importing, calling or setting anything.

Torch's checkpoint index and the header of each tensor are pickles, and Python's own reader runs whatever code
they name. Here a class or function is its name, and a call or an object is a `PickledObject` with its parts.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PickledName:
    """A class or function that a pickle names, as module.name."""

    text: str


@dataclass(eq=False)
class PickledObject:
    """An object that a pickle describes. name: its class, or the function that would have been called; args:
    of the call; state: what the object would have been filled with; items: of a mapping."""

    name: str
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


def parse_pickle(data: bytes) -> Any:
    """Parse a pickle of protocol 2 to 5 into numbers, strings, tuples, lists, dicts, `PickledName` and
    `PickledObject`. Raises ValueError for anything else."""
    try:
        return _Parser(data).run()
    except (LookupError, TypeError, AttributeError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"not a pickle of plain data ({type(error).__name__}: {error})") from None


class _Parser:
    """The stack machine of the pickle format, restricted to data."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.data[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                return self.stack.pop()
            if code not in _OPERATIONS:
                raise TypeError(f"operation {bytes([code])!r}")
            _OPERATIONS[code](self)

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.at += count
        if self.at > len(self.data):
            raise IndexError("cut short")
        return self.data[self.at - count : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def text(self, size: int) -> str:
        return self.take(self.number(size)).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode()

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_tuple(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def call(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(PickledObject(function.text, args))

    def build(self) -> None:
        state, node = self.stack.pop(), self.stack[-1]
        if not isinstance(node, PickledObject):
            raise TypeError("state of something that is no object")
        node.state = state

    def set_items(self, items: list[Any]) -> None:
        """Alternating keys and values, into the mapping on top of the stack."""
        target = self.stack[-1]
        target = target.items if isinstance(target, PickledObject) else target
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(target, dict) or not isinstance(key, str | int | PickledObject):
                raise TypeError("a mapping with keys of another kind")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items of something that is no list")
        self.stack[-1].extend(items)

    def push_global(self, module: str, name: str) -> None:
        self.stack.append(PickledName(f"{module}.{name}"))

    def pop_two(self) -> list[Any]:
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]


def _remember(parser: _Parser, place: int) -> None:
    parser.memo[place] = parser.stack[-1]


#: Each operation that plain data need, by its code.
_OPERATIONS: dict[int, Callable[[_Parser], Any]] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: lambda p: p.take(1),
        pickle.FRAME: lambda p: p.take(8),
        pickle.MARK: lambda p: p.marks.append(len(p.stack)),
        pickle.POP: lambda p: p.stack.pop(),
        pickle.NONE: lambda p: p.push(None),
        pickle.NEWTRUE: lambda p: p.push(True),
        pickle.NEWFALSE: lambda p: p.push(False),
        pickle.BININT: lambda p: p.push(p.number(4, signed=True)),
        pickle.BININT1: lambda p: p.push(p.number(1)),
        pickle.BININT2: lambda p: p.push(p.number(2)),
        pickle.LONG1: lambda p: p.push(p.number(p.number(1), signed=True)),
        pickle.BINFLOAT: lambda p: p.push(struct.unpack(">d", p.take(8))[0]),
        pickle.SHORT_BINUNICODE: lambda p: p.push(p.text(1)),
        pickle.BINUNICODE: lambda p: p.push(p.text(4)),
        pickle.EMPTY_TUPLE: lambda p: p.push(()),
        pickle.TUPLE: lambda p: p.push(tuple(p.pop_mark())),
        pickle.TUPLE1: lambda p: p.push_tuple(1),
        pickle.TUPLE2: lambda p: p.push_tuple(2),
        pickle.TUPLE3: lambda p: p.push_tuple(3),
        pickle.EMPTY_LIST: lambda p: p.push([]),
        pickle.APPEND: lambda p: p.append([p.stack.pop()]),
        pickle.APPENDS: lambda p: p.append(p.pop_mark()),
        pickle.EMPTY_DICT: lambda p: p.push({}),
        pickle.SETITEM: lambda p: p.set_items(p.pop_two()),
        pickle.SETITEMS: lambda p: p.set_items(p.pop_mark()),
        pickle.GLOBAL: lambda p: p.push_global(p.line(), p.line()),
        pickle.STACK_GLOBAL: lambda p: p.push_global(*p.pop_two()),
        pickle.REDUCE: lambda p: p.call(),
        pickle.NEWOBJ: lambda p: p.call(),
        pickle.BUILD: lambda p: p.build(),
        pickle.BINPERSID: lambda p: p.push(PickledObject("persistent", p.stack.pop())),
        pickle.BINPUT: lambda p: _remember(p, p.number(1)),
        pickle.LONG_BINPUT: lambda p: _remember(p, p.number(4)),
        pickle.MEMOIZE: lambda p: _remember(p, len(p.memo)),
        pickle.BINGET: lambda p: p.push(p.memo[p.number(1)]),
        pickle.LONG_BINGET: lambda p: p.push(p.memo[p.number(4)]),
    }.items()
}
