"""Interleaved timing: rounds in alternation, an end in time, and repeats that disagree are noticed."""

import json

import pytest
import torch

from scalevit.cli import bench
from scalevit.cli.main import main
from scalevit.tools.bench import interleaved
from scalevit.tools.bench.interleaved import (
    busy_note,
    out_of_time,
    rounds_spread,
    time_interleaved,
    time_limit,
)

CPU = torch.device("cpu")


def test_candidates_alternate_and_the_first_round_is_not_counted():
    calls = []
    names = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = time_interleaved(names, 3, 1, CPU)
    assert calls == [*"abababab"] and {name: len(times) for name, times in seconds.items()} == {
        "a": 3,
        "b": 3,
    }


def test_past_the_limit_one_round_is_measured_and_no_more_begins(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(interleaved.time, "monotonic", lambda: now[0])

    def slow():
        now[0] += 10

    with time_limit(5):
        seconds = time_interleaved({"slow": slow}, 100, 1, CPU)
        assert out_of_time()
    assert len(seconds["slow"]) == 1 and not out_of_time()
    with time_limit(0):
        assert len(time_interleaved({"slow": slow}, 7, 1, CPU)["slow"]) == 7


def test_a_limit_within_a_limit_does_not_extend_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(interleaved.time, "monotonic", lambda: now[0])
    with time_limit(5), time_limit(100):
        now[0] = 6.0
        assert out_of_time()


def test_a_busy_neighbour_is_noticed_by_repeats_that_disagree():
    quiet = {"a": [1.0, 1.02, 1.05], "b": [2.0, 2.1, 2.05]}
    busy = {"a": [1.0, 2.6, 1.9], "b": [2.0, 5.0, 3.0]}
    assert rounds_spread(quiet) == pytest.approx((0.05 / 1.02 + 0.1 / 2.05) / 2)
    assert busy_note(rounds_spread(quiet)) == []
    (line,) = busy_note(rounds_spread(busy))
    assert "other processes" in line
    assert rounds_spread({"a": [1.0]}) == 0.0


def test_all_prints_each_benchmark_as_it_ends_and_names_what_time_left_out(capsys, monkeypatch):
    now, events = [0.0], []
    monkeypatch.setattr(bench.time, "monotonic", lambda: now[0])

    def run(benchmark, options):
        printed = capsys.readouterr().out
        events.append((benchmark.module, options.get("limit"), printed))
        now[0] += 100
        return bench.CommandResult(f"table of {benchmark.module}", {"rows": [], "missing": {}})

    monkeypatch.setattr(bench, "_run", run)
    assert main(["bench", "all"]) == 0
    assert [module for module, _, _ in events] == ["models", "optimizers", "data"]
    assert [printed.strip() for _, _, printed in events] == ["", "table of models", "table of optimizers"]
    assert all(limit is None or limit <= bench.ALL_SECONDS for _, limit, _ in events)
    rest = capsys.readouterr().out
    for name in ("features", "memory", "checkpoint"):
        assert f"not measured: {name} (out of time)" in rest
    now[0], events[:] = 0.0, []
    assert main(["bench", "all", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [*results] == [*bench.BENCHES] and results["checkpoint"]["missing"] == {
        "checkpoint": "out of time"
    }
