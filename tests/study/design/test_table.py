"""Tables as people write them: dialects, numbers, encodings, columns refused, rows left out and counted."""

import bz2
import gzip
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalevit.study.design.table import load_table
from scalevit.study.design.table_groups import TableColumns, average_seeds, read_groups
from scalevit.study.design.table_numbers import parse_numbers

X, Y = [100.0, 1000.0, 20000.0], [2.5, 2.25, 1.125]


def write(folder, text, name="t.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def numbers(cells, **more):
    return parse_numbers(cells, [f"line {i}" for i in range(2, len(cells) + 2)], "column", **more).tolist()


DIALECTS = {
    "comma": "x,y\n100,2.5\n1000,2.25\n20000,1.125\n",
    "semicolon": "x;y\n100;2.5\n1000;2.25\n20000;1.125\n",
    "decimal commas": "x;y\n100;2,5\n1000;2,25\n20000;1,125\n",
    "quoted decimal commas": 'x,y\n100,"2,5"\n1000,"2,25"\n20000,"1,125"\n',
    "quoted thousands": 'x,y\n100,2.5\n"1,000",2.25\n"20,000.0",1.125\n',
    "tab": "x\ty\n100\t2.5\n1000\t2.25\n20000\t1.125\n",
    "bar": "x|y\n100|2.5\n1000|2.25\n20000|1.125\n",
    "Excel's sep": "sep=;\nx;y\n100;2.5\n1000;2.25\n20000;1.125\n",
    "spaces, blank lines, Windows": " x , y \r\n\r\n100, 2.5\r\n 1000,2.25\r\n20000 ,1.125\r\n\r\n",
    "separators at the end": "x,y\n100,2.5,\n1000,2.25,,\n20000,1.125,\n",
    "short for people": "x,y\n0.1k,250 %\n1e3,225%\n20K,112.5%\n",
    "JSON lines": "\n".join(json.dumps({"x": x, "y": y, "n": None}) for x, y in zip(X, Y)),
    "JSON": json.dumps([{"x": x, "y": y} for x, y in zip(X, Y)]),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_are_read_alike(tmp_path, name):
    table = load_table(write(tmp_path, DIALECTS[name]))
    assert table.numbers("x").tolist() == X and table.numbers("y").tolist() == pytest.approx(Y)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path, encoding):
    table = load_table(write(tmp_path, "größe,y\n1,2\n", encoding=encoding))
    assert table.names == ("größe", "y")
    assert bool(table.notes) == (encoding == "cp1252")


def test_compressed_files_parquet_and_frames(tmp_path):
    text, frame = DIALECTS["comma"].encode(), pd.DataFrame({"x": X, "y": Y})
    frame.to_parquet(tmp_path / "t.parquet")
    sources = [
        write(tmp_path, gzip.compress(text), "t.csv.gz"), write(tmp_path, bz2.compress(text), "t.csv.bz2"),
        tmp_path / "t.parquet", frame, {"x": X, "y": Y},
    ]  # fmt: skip
    for source in sources:
        assert load_table(source).numbers("y").tolist() == Y
    with pytest.raises(ValueError, match="damaged"):
        load_table(write(tmp_path, gzip.compress(text)[:-12], "cut.csv.gz"))


def test_sheets_of_excel_files(tmp_path):
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(tmp_path / "t.xlsx") as file:
        pd.DataFrame({"x": X, "y": Y}).to_excel(file, sheet_name="runs", index=False)
        pd.DataFrame({"x": X}).to_excel(file, sheet_name="other", index=False)
    assert load_table(f"{tmp_path / 't.xlsx'}#runs").numbers("y").tolist() == Y
    with pytest.raises(ValueError, match="several sheets"):
        load_table(tmp_path / "t.xlsx")
    with pytest.raises(ValueError, match="no sheet 'run'"):
        load_table(f"{tmp_path / 't.xlsx'}#run")


@given(st.floats(1e-30, 1e30), st.sampled_from(["", "k", "M", "B", "T", " %"]))
def test_numbers_come_back_from_what_people_write(value, suffix):
    scale = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, " %": 0.01}[suffix]
    assert numbers([f"{value!r}{suffix}"]) == pytest.approx([value * scale], rel=1e-12)
    assert numbers([f"{value:.6f}".replace(".", ",") + "0"]) == pytest.approx([value], abs=1e-6, rel=1e-6)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["13B", "300M", "1e18", "12.5 %", "1_000"], [13e9, 3e8, 1e18, 0.125, 1000]),
        (["1,000", "2,500,000"], [1000, 2.5e6]),
        (["1,000", "0,5"], [1.0, 0.5]),
        (["1.234,5", "1.000.000"], [1234.5, 1e6]),
        (["1 000 000", "12'500"], [1e6, 12500]),
        (["10^18", "3x10^17", "2·10^3"], [1e18, 3e17, 2e3]),
        (["", "n/a", "-", None, "NaN"], [np.nan] * 5),
        (["Infinity", "-inf"], [np.inf, -np.inf]),
        (["\u22121.5", "+2"], [-1.5, 2]),
    ],
)
def test_what_cells_mean(cells, expected):
    np.testing.assert_allclose(numbers(cells), expected)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (["1,000", "2,000"], "line 2: is '1,000' 1000 or 1.000"),
        (["5", "much"], "line 3: 'much' is no number"),
        (["0,5", "1.25"], "line 3: '1.25' has a decimal point"),
        (["1,000,000", "0,5"], "line 3: the comma of '0,5' separates decimals"),
        (["1.2.3"], "no number"),
        (["1;2"], "no number"),
        (["0x10"], "no number"),
    ],
)
def test_what_is_not_certain_is_a_question(cells, says):
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        numbers(cells)


def test_one_column_decides_for_the_others(tmp_path):
    table = load_table(write(tmp_path, "x;y\n1,500;0,5\n2,500;0,25\n"))
    assert table.numbers("x").tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="100000 or 100,000"):
        load_table(write(tmp_path, "x;y\n100.000;0,5\n")).numbers("x")
    mixed = load_table(write(tmp_path, 'x,y\n"1,5e17",0.5\n"3,5e17",0.4\n'))
    with pytest.raises(ValueError, match="line 2: '1,5e17' seems to have a decimal comma"):
        mixed.numbers("x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x,y\n1,0,5\n2,0,4\n", "line 2: 3 cells in a table of 2 columns"),
        ("x,y,y\n1,2,3\n", "2 columns 'y' .in line 1"),
        ("x,z\n1,2\n", "no column 'y'; nearest"),
        ("x,y\n", "has no rows"),
        ("", "is empty"),
        ('{"x": 1, "y": 2}\n{"x": 2, "y"', "line 2: no JSON object"),
        (b"x,y\n\0\0\0", "no table that can be read"),
        (b"PAR1 not really", "no Parquet file"),
    ],
)
def test_files_that_are_no_such_table_are_refused(tmp_path, text, says):
    with pytest.raises(ValueError, match=says):
        load_table(write(tmp_path, text)).numbers("y")


def test_rows_left_out_are_counted_by_reason_with_their_lines(tmp_path):
    rows = ["0,3,1", "1,2,1", "2,1.5,1", "3,inf,1", "4,0,1", "5,nan,1", "6,,1", "7,1.2,0", "8,1.1,", "9,1,1"]
    path = write(tmp_path, "x,y,w\n" + "\n".join(rows))
    (group,), _ = read_groups(path, TableColumns(("x",), "y", None, "w"))
    assert group.x.tolist() == [1, 2, 9]
    assert {reason: str(rows) for reason, rows in group.left_out.items()} == {
        "weight 0": "1 (line 9)", "no w": "1 (line 10)", "x zero or negative": "1 (line 2)",
        "no y": "2 (line 7, 8)", "y infinite": "1 (line 5)", "y zero or negative": "1 (line 6)",
    }  # fmt: skip
    assert group.rows_left_out == 7
    with pytest.raises(ValueError, match="line 2: laws need logarithms"):
        read_groups(write(tmp_path, "x,y\n1,-2\n2,-1\n3,1\n"), TableColumns(("x",), "y"))
    with pytest.raises(ValueError, match="line 3: the weight -1"):
        read_groups(write(tmp_path, "x,y,w\n1,2,1\n2,1,-1\n"), TableColumns(("x",), "y", None, "w"))


def test_a_pattern_reads_several_series_of_a_wide_export(tmp_path):
    names = ["B/16 - val/error", "S/16 - val/error"]
    head = ",".join(["Step", *(f'"{n}","{n}__MIN","{n}__MAX"' for n in names)])
    rows = [f"{v},{v / 10},1,2,,," if v % 2 else f"{v},,,,{v / 5},1,2" for v in range(1, 9)]
    path = write(tmp_path, "\n".join([head, *rows]))
    groups, _ = read_groups(path, TableColumns(("Step",), "* - val/error"))
    assert [group.name for group in groups] == ["B/16", "S/16"]
    assert groups[1].x.tolist() == [2, 4, 6, 8] and groups[1].rows_left_out == 4
    both, _ = read_groups(path, TableColumns(("Step",), "*error"))
    assert len(both) == 2
    with pytest.raises(ValueError, match="no column like"):
        read_groups(path, TableColumns(("Step",), "* - loss"))


@pytest.mark.parametrize(
    ("name", "values", "asked"),
    [("log10_flops", [1, 2, 3], True), ("flops", [18.0, 18.5, 21.2], True), ("flops", [1e18, 1e19], False),
     ("catalog", [1, 200], False), ("depth", [6, 12, 24], False)],
)  # fmt: skip
def test_inputs_that_look_like_logarithms_get_a_question(name, values, asked):
    _, notes = read_groups({name: values, "y": [1.0] * len(values)}, TableColumns((name,), "y"))
    assert any("logarithm" in note for note in notes) == asked


def test_seeds_say_the_noise():
    random, x = np.random.default_rng(0), np.repeat(np.geomspace(1, 1e3, 40), 5)
    frame = {"x": x, "y": x**-0.3 * np.exp(0.05 * random.normal(size=len(x))), "seed": np.arange(200) % 5}
    (group,), _ = read_groups(frame, TableColumns(("x",), "y"))
    averaged, noise = average_seeds(group)
    assert noise == pytest.approx(0.05, rel=0.15) and averaged.weight.tolist() == [5] * 40
    np.testing.assert_allclose(np.log(averaged.y), -0.3 * np.log(averaged.x), atol=0.1)
    (single,), _ = read_groups({"x": X, "y": Y}, TableColumns(("x",), "y"))
    with pytest.raises(ValueError, match="two seeds"):
        average_seeds(single)
