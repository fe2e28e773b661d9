"""The benchmark names every optimizer, its time, its ratio to the copy, and its state."""

import json

import pytest

from scalevit.cli import main


def test_optimizers_beside_the_copy(capsys):
    assert main(["bench", "optim", "--shape", "mu/16", "--rounds", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["optimizer"]: row for row in found["rows"]}
    assert found["missing"] == {}
    assert {
        "copy",
        "scalevit adafactor",
        "scalevit adam",
        "torch AdamW foreach",
        "timm AdafactorBigVision",
    } <= {*rows}
    assert rows["copy"]["ratio"] == 1
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["milliseconds"] / rows["copy"]["milliseconds"])
    assert rows["torch AdamW foreach"]["state_bytes"] == pytest.approx(8, abs=0.1)
    assert rows["scalevit adam"]["state_bytes"] == pytest.approx(6, abs=0.1)
    assert rows["scalevit adafactor"]["state_bytes"] < rows["scalevit adam"]["state_bytes"]


def test_a_bench_without_rounds_is_a_mistake(capsys):
    assert main(["bench", "optim", "--rounds", "0"]) == 2
    assert "--rounds" in capsys.readouterr().err
