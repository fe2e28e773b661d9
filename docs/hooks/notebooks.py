"""mkdocs hook: each notebook becomes a page that shows what it printed when the site was built.

A notebook is a Python file in docs/notebooks with `# %%` cells. A cell that binds `picture` to a path
shows it.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

#: What linters want to read and readers do not.
MARKS = re.compile(r"\s*# (noqa|fmt|type|pyright)[:=].*$", re.M)


def on_files(files: Any, config: Any) -> Any:
    """Replace every notebook by its page; links to the file itself are mended in `on_page_markdown`."""
    for source in sorted((Path(config.docs_dir) / "notebooks").glob("*.py")):
        name = f"notebooks/{source.stem}"
        text, picture = page(source)
        files.append(File.generated(config, f"{name}.md", content=text))
        if picture is not None:
            files.append(File.generated(config, f"{name}{picture.suffix}", content=picture.read_bytes()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """On GitHub the links lead to the notebooks themselves, on the site to their pages."""
    return re.sub(r"\((?:\./)?(notebooks/\w+)\.py\)", r"(\1.md)", markdown)


def page(source: Path) -> tuple[str, Path | None]:
    """(the notebook as Markdown with its output, the last picture that it drew). Runs the notebook."""
    scope: dict[str, Any] = {"__name__": "__main__", "__file__": str(source)}
    parts, picture = [], None
    for kind, body in cells(source.read_text()):
        if kind == "markdown":
            parts.append(body)
            continue
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(body, str(source), "exec"), scope)
        parts.append(f"```python\n{MARKS.sub('', body).strip()}\n```")
        if said.getvalue().strip():
            parts.append(f"```text\n{said.getvalue().rstrip()}\n```")
        if scope.get("picture") not in (None, picture):
            picture = Path(scope["picture"])
            parts.append(f"![{source.stem}]({source.stem}{picture.suffix})")
    whole = f"*This page is [{source.name}]({source.name}), run when the site was built.*"
    return "\n\n".join([parts[0], whole, *parts[1:]]) + "\n", picture


def cells(text: str) -> list[tuple[str, str]]:
    """(markdown or code, text) of each cell after the header."""
    _, *rest = re.split(r"^# %%(.*)\n", text, flags=re.M)
    found = []
    for title, body in zip(rest[::2], rest[1::2]):
        if "[markdown]" in title:
            found.append(("markdown", re.sub(r"^# ?", "", body, flags=re.M).strip()))
        else:
            found.append(("code", body))
    return found
