"""The GPU campaign: order, time, continuation and summary, and its commands at a size for a CPU."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_all.py"


@pytest.fixture(scope="module")
def gpu_all():
    spec = importlib.util.spec_from_file_location("gpu_all", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_all"] = module
    spec.loader.exec_module(module)
    return module


class Machine:
    """Runs nothing: each part takes so long, and fails where it is told to."""

    def __init__(self, failing=(), slow=()):
        self.now, self.ran, self.failing, self.slow = 0.0, [], failing, slow

    def clock(self):
        return self.now

    def run(self, command, seconds, log):
        self.ran.append(log.stem)
        log.write_text(f"table of {log.stem}\n")
        self.now += seconds if log.stem in self.slow else 10.0
        return None if log.stem in self.slow else int(log.stem in self.failing)


def names(gpu_all):
    return [part.name for part in gpu_all.PARTS]


def test_every_name_is_used_once(gpu_all):
    assert len({*names(gpu_all)}) == len(gpu_all.PARTS) >= 19


def test_parts_run_in_order_and_a_failure_costs_itself(gpu_all, tmp_path):
    machine = Machine(failing=("step-S-16-1024",))
    rows = gpu_all.campaign(tmp_path, 10_000, False, machine.run, machine.clock)
    assert machine.ran == names(gpu_all)
    assert [row["name"] for row in rows if not row["ok"]] == ["step-S-16-1024"]
    text = (tmp_path / "summary.md").read_text()
    assert "table of step-G-14-64" in text and "table of step-S-16-1024" not in text
    assert "- training step of S/16, 1024 images" in text and "exit 1" in text


def test_the_same_command_continues_with_what_is_missing(gpu_all, tmp_path):
    first = Machine(failing=("cuda-graph",))
    gpu_all.campaign(tmp_path, 100, False, first.run, first.clock)
    assert 1 < len(first.ran) < len(gpu_all.PARTS)
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"name": "bench-opt')  # killed while it wrote
    (tmp_path / "results.jsonl").write_text((tmp_path / "results.jsonl").read_text() + "\n")
    second = Machine()
    gpu_all.campaign(tmp_path, 10_000, False, second.run, second.clock)
    assert second.ran == ["cuda-graph", *[name for name in names(gpu_all) if name not in first.ran]]
    assert "Not measured" not in (tmp_path / "summary.md").read_text()
    third = Machine()
    assert gpu_all.campaign(tmp_path, 10_000, False, third.run, third.clock) == [] and third.ran == []


def test_no_part_runs_beyond_the_time_and_those_left_out_are_named(gpu_all, tmp_path, capsys):
    machine = Machine(slow=names(gpu_all))
    gpu_all.campaign(tmp_path, 690, False, machine.run, machine.clock)
    assert machine.now <= 690
    left = [name for name in names(gpu_all) if name not in machine.ran]
    out = capsys.readouterr().out
    assert left and all(f"left out: {name} " in out for name in left)
    text = (tmp_path / "summary.md").read_text()
    assert "time was up" in text and text.count("not tried") == len(left)


def test_every_script_and_test_that_it_names_is_there(gpu_all):
    root = SCRIPT.parents[1]
    for part in gpu_all.PARTS:
        for command in (part.command, part.toy):
            files = [word for word in command.split() if word.endswith(".py")]
            assert all((root / file).is_file() for file in files), command


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_parts_run_on_a_cpu_at_a_toys_size(gpu_all, tmp_path):
    rows = gpu_all.campaign(tmp_path, 10_000, True)
    logs = {
        row["name"]: (tmp_path / f"{row['name']}.log").read_text()[-2000:] for row in rows if not row["ok"]
    }
    assert not logs, json.dumps(logs, indent=1)
    assert len(rows) == len(gpu_all.PARTS)
