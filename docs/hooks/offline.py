"""mkdocs hook: the build fails when a page would fetch anything from another machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

FETCHES = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["'](?:https?:)?//[^"']+"""
    r"""|<link\b(?=[^>]*\brel=["'](?:stylesheet|preconnect|preload|icon))[^>]*\bhref=["'](?:https?:)?//[^"']+"""
)


def on_post_build(config: Any) -> None:
    pages = sorted(Path(config.site_dir).rglob("*.html"))
    assert pages, "the site has no pages"
    found = [f"{page.name}: {match}" for page in pages for match in FETCHES.findall(page.read_text())]
    if found:
        raise PluginError(f"pages fetch from elsewhere: {'; '.join(found[:5])}")
