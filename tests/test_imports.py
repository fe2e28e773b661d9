"""The shape of the house: arrows point down, the study knows no torch, importing is cheap."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "scalevit"

#: Lower rooms first; a module may import from its own rank only where `PEERS` says so, and from below.
RANKS = [
    ["shapes", "schedule", "answer", "typed", "address"],
    ["config", "records"],
    ["presets", "layout", "devices", "heartbeat", "pretend", "memory", "kernels"],
    [
        "precision",
        "mesh",
        "attention",
        "dcp",
        "stopping",
        "guard",
        "progress",
        "pieces",
        "losses",
        "footprint",
        "kernels",
        "replay",
        "fp8",
        "allocator",
    ],
    ["model", "data", "fp8choice"],
    ["adafactor", "momentum"],
    ["optim"],
    ["formats"],
    ["weights", "checkpoint"],
    ["rundir", "saving", "averages", "trackers"],
    ["train", "branching", "export", "reporting"],
    ["evals"],
    ["building"],
    ["session"],
    ["run"],
    ["transfer", "rehearsal"],
    ["doctor"],
    ["parity", "bottleneck", "bench"],
    ["study"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
ROOMS = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
#: Rooms without torch, whatever they import.
WORDS = (
    "shapes", "schedule", "typed", "config", "records", "presets", "devices", "answer", "memory", "cli",
    "study",
)  # fmt: skip


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path):
    """(module, is at the top level) of every import statement."""
    tree = ast.parse(path.read_text())
    top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node in top
            yield from ((f"{node.module}.{alias.name}", node in top) for alias in node.names)


def room(module: str) -> str:
    name = module.split(".")[1] if module.startswith("scalevit.") else ""
    return "" if name.startswith("__") else name


def test_every_module_has_a_rank_and_every_rank_is_met():
    met = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules()}
    assert met - {"__init__"} <= set(ROOMS)
    assert len(met) >= 20


def test_no_arrow_runs_up():
    upward = []
    for path in modules():
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for module, _ in imports(path):
            there = room(module)
            if there in ROOMS and ROOMS[there] > ROOMS[here]:
                upward.append(f"{here} imports {module}")
    # `config.load` looks a preset's name up; presets are made of config's dataclasses
    assert sorted(set(upward)) == [
        "config imports scalevit.presets",
        "config imports scalevit.presets.PRESETS",
    ]


def test_the_two_halves_meet_only_in_words():
    study = [path for path in modules() if "study" in path.relative_to(PACKAGE).parts]
    allowed = {*WORDS, "study", "answer"}
    met = {room(module) for path in study for module, _ in imports(path)} - {""}
    assert len(study) >= 6
    assert met <= allowed


def test_no_cycles_at_import_time():
    graph = {}
    for path in modules():
        name = ".".join(("scalevit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        graph[name] = {module for module, top in imports(path) if top and module.startswith("scalevit")}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, f"cycle: {' → '.join([*open_, name])}"
        if name in done or name not in graph:
            return
        open_.append(name)
        for other in graph[name]:
            visit(other)
        open_.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert len(done) == len(graph)


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
        "import scalevit.study.laws, scalevit.study.report",
        "import scalevit as sv; sv.shape('G/14'); sv.lr_at(sv.Schedule(), 5); sv.plan; sv.fit; sv.forecast",
        "from scalevit.cli import main; main(['--help'])",
        "import scalevit.study.grid, scalevit.study.launch, scalevit.study.figures, scalevit.study.plan",
    ],
)
def test_the_study_half_needs_no_torch(program):
    python(f"{NO_TORCH}\n{program}")


@pytest.mark.parametrize(
    ("program", "limit"), [("import scalevit", 0.1), ("from scalevit.cli import main; main([])", 0.3)]
)
def test_importing_is_cheap(program, limit):
    """Time beyond starting Python itself; the best of several, since machines are busy."""

    def seconds(code):
        began = time.perf_counter()
        python(code)
        return time.perf_counter() - began

    spent = min(seconds(program) for _ in range(5)) - min(seconds("pass") for _ in range(5))
    assert spent < limit


def test_functions_are_short():
    lengths = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lengths[f"{path.name}:{node.name}"] = node.end_lineno - node.lineno + 1
    assert len(lengths) > 200
    assert {name: length for name, length in lengths.items() if length > 80} == {}
