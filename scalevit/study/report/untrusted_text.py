"""Untrusted text in reports: names and commands from records made safe for pages, figures, terminals and CSV.

Run folders travel between people. Control and direction characters are shown as escapes, secrets and the
user's home are removed, machine paths are cut to their last part, and no CSV cell
starts a formula.
"""

from __future__ import annotations

import re
from typing import Any

from scalevit.artifacts.printable import printable
from scalevit.artifacts.redact import redact

#: Longest text that a report shows, in characters.
LONGEST = 400
#: An absolute path of a POSIX or Windows machine; addresses such as s3://bucket/x are none.
_PATH = re.compile(r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"=,;]+[/\\])+(?=[^\s/\\'\"=,;])")
#: First characters that make a spreadsheet read a cell as a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain_text(text: Any) -> str:
    """One line of text to show: printable, without secrets and folders of machines, at most `LONGEST`."""
    shown = _PATH.sub("", printable(redact(str(text))))
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def csv_cell(value: Any) -> Any:
    """A cell for a CSV file: an apostrophe goes before text that a spreadsheet would read as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
