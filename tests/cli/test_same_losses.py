"""The same images in the same order are the same run: from a folder, tars or tables, here or over http."""

import pytest
from http_server import serving
from image_run import RUN, losses
from pictures import make_folder

from scalevit.artifacts import records, remote
from scalevit.cli.main import main
from scalevit.data.index.build import build


def pack(folder, out, form: str, order: str):
    words = ["--form", form, "--order", order, "--samples-per-shard", "10"]
    assert main(["data", "pack", str(folder), "--out", str(out), *words]) == 0
    return out


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_a_pack_in_the_sources_order_trains_as_the_source_does(tmp_path, form):
    folder = make_folder(tmp_path / "f")
    kept = pack(folder, tmp_path / "kept", form, "kept")
    wanted = losses(folder, tmp_path / "a")
    assert len(wanted) == 4 and losses(kept, tmp_path / "b") == wanted
    with serving(kept) as (address, _):
        assert losses(f"{address}/shard-{{000000..000002}}.{form}", tmp_path / "c") == wanted


def test_a_store_that_goes_away_ends_the_run_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(remote, "RETRY_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "cache"))
    folder = make_folder(tmp_path / "f")
    kept = pack(folder, tmp_path / "kept", "tar", "kept")
    wanted = losses(folder, tmp_path / "a")
    with serving(kept, fail_from=400) as (address, seen):
        source = f"{address}/shard-{{000000..000002}}.tar"
        build(source)
        seen.extend([""] * (400 - len(seen) - 75))  # answers left: for the content hash, and some steps
        words = ["pretrain", "demo", *RUN, "train.save_every=1", f"data.source={source}"]
        words += ["--out", str(tmp_path / "b")]
        assert main(words) == 3
        assert "Service Unavailable after 4 tries" in (tmp_path / "b/log.txt").read_text()
        seen.clear()
        assert main(words) == 0
    assert [row["value"] for row in records.read_records(tmp_path / "b") if row["metric"] == "loss"] == wanted


def test_tars_and_tables_shuffled_alike_train_alike(tmp_path):
    folder = make_folder(tmp_path / "f")
    packs = [pack(folder, tmp_path / form, form, "shuffled") for form in ("tar", "parquet")]
    tars, tables = (losses(one, tmp_path / f"run-{one.name}") for one in packs)
    assert tars == tables != losses(folder, tmp_path / "run-folder")
