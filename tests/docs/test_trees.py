"""Every path that the documentation names exists, and every tree lists all that its caption claims."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import scalevit

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "golden" / "README.md"]
#: Pages about the past name files of the past.
HISTORY = {"lab-log.md", "CHANGELOG.md"}
TOP = "scalevit|tests|benchmarks|docs|" + "|".join(
    path.name for path in (ROOT / "scalevit").iterdir() if path.is_dir() and path.name != "__pycache__"
)
PATH = re.compile(rf"`((?:{TOP}|\.ci|\.github)/[\w./-]*)`")


def named_paths(page: Path) -> list[str]:
    return [] if page.name in HISTORY else PATH.findall(page.read_text())


def exists(path: str) -> bool:
    if "NAME" in path or path == "train/loss":  # a placeholder; a name in TensorBoard
        return True
    return (ROOT / path).exists() or (ROOT / "scalevit" / path).exists()


def test_every_path_named_exists():
    named = {(page.name, path) for page in PAGES for path in named_paths(page)}
    assert len(named) > 60
    assert sorted(pair for pair in named if not exists(pair[1])) == []


def test_every_link_leads_somewhere():
    met, broken = 0, []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text()):
            met += 1
            if not (page.parent / target).exists():
                broken.append((page.name, target))
    assert met > 80
    assert broken == []


def test_the_readme_lists_every_package():
    text = (ROOT / "README.md").read_text()
    (tree,) = re.findall(r"^scalevit/\n((?:  .*\n)+)", text, re.M)
    listed = re.findall(r"^  (\w+)/", tree, re.M)
    packages = {path.parent.name for path in (ROOT / "scalevit").glob("*/__init__.py")}
    assert len(listed) == len(set(listed)) == 12
    assert set(listed) == packages


def test_the_design_draws_every_package():
    text = (ROOT / "docs" / "design.md").read_text()
    (drawing,) = re.findall(r"^## The packages\n+```\n(.*?)^```", text, re.S | re.M)
    packages = {path.parent.name for path in (ROOT / "scalevit").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"\w+", drawing))


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    assert [page for page in pages if f": {page}\n" not in navigation] == []


def test_every_name_on_the_api_page_exists():
    names = re.findall(r"^::: (scalevit\.[\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert len(names) > 25
    for name in names:
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute, None)
        assert found is not None or importlib.util.find_spec(name), name


def test_versions_agree():
    cite = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest
    assert scalevit.__version__ == cite["version"] == newest[1]
    assert f'version = "{scalevit.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_workflow_runs_what_a_contributor_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    shown = (ROOT / "CONTRIBUTING.md").read_text()
    targets = re.findall(r"^make ([\w-]+)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert len(targets) >= 4
    assert [target for target in targets if f"make {target}" not in shown] == []


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/design.md", "docs/index.md"]
)
def test_pages_are_in_plain_words(name):
    """Words that the project once used for itself, and no reader knows."""
    private = r"\b(verbs?|rehears\w+|footprint|pretend\w*|catalogue|twins)\b"
    text = re.sub(r"--rehearse", "", (ROOT / name).read_text())
    assert re.findall(private, text) == []
