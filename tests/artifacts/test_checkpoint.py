"""A checkpoint is there whole or not at all, and damage never passes."""

import json
import os
import shutil
import sys

import pytest
import torch

from scalevit.artifacts import checkpoint, dcp
from scalevit.artifacts.remote import RemotePath, path_or_remote
from scalevit.cli.main import main


def save(folder, step):
    value = torch.full((64,), float(step))
    path = checkpoint.create_staging(folder, step)
    places, file = dcp.write_shards(path, 0, dcp.unsharded({"x": value}))
    return checkpoint.commit(path, step, places, [file], {"step": step})


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_saved_comes_back(tmp_path):
    path = save(tmp_path, 3)
    assert checkpoint.find_damage(path) == []
    assert checkpoint.read_extra_state(path) == {"step": 3}
    assert dcp.ShardReader(path).read_tensor("x").tolist() == [3.0] * 64
    assert [entry.step for entry in checkpoint.list_checkpoints(tmp_path)] == [3]


@pytest.mark.parametrize("name", ["__0_0.distcp", dcp.INDEX, checkpoint.MANIFEST])
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_one_wrong_bit_anywhere_is_noticed_and_the_one_before_used(tmp_path, name, where):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    size = (newest / name).stat().st_size
    flip(newest / name, int(where * size) if where >= 0 else size - 1)
    said = []
    found = checkpoint.latest(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert any("step 2 is damaged" in text for text in said)


@pytest.mark.parametrize("name", ["__0_0.distcp", dcp.INDEX, checkpoint.MANIFEST])
def test_a_file_that_is_short_or_missing_is_noticed(tmp_path, name):
    path = save(tmp_path, 1)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-5])
    assert checkpoint.find_damage(path, contents=False)
    (path / name).unlink()
    assert checkpoint.find_damage(path, contents=False)
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        checkpoint.latest(tmp_path, lambda text: None)


def test_a_draft_is_no_checkpoint_and_is_cleared_away(tmp_path):
    save(tmp_path, 1)
    draft = checkpoint.create_staging(tmp_path, 2)
    dcp.write_shards(draft, 0, dcp.unsharded({"x": torch.zeros(3)}))
    found = checkpoint.latest(tmp_path, lambda text: None)
    assert found is not None
    assert found.step == 1
    checkpoint.collect_garbage(tmp_path, checkpoint.Retention(5))
    assert [path.name for path in tmp_path.iterdir()] == ["step_1"]


def test_pruning_keeps_the_last_and_the_named(tmp_path):
    for step in (2, 10, 9, 20, 30):
        save(tmp_path, step)
    checkpoint.collect_garbage(tmp_path, checkpoint.Retention(2, every=10, at=(9,)))
    assert [entry.step for entry in checkpoint.list_checkpoints(tmp_path)] == [9, 10, 20, 30]
    checkpoint.collect_garbage(tmp_path, checkpoint.Retention(1, at=(9,)))
    assert [entry.step for entry in checkpoint.list_checkpoints(tmp_path)] == [9, 30]


def test_the_command_lists_and_verifies(tmp_path, capsys):
    save(tmp_path / "checkpoints", 4)
    path = save(tmp_path / "checkpoints", 8)
    assert main(["checkpoint", "verify", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["whole"] is True
    flip(path / "__0_0.distcp", 700)
    assert main(["checkpoint", "verify", str(tmp_path)]) == 1
    assert "step         8" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(path.parent / "step_4")]) == 0
    assert main(["checkpoint", "list", str(tmp_path / "nothing")]) == 2


@pytest.fixture
def store(tmp_path):
    """A store that renames nothing."""
    yield RemotePath(f"memory://{tmp_path.name}")
    RemotePath(f"memory://{tmp_path.name}").remove()


def test_at_a_store_what_has_no_manifest_is_no_checkpoint(store):
    for step in (1, 2, 3, 4):
        save(store, step)
    draft = checkpoint.create_staging(store, 5)
    dcp.write_shards(draft, 0, dcp.unsharded({"x": torch.zeros(3)}))
    assert [entry.step for entry in checkpoint.list_checkpoints(store)] == [1, 2, 3, 4]
    found = checkpoint.latest(store, lambda text: None)
    assert found is not None and found.step == 4
    assert dcp.ShardReader(found.folder).read_tensor("x").tolist() == [4.0] * 64
    checkpoint.collect_garbage(store, checkpoint.Retention(1, every=2))
    assert sorted(path.name for path in store.iterdir()) == ["step_2", "step_4"]
    save(store, 4)
    assert checkpoint.step_folder(store, 4) == store / "step_4.2"
    assert checkpoint.find_damage(store / "step_4") == []  # until the new one is in place, the old one stays
    checkpoint.collect_garbage(store, checkpoint.Retention(1, every=2), current=4)
    assert sorted(path.name for path in store.iterdir()) == ["step_2", "step_4.2"]
    (store / "step_4.2" / "__0_0.distcp").write_text("torn")
    assert "4 bytes instead of" in checkpoint.find_damage(store / "step_4.2")[0]


def test_an_address_that_nobody_knows_is_a_mistake(tmp_path, capsys):
    words = ["pretrain", "demo", "train.checkpoints=nowhere://there", "--out", str(tmp_path / "run")]
    assert main([*words, "--dry-run"]) == 2
    assert "train.checkpoints=nowhere://there: nowhere:// cannot be used" in capsys.readouterr().err


def test_a_file_address_is_a_path(tmp_path):
    assert path_or_remote(f"file://{tmp_path}/runs") == tmp_path / "runs"
    assert path_or_remote("s3://bucket/runs/") == RemotePath("s3://bucket/runs")


STEPS_OF_A_COMMIT = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "shutil.rmtree"}


def killed_at(number, work):
    """Whether a child that does `work` ended before its `number`-th system call, at which it is killed."""
    child = os.fork()
    if not child:
        calls = [0]

        def count(event, _):
            calls[0] += event in STEPS_OF_A_COMMIT
            if calls[0] == number:
                os._exit(9)

        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("before", "step", "last", "least"),
    [((10, 20), 30, 2, 20), ((10,), 20, 1, 10), ((10,), 10, 1, 10), ((10, 20), 20, 2, 20)],
)
def test_killed_at_any_point_of_a_save_a_whole_checkpoint_is_there(tmp_path, before, step, last, least):
    folder, keep, number, ended = tmp_path / "ck", checkpoint.Retention(last), 0, False

    def work():
        save(folder, step)
        checkpoint.collect_garbage(folder, keep, step)

    while not ended:
        number += 1
        shutil.rmtree(folder, ignore_errors=True)
        for earlier in before:
            save(folder, earlier)
        ended = killed_at(number, work)
        checkpoint.remove_staging(folder)
        newest = checkpoint.latest(folder, lambda text: None)
        assert newest is not None and newest.step >= least, number
        save(folder, 99)
        checkpoint.collect_garbage(folder, keep, 99)
        assert all(path.name.startswith("step_") for path in folder.iterdir())
    assert number > 15


def test_a_folder_that_was_renamed_is_refused(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step_1").rename(tmp_path / "step_5")
    (line,) = checkpoint.find_damage(tmp_path / "step_5")
    assert "holds the checkpoint of step 1" in line


def test_the_last_good_one_is_not_removed_for_a_damaged_one(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step_3/__0_0.distcp").write_bytes(b"torn")
    checkpoint.collect_garbage(tmp_path, checkpoint.Retention(1))
    assert [entry.step for entry in checkpoint.list_checkpoints(tmp_path)] == [2]


def test_a_later_checkpoint_of_a_past_that_was_left_does_not_push_out_the_new_one(tmp_path):
    for step in (50, 100):
        save(tmp_path, step)
    flip(tmp_path / "step_100/__0_0.distcp", 300)  # its size is right
    save(tmp_path, 60)
    checkpoint.collect_garbage(tmp_path, checkpoint.Retention(1), current=60)
    newest = checkpoint.latest(tmp_path, lambda text: None)
    assert newest is not None and newest.step == 60


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "..", "a/b"])
def test_a_manifest_names_only_files_of_its_folder(tmp_path, name):
    path = save(tmp_path, 1)
    body = json.loads((path / checkpoint.MANIFEST).read_text())
    del body["sha256"]
    body["files"][name] = {"bytes": 1, "sha256": ""}
    text = json.dumps({**body, "sha256": checkpoint._digest(body)})
    (path / checkpoint.MANIFEST).write_text(text)
    assert "names files elsewhere" in checkpoint.find_damage(path)[0]


def test_a_link_in_place_of_a_file_is_damage(tmp_path):
    path = save(tmp_path, 1)
    (path / "__0_0.distcp").rename(tmp_path / "elsewhere")
    (path / "__0_0.distcp").symlink_to(tmp_path / "elsewhere")
    assert "not a plain file" in checkpoint.find_damage(path)[0]
