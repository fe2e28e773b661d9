"""mkdocs hook: pages of CONTRIBUTING, CHANGELOG, SECURITY, all configuration keys and all source files."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT_PAGES = ("CONTRIBUTING", "CHANGELOG", "SECURITY")


def on_files(files: Any, config: Any) -> Any:
    root = Path(config.docs_dir).parent
    for name in ROOT_PAGES:
        text = (root / f"{name}.md").read_text()
        files.append(File.generated(config, f"{name.lower()}.md", content=_relink(text)))
    files.append(File.generated(config, "config-keys.md", content=config_keys()))
    files.append(File.generated(config, "source-tree.md", content=source_tree(root)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links of `docs/` to files of the root lead to their pages."""
    return re.sub(r"\(\.\./([A-Z]+)\.md", lambda match: f"({match[1].lower()}.md", markdown)


def config_keys() -> str:
    """Markdown: every configuration key with its values, default and meaning."""
    from scalevit.config.key_ranges import describe_keys

    rows = [
        f"| `{info.key}` | `{info.default!r}` | {info.type} {info.range} | {info.meaning} |"
        for info in describe_keys()
    ]
    title = "# All keys\n\nWhat `scalevit config` prints.\n\n"
    return title + "| key | default | range | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _relink(text: str) -> str:
    """Links of a file in the root as they are from `docs/`."""
    text = re.sub(r"\(docs/([\w/-]+\.(?:md|py))", r"(\1", text)
    return re.sub(r"\(([A-Z]+)\.md", lambda match: f"({match[1].lower()}.md", text)


def source_tree(root: Path) -> str:
    """Markdown: each package's files with the first sentence of their docstrings."""
    parts = ["# Every source file\n", "The first sentence of each file, made when the site was built.\n"]
    for folder in sorted(path.parent for path in (root / "scalevit").rglob("__init__.py")):
        name = folder.relative_to(root).as_posix()
        parts.append(f"\n## `{name}/`\n\n{_first_sentence(folder / '__init__.py')}\n")
        rows = [f"| `{path.name}` | {_first_sentence(path)} |" for path in _sources(folder)]
        parts += ["| file | |\n|---|---|\n" + "\n".join(rows) + "\n"] if rows else []
    return "\n".join(parts)


def _sources(folder: Path) -> list[Path]:
    return sorted(p for kind in ("*.py", "*.c", "*.h") for p in folder.glob(kind) if p.name != "__init__.py")


def _first_sentence(path: Path) -> str:
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
    else:
        text = re.sub(r"^\s*(/\*+|//)|\*/", "", path.read_text()[:600]).replace("\n *", "\n")
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", paragraph)[0].replace("|", "\\|").replace("<", "&lt;")
