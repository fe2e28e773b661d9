"""Printable text: escape sequences, control characters and bidirectional overrides made visible.

Names of runs, files, classes and samples come from strangers. On a terminal and in a log they must not move
the cursor, change the window's title, begin a line of their own, or reverse the reading order.
"""

from __future__ import annotations

import re

#: C0 and C1 controls, DEL, line and paragraph separators, bidirectional marks and overrides, tags, lone
#: surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    """`text` with every unprintable character as an escape such as \\x1b; those in `keep` stay ("\\n\\t")."""
    return _UNPRINTABLE.sub(lambda m: m[0] if m[0] in keep else _escaped(m[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
