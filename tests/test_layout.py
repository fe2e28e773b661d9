"""The layout of the package: imports fall, no cycles, torch-free packages, short files, names used once."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scalevit"

#: Lower packages first; packages of one rank may import each other, cycles of files excepted.
RANKS = [
    ["config"],
    ["artifacts"],
    ["distributed"],
    ["kernels"],
    ["model", "optim"],
    ["data"],
    ["evals"],
    ["train"],
    ["tools"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
#: The study imports configuration and artifacts alone; tools and the command line import it.
STUDY_IMPORTS = {"config", "artifacts", "study"}
IMPORTS_STUDY = {"study", "tools", "cli"}
#: Files of `artifacts` that no laptop without torch needs.
WITH_TORCH = {"async_checkpoint", "dcp", "dcp_index"}
LONGEST_FILE, LONGEST_FUNCTION, USUAL_FUNCTION = 450, 80, 20


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(("scalevit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def typing_only(tree: ast.Module) -> set[ast.AST]:
    """Imports below `if TYPE_CHECKING:`, which no process makes."""
    blocks = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    return {node for block in blocks for node in ast.walk(block)}


def imports(path: Path):
    """(module, is made when the file is imported) of every import statement."""
    tree = tree_of(path)
    top, skipped = set(tree.body), typing_only(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node in top
            yield from ((f"{node.module}.{alias.name}", node in top) for alias in node.names)


def package(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "scalevit" and len(parts) > 1 and parts[1] in {*RANK, "study"} else ""


def test_every_package_has_a_rank_and_the_door_is_narrow():
    entries = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")}
    packages = {name for name in entries if (PACKAGE / name).is_dir()}
    assert packages == {*RANK, "study"}
    assert len(entries) <= 14
    assert len(modules()) > 180


def test_no_arrow_runs_up():
    upward, met = set(), 0
    for path in modules():
        here = package(name_of(path))
        for module, _ in imports(path):
            there = package(module)
            if not here or not there:
                continue
            met += 1
            if here == "study":
                wrong = there not in STUDY_IMPORTS
            elif there == "study":
                wrong = here not in IMPORTS_STUDY
            else:
                wrong = RANK[there] > RANK[here]
            if wrong:
                upward.add(f"{name_of(path)} imports {module}")
    assert met > 1000
    assert sorted(upward) == []


def test_no_cycle_of_files():
    names = {name_of(path) for path in modules()}
    graph = {name_of(path): {m for m, top in imports(path) if top and m in names} for path in modules()}
    for name, found in graph.items():  # a package's own file is run before each of its modules
        graph[name] = found - {name.rpartition(".")[0]}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"cycle: {' → '.join([*open_, name])}"
        if name in done:
            return
        open_.append(name)
        for other in sorted(graph[name]):
            visit(other)
        open_.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert len(done) == len(graph) == len(modules())


def torch_free(path: Path) -> bool:
    here = package(name_of(path))
    return here in ("study", "config") or (here == "artifacts" and path.stem not in WITH_TORCH)


def test_torch_is_not_imported_where_a_laptop_plans_and_fits():
    free = [path for path in modules() if torch_free(path)]
    found = [name_of(path) for path in free for m, top in imports(path) if top and m.split(".")[0] == "torch"]
    assert len(free) > 60
    assert found == []


NO_TORCH = """
import sys
class Absent:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "program",
    [
        "import scalevit as sv; sv.shape('G/14'); sv.lr_at(sv.Schedule(), 5); sv.plan; sv.fit; sv.forecast",
        "from scalevit.cli.main import main; main(['--help'])",
        "import importlib\nfor name in {names!r}: importlib.import_module(name)",
    ],
)
def test_the_study_half_runs_without_torch(program):
    names = [name_of(path) for path in modules() if torch_free(path)]
    python(f"{NO_TORCH}\n{program.format(names=names)}")


@pytest.mark.parametrize("program", ["import scalevit", "from scalevit.cli.main import main; main([])"])
def test_starting_imports_nothing_large(program):
    """`import scalevit` costs milliseconds: counted in modules, since time depends on the machine."""
    loaded = python(f"import sys; before = set(sys.modules); {program}; print(*set(sys.modules) - before)")
    large = {"torch", "numpy", "scipy", "pandas", "matplotlib", "rich", "yaml", "fsspec"}
    assert large & {name.split(".")[0] for name in loaded.split()} == set()


def test_files_and_functions_are_short():
    lengths = {}
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lengths[name_of(path), node.lineno, node.name] = node.end_lineno - node.lineno + 1
    assert len(lengths) > 1500
    assert {key: length for key, length in lengths.items() if length > LONGEST_FUNCTION} == {}
    assert sorted(lengths.values())[int(0.9 * len(lengths))] <= USUAL_FUNCTION
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.c"), *PACKAGE.rglob("*.h")]
    long_files = {
        str(f.relative_to(ROOT)): n for f in files if (n := f.read_text().count("\n")) > LONGEST_FILE
    }
    assert long_files == {}


def test_no_public_class_name_twice():
    where = defaultdict(list)
    for path in modules():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(name_of(path))
    assert len(where) > 150
    assert {name: files for name, files in where.items() if len(files) > 1} == {}


def test_every_module_says_what_it_is():
    silent = [
        name_of(path) for path in modules()
        if path.name != "__init__.py" and not (ast.get_docstring(tree_of(path)) or "").strip()
    ]  # fmt: skip
    assert silent == []


def test_tests_mirror_the_package():
    """Every package has a folder of tests, and no test file lies elsewhere."""
    tests = ROOT / "tests"
    folders = {path.name for path in tests.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    assert {*RANK, "study"} <= folders
    assert [path.name for path in tests.glob("test_*.py")] == [Path(__file__).name]
