"""Cache of compiled kernels: trusted by descriptor and content, whole or not there, shared by builders."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalevit.kernels.cpu import build

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: kernels are built there alone")


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """One source file, so that building takes no time."""
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return 42; }\n")
    monkeypatch.setattr(build, "SOURCES", [source])
    monkeypatch.setattr(build, "HEADERS", [])


@pytest.fixture
def compiler():
    return [shutil.which("cc")]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def files(cache):
    return sorted(path.name for path in cache.iterdir())


def builds(monkeypatch):
    """Counts calls of `_build`."""
    calls, original = [], build._build
    monkeypatch.setattr(build, "_build", lambda *given: (calls.append(given), original(*given))[1])
    return calls


def test_a_library_is_built_once_and_its_name_holds_the_hash_of_its_bytes(cache, compiler, monkeypatch):
    calls = builds(monkeypatch)
    for _ in range(2):
        assert build.cached_library(cache, compiler).answer() == 42
    assert len(calls) == 1
    (name,) = files(cache)
    assert name.endswith(f"-{hashlib.sha256((cache / name).read_bytes()).hexdigest()}.so")
    assert (cache / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["cut short", "emptied", "exchanged"])
def test_a_damaged_library_is_not_loaded_but_built_again(cache, compiler, tmp_path, damage):
    build.cached_library(cache, compiler)
    (name,) = files(cache)
    library = cache / name
    whole = library.read_bytes()
    other = tmp_path / "other.c"
    start = f'__attribute__((constructor)) void go(void) {{ fopen("{tmp_path}/ran", "w"); }}'
    other.write_text(f"#include <stdio.h>\n{start}\n")
    evil = tmp_path / "evil.so"
    subprocess.run([*compiler, "-shared", "-fPIC", str(other), "-o", str(evil)], check=True)
    library.unlink()
    contents = {"cut short": whole[: len(whole) // 2], "emptied": b"", "exchanged": evil.read_bytes()}
    library.write_bytes(contents[damage])
    assert build.cached_library(cache, compiler).answer() == 42
    assert not (tmp_path / "ran").exists()
    assert library.read_bytes() == whole


def test_a_link_in_the_cache_is_not_followed(cache, compiler, tmp_path):
    build.cached_library(cache, compiler)
    (name,) = files(cache)
    (tmp_path / "elsewhere.so").write_bytes((cache / name).read_bytes())
    (cache / name).unlink()
    (cache / name).symlink_to(tmp_path / "elsewhere.so")
    assert build.cached_library(cache, compiler).answer() == 42
    assert not (cache / name).is_symlink()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_or_a_file_that_others_may_write_is_refused(cache, compiler, mode):
    build.cached_library(cache, compiler)
    (name,) = files(cache)
    (cache / name).chmod(mode)
    assert build.cached_library(cache, compiler).answer() == 42
    assert (cache / name).stat().st_mode & 0o022 == 0  # built again
    cache.chmod(mode)
    with pytest.raises(OSError, match="can be written by others"):
        build.cached_library(cache, compiler)
    cache.chmod(0o700)


def test_a_folder_exchanged_after_the_check_is_not_looked_into(cache, compiler, tmp_path, monkeypatch):
    build.cached_library(cache, compiler)
    trap, original = tmp_path / "trap", build._names_in
    trap.mkdir()
    (name,) = files(cache)
    (trap / name).write_bytes(b"not a library")

    def exchange(folder):
        if not cache.is_symlink():
            cache.rename(tmp_path / "moved")
            cache.symlink_to(trap)
        return original(folder)

    monkeypatch.setattr(build, "_names_in", exchange)
    assert build.cached_library(cache, compiler).answer() == 42
    assert (trap / name).read_bytes() == b"not a library"


def test_compiler_arguments_flags_and_sources_are_part_of_the_key(compiler, tmp_path):
    keys = {
        build.build_key(compiler, build.COMPILER_FLAGS),
        build.build_key([*compiler, "-m64"], build.COMPILER_FLAGS),
        build.build_key(compiler, (*build.COMPILER_FLAGS, "-m64")),
        build.build_key(compiler, build.COMPILER_FLAGS[1:]),
    }
    (tmp_path / "answer.c").write_text("int answer(void) { return 43; }\n")
    assert len({*keys, build.build_key(compiler, build.COMPILER_FLAGS)}) == 5


def test_builders_at_the_same_time_all_load_and_leave_one_library(cache, compiler):
    program = (
        "import sys; from pathlib import Path; from scalevit.kernels.cpu import build\n"
        "build.SOURCES, build.HEADERS = [Path(sys.argv[2])], []\n"
        "print(build.cached_library(Path(sys.argv[1]), [sys.argv[3]]).answer())"
    )
    words = [sys.executable, "-c", program, str(cache), str(build.SOURCES[0]), compiler[0]]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=100)
        assert out.split() == [b"42"], err
    assert [Path(name).suffix for name in files(cache)] == [".so"]


def test_what_a_killed_builder_left_goes_after_an_hour_and_not_before(cache, compiler):
    for age in (10.0, 2 * build.STALE):
        staging = cache / f"{build.STAGING}{age}"
        staging.mkdir(parents=True)
        (staging / "native.so").write_bytes(b"half")
        os.utime(staging, (time.time() - age,) * 2)
    cache.chmod(0o700)
    build.cached_library(cache, compiler)
    assert [name for name in files(cache) if name.startswith(build.STAGING)] == [f"{build.STAGING}10.0"]


def test_a_failed_build_leaves_nothing(cache, compiler):
    build.SOURCES[0].write_text("int answer(void) { return }\n")
    with pytest.raises(subprocess.CalledProcessError):
        build.cached_library(cache, compiler)
    assert files(cache) == []
