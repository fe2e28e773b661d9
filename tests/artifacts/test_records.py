"""Records survive what happens to files: cut lines, repeats, two writers."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit.artifacts import records

ROW = {"run": "a", "kind": "probe", "dataset": "digits", "shots": 10, "seed": 0, "step": 5, "metric": "error"}


def test_rows_come_back_in_order(tmp_path):
    rows = [{**ROW, "step": step, "value": step / 10} for step in range(5)]
    records.append_records(tmp_path, rows[:2])
    records.append_records(tmp_path, rows[2:])
    assert records.read_records(tmp_path) == rows


def test_a_repeated_row_replaces_the_earlier_one(tmp_path):
    records.append_records(tmp_path, [{**ROW, "value": 0.5}, {**ROW, "shots": 1, "value": 0.9}])
    records.append_records(tmp_path, [{**ROW, "value": 0.4}])
    assert [row["value"] for row in records.read_records(tmp_path)] == [0.9, 0.4]


@given(cut=st.integers(0, 400))
def test_a_file_cut_anywhere_loses_only_whole_rows_and_takes_new_ones(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    rows = [{**ROW, "step": step, "value": step} for step in range(4)]
    records.append_records(folder, rows)
    path = folder / records.FILE
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n") + whole[:cut].endswith(b"}")
    assert records.read_records(folder) == rows[:kept]
    records.append_records(folder, [{**ROW, "step": 99, "value": 1}])
    assert [row["step"] for row in records.read_records(folder)] == [*range(kept), 99]


def test_binary_rubbish_is_no_row(tmp_path):
    (tmp_path / records.FILE).write_bytes(
        b"\xff\xfe\n[1]\n" + json.dumps({**ROW, "value": 1}).encode() + b"\n"
    )
    assert len(records.read_records(tmp_path)) == 1


def test_a_table_of_many_runs_has_every_column(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        records.append_records(tmp_path / name, [{**ROW, "run": name, "value": 0.1}])
    folders = records.find_run_folders(tmp_path)
    assert [folder.name for folder in folders] == ["a", "b"]
    rows = records.records_table(folders)
    assert [row["run"] for row in rows] == ["a", "b"]
    assert all(set(records.COLUMNS) <= set(row) for row in rows)
    assert rows[0]["train_flops"] is None


def test_provenance_says_the_code_and_keeps_the_environment_out(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    facts = records.provenance()
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert len(facts["commit"].rstrip("+")) == 12
    assert "hunter2" not in json.dumps(facts)


def test_two_writers_do_not_mix_lines(tmp_path):
    program = (
        "import sys; from scalevit.artifacts import records\n"
        "row = {'run': sys.argv[2], 'kind': 'train', 'metric': 'm', 'value': 1}\n"
        "for i in range(50): records.append_records(sys.argv[1], [{**row, 'step': i}])"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(records.read_records(tmp_path)) == 100


GOOD = {**ROW, "value": 1.0}


@pytest.mark.parametrize(
    "line",
    [
        '{"metric":1}',
        "[" * 200_000,
        "{" * 50_000,
        json.dumps(GOOD).replace("10", "1e400"),
        *(json.dumps({**GOOD, key: value}) for key, value in (
            ("step", "x"), ("step", None), ("step", True), ("step", 1.5), ("step", float("nan")),
            ("shots", "10"),
            ("seed", [0]), ("metric", ["a"]), ("metric", None), ("kind", 3), ("dataset", {}), ("run", 1),
            ("value", "fast"), ("value", True), ("train_flops", "1"), ("images_seen", -float("inf")),
        )),
        json.dumps({**GOOD, "value": 7}).replace("7", "7" * 400),
        json.dumps({**GOOD, "note": "x" * records.LONGEST_LINE}),
        "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
    ],
)  # fmt: skip
def test_a_bad_line_costs_itself_and_is_counted(tmp_path, line):
    lines = [json.dumps(GOOD), line, json.dumps({**GOOD, "step": 6}), ""]
    (tmp_path / records.FILE).write_bytes("\n".join(lines).encode("latin1"))
    found = records.read_run_records(tmp_path)
    assert [row["step"] for row in found.rows] == [5, 6]
    assert found.bad_lines == (2,)


VALUES = (None, True, 3, 3.0, 2.5, float("nan"), float("inf"), 10**400, "x", [1], {})


@given(st.fixed_dictionaries({name: st.sampled_from(VALUES) for name in ("step", "value", "shots")}))
def test_any_row_that_is_read_has_the_types_that_readers_rely_on(tmp_path_factory, row):
    folder = tmp_path_factory.mktemp("run")
    (folder / records.FILE).write_text(json.dumps({**ROW, **row}) + "\n")
    found = records.read_run_records(folder)
    assert len(found.rows) + len(found.bad_lines) == 1
    for read in found.rows:
        assert isinstance(read["metric"], str) and isinstance(read["kind"], str)
        assert int(read["step"]) == read["step"]
        float(read.get("value") or 0)


def test_secrets_do_not_get_into_records(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "abcdefgh12345")
    source = "https://me:pass@host/x.tar?X-Amz-Signature=SECRET&n=1"
    records.append_records(tmp_path, [{**GOOD, "dataset": source, "why": ["token abcdefgh12345"]}])
    text = (tmp_path / records.FILE).read_text()
    assert "SECRET" not in text and "pass" not in text and "abcdefgh12345" not in text
    assert records.read_records(tmp_path)[0]["dataset"] == "https://***@host/x.tar?X-Amz-Signature=***&n=***"
