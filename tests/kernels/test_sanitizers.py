"""The C kernels under the address and undefined-behaviour sanitizers, on random shapes and numbers."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scalevit.kernels.cpu.build import COMPILER_FLAGS, HEADERS, SOURCES

FUZZ = Path(__file__).parents[1] / "support" / "kernel_fuzz.c"
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: native kernels are built there alone"),
]


def build(folder, *flags, fuzz=FUZZ):
    command = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(command[0]) is None:
        pytest.skip("needs a C compiler")
    program = folder / "fuzz"
    plain = [flag for flag in COMPILER_FLAGS if flag != "-O3"]
    files = [str(file) for file in (*SOURCES, fuzz)]
    done = subprocess.run(
        [*command, *plain, *flags, *files, "-lm", "-o", str(program)], capture_output=True, text=True
    )
    if "cannot find" in done.stderr and "san" in done.stderr:
        pytest.skip("needs the compiler's sanitizer libraries (libasan, libubsan)")
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.parametrize("processor", ["-march=native", "-march=x86-64-v3", "-march=x86-64"])
def test_no_kernel_reads_or_writes_beyond_its_arguments(tmp_path, processor):
    if os.uname().machine != "x86_64" and processor != "-march=native":
        pytest.skip(f"needs an x86-64 processor for {processor}")
    assert HEADERS
    program = build(tmp_path, *SANITIZERS, processor)
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "ASAN_OPTIONS": "detect_leaks=1"}
    for seed in range(3):
        done = subprocess.run(
            [str(program), str(seed), "40"], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, (seed, done.stdout[-500:], done.stderr[-4000:])


def test_the_fuzz_finds_a_kernel_that_reads_one_element_too_many(tmp_path):
    """The harness itself: with one row more than its buffers hold, LayerNorm is caught."""
    broken = tmp_path / "kernel_fuzz.c"
    text = FUZZ.read_text()
    call = "means, scales, rows, d, threads);\n  norm_backward"
    assert call in text
    broken.write_text(text.replace(call, "means, scales, rows + 1, d, threads);\n  norm_backward"))
    program = build(tmp_path, *SANITIZERS, "-march=native", fuzz=broken)
    done = subprocess.run([str(program), "0", "1"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
