"""Sources in an object store: a real S3-compatible server on loopback, read through s3fs."""

import json
from dataclasses import replace

import pytest
import s3fs
from image_run import losses
from pictures import make_folder, make_shards
from tiny_run import TINY, weights

from scalevit import config
from scalevit.artifacts import remote
from scalevit.cli.main import main
from scalevit.data.dataset import open_dataset
from scalevit.train.run import pretrain


@pytest.fixture(scope="module")
def endpoint():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def forget(monkeypatch, tmp_path):
    """A user's surroundings, in which nothing is known of any store."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "RETRY_PAUSES", (0.0, 0.0, 0.0))

    def clear():
        remote.filesystem.cache_clear()
        s3fs.S3FileSystem.clear_instance_cache()

    clear()
    yield
    clear()


@pytest.fixture
def bucket(endpoint, forget, monkeypatch, tmp_path):
    """(address, folder) of three tars and three tables of the same thirty images."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-31415")
    packs = [make_shards(make_folder(tmp_path / "f"), tmp_path / form, form) for form in ("tar", "parquet")]
    files, name = s3fs.S3FileSystem(), f"photos-{tmp_path.name.replace('_', '-').lower()[-40:]}"
    files.mkdir(name)
    for pack in packs:
        for shard in pack.glob("shard-*"):
            files.put(str(shard), f"{name}/train/{shard.name}")
    return f"s3://{name}/train", tmp_path


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_a_run_from_a_bucket_is_the_run_from_here(bucket, form):
    address, here = bucket
    source = f"{address}/*.{form}"
    assert main(["data", "index", source, "--workers", "1"]) == 0
    assert losses(source, here / "there") == losses(here / form, here / "mine")
    for file in ("run.yaml", "records.jsonl", "log.txt"):
        assert "hush-31415" not in (here / "there" / file).read_text()


def test_the_words_of_data_on_a_bucket(bucket, capsys):
    address, here = bucket
    source = address + "/shard-{000000..000002}.tar"
    for words in (["check", source], ["stats", source], ["preview", source, "--out", str(here / "p.png")]):
        assert main(["data", *words, "--json"]) == 0
    out = ["--out", str(here / "again"), "--order", "kept"]
    assert main(["data", "pack", source, *out]) == 0
    assert open_dataset(str(here / "again")).encoded(17) == open_dataset(source).encoded(17)
    assert main(["data", "index", source, "--workers", "1"]) == 0
    capsys.readouterr()
    assert main(["data", "dedup", source, str(here / "f"), "--out", str(here / "gone.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == 30
    s3fs.S3FileSystem().pipe(f"{address}/shard-000001.tar", b"other bytes")
    assert main(["data", "stats", source]) == 2
    assert "shard-000001.tar changed after it was indexed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["none.tar", "*.zip"])
def test_what_is_not_there(bucket, capsys, name):
    assert main(["data", "stats", f"{bucket[0]}/{name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and ("no such file" in line or "no file matches" in line)


def test_without_credentials_one_line_says_so(bucket, monkeypatch, capsys):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    remote.filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["data", "index", f"{bucket[0]}/shard-000000.tar"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "shard-000000.tar: access refused; give credentials" in line


def test_a_server_that_is_away(bucket, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    remote.filesystem.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["data", "index", f"{bucket[0]}/shard-000000.tar"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "127.0.0.1:9" in line and "after 4 tries; repeat the command" in line


def test_checkpoints_go_to_a_bucket_and_come_back(bucket, capsys):
    """Stopped, and gone on with in another folder, as on another machine: an undisturbed run's weights."""
    address, here = bucket
    run = replace(TINY, train=replace(TINY.train, checkpoints=address, keep_last=1, keep_at=()))
    assert pretrain(run, here / "lost", max_minutes=0).step == 1
    store = f"{address}/{config.run_id(run)}"
    assert main(["checkpoint", "list", store, "--json"]) == 0
    assert [row["step"] for row in json.loads(capsys.readouterr().out)["checkpoints"]] == [1]
    assert pretrain(run, here / "found").stopped is None
    assert f"from {store}/step_1" in (here / "found/log.txt").read_text()
    pretrain(TINY, here / "plain")
    assert weights(here / "found") == weights(here / "plain")
    assert not (here / "found/checkpoints").exists()
    assert main(["checkpoint", "verify", str(here / "found"), "--json"]) == 0
    assert main(["checkpoint", "consolidate", str(here / "found"), "--out", str(here / "again/model")]) == 0
    assert weights(here / "again") == weights(here / "plain")
    capsys.readouterr()
    s3fs.S3FileSystem().pipe(f"{store}/step_{run.schedule.steps}/__0_0.distcp", b"torn")
    assert main(["checkpoint", "verify", store]) == 1
    assert "4 bytes instead of" in capsys.readouterr().out
