"""Bad input of every kind the documentation names: one line, exit status 2 or 3, and nothing half-written."""

import io
import tarfile
from pathlib import Path

import pytest
from pictures import encoded, make_folder, picture

from scalevit.artifacts import remote
from scalevit.cli.main import main

RUN = (
    "model.shape=mu/16", "model.patch=4", "model.image=16", "model.classes=3", "data.images=0",
    "schedule.steps=2", "schedule.warmup=1", "schedule.cooldown=1", "train.batch=6", "probe.datasets=[]",
)  # fmt: skip


def tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


def empty_folder(root: Path) -> str:
    (root / "in").mkdir()
    return str(root / "in")


def unlabelled_tar(root: Path) -> str:
    return tar(root / "in.tar", {f"{n}.jpg": encoded(picture(n)) for n in range(4)})


def changed_shard(root: Path) -> str:
    source = tar(root / "in.tar", {"1.jpg": encoded(picture(1)), "1.cls": b"0"})
    assert main(["data", "index", source, "--workers", "1"]) == 0
    return tar(root / "in.tar", {"1.jpg": encoded(picture(2, 99)), "1.cls": b"0"})


def label_no_number(root: Path) -> str:
    return tar(root / "in.tar", {"1.jpg": encoded(picture(1)), "1.cls": b"99999999999"})


def label_over_classes(root: Path) -> str:
    return tar(root / "in.tar", {"1.jpg": encoded(picture(1)), "1.cls": b"7"})


def cut_tar(root: Path) -> str:
    source = unlabelled_tar(root)
    Path(source).write_bytes(Path(source).read_bytes()[:700])
    return source


def unreadable_images(root: Path) -> str:
    folder = make_folder(root / "in", 9)
    for file in folder.glob("*/*.jpg"):
        file.write_bytes(b"\xff\xd8 no image")
    return str(folder)


def a_file_that_is_a_folder(root: Path) -> str:
    (root / "in.tar").mkdir()
    return str(root / "in.tar")


def one_class(root: Path) -> str:
    return tar(root / "in.tar", {"1.jpg": encoded(picture(1)), "1.cls": b"0"})


def no_such_path(root: Path) -> str:
    return str(root / "nowhere/at.tar")


def nobody_answers(root: Path) -> str:
    return "http://127.0.0.1:9/in.tar"


INDEX, RUNS = ("index",), ("pretrain",)
BOTH = INDEX + RUNS
#: What is given, which commands refuse it, and what they say.
LIST = [
    (empty_folder, BOTH, "holds no folder for each class"),
    (unlabelled_tar, RUNS, "4 of 4 samples have no label"),
    (changed_shard, RUNS, "changed after it was indexed; run scalevit data index"),
    (label_no_number, BOTH, "1.jpg in"),
    (label_over_classes, RUNS, "has labels up to 7, the model 3 classes; set model.classes=8"),
    (cut_tar, BOTH, "in.tar is cut"),
    (unreadable_images, RUNS, "none of the 9 samples can be decoded"),
    (a_file_that_is_a_folder, BOTH, "holds no folder for each class"),
    (one_class, RUNS, "has only one class: nothing can be learned from its labels"),
    (no_such_path, BOTH, "No such file or directory"),
    (nobody_answers, BOTH, "Connection refused after 4 tries"),
]
CASES = [(make, verb, said) for make, verbs, said in LIST for verb in verbs]


@pytest.mark.parametrize(("make", "verb", "said"), CASES, ids=lambda one: getattr(one, "__name__", None))
def test_one_line_says_what_is_wrong(tmp_path, monkeypatch, capsys, make, verb, said):
    monkeypatch.setattr(remote, "RETRY_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("SCALEVIT_CACHE", str(tmp_path / "cache"))
    source, out = make(tmp_path), tmp_path / "out"
    before = {*tmp_path.rglob("*")}
    words = {
        "index": ["data", "index", source, "--workers", "1"],
        "pretrain": ["pretrain", "demo", *RUN, f"data.source={source}", "--out", str(out)],
    }
    capsys.readouterr()
    assert main(words[verb]) in (2, 3)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("scalevit: ")]
    errors = [line for line in lines if "demo: from the start" not in line]  # it had begun
    assert len(errors) == 1 and said in errors[0]
    new = {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - before}
    # locks of indexers lie in the cache; a run whose images cannot be decoded has begun
    assert new <= {"cache"} | ({"out"} if make is unreadable_images else set())
    assert not (out / "model").exists()


def test_one_class_is_told_by_check_and_can_be_indexed(tmp_path, capsys):
    (tmp_path / "in/only").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in/only" / f"{number}.jpg").write_bytes(encoded(picture(number)))
    assert main(["data", "index", str(tmp_path / "in"), "--workers", "1"]) == 0
    assert main(["data", "check", str(tmp_path / "in")]) == 0
    assert "only one class, only: nothing can be learned from labels" in capsys.readouterr().out
