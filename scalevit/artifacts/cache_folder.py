"""Cache folder: `SCALEVIT_CACHE`, else `XDG_CACHE_HOME`/scalevit, else ~/.cache/scalevit.

Caches hold nothing that cannot be computed again: where no folder can be written, work goes on without one.
"""

from __future__ import annotations

import os
from pathlib import Path

#: The home of users without one, by Debian's convention: nothing is found there.
_NO_HOME = "/nonexistent"


def cache_location() -> Path:
    """Where the cache folder lies by the rule, whether or not it exists or can be written. An environment
    variable that is empty counts as unset."""
    if own := os.environ.get("SCALEVIT_CACHE"):
        return Path(own).absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "scalevit"
    home = os.path.expanduser("~")  # noqa: PTH111  (Path.home() raises where there is none)
    return Path(home if home.startswith("/") else _NO_HOME) / ".cache" / "scalevit"


def cache_folder(name: str) -> Path | None:
    """The subfolder `name` of the cache, created for this user alone; None where it cannot be written."""
    folder = cache_location() / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
