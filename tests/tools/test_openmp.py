"""OpenMP's waiting policy: bounded before a runtime starts, inherited, never over the user's own."""

import os
import subprocess
import sys

import pytest

import scalevit
from scalevit.tools import doctor

VARIABLES = (*scalevit.OPENMP_SPINNING, "OMP_WAIT_POLICY")


def python(program, **environment):
    """What a program prints, in a process with these variables and no other waiting policy."""
    plain = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**plain, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


STATE = "import os, scalevit; print(scalevit.openmp_spinning, os.environ.get('GOMP_SPINCOUNT'))"


def test_importing_scalevit_bounds_spinning_for_itself_and_its_children():
    assert python(STATE) == ["bounded", scalevit.OPENMP_SPINNING["GOMP_SPINCOUNT"]]
    child = "import scalevit, subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    out = python(child.replace("sys.argv[1]", repr(STATE)))
    assert out == ["bounded", scalevit.OPENMP_SPINNING["GOMP_SPINCOUNT"]]


@pytest.mark.parametrize(
    "own", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}, {"KMP_BLOCKTIME": "0"}]
)
def test_the_users_own_policy_stays(own):
    program = "import os, scalevit; print(scalevit.openmp_spinning, *[os.environ.get(n, '-') for n in %r])"
    state, *values = python(program % (VARIABLES,), **own)
    assert state == "user"
    assert dict(zip(VARIABLES, values, strict=True)) == {name: own.get(name, "-") for name in VARIABLES}


def test_after_torch_it_is_too_late_and_doctor_says_so():
    assert python("import torch, scalevit; print(scalevit.openmp_spinning)") == ["late"]
    facts = {
        "gflops": {"fp32": 1.0, "bf16": 1.0}, "threads": 2, "cores": 2, "device": "cpu", "packages": {},
        "native_kernels": True, "compile_fails": None,
    }  # fmt: skip
    (line,) = doctor.advice({**facts, "openmp_spinning": "late"})
    assert "GOMP_SPINCOUNT=" in line and "import scalevit first" in line
    assert doctor.advice({**facts, "openmp_spinning": "bounded"}) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads torch's GNU OpenMP runtime, which Linux has")
def test_the_runtime_that_torch_starts_has_read_the_bound():
    """GNU's runtime prints its settings when it starts."""
    done = subprocess.run(
        [sys.executable, "-c", "import scalevit, torch; torch.ones(1 << 20).sum()"],
        capture_output=True, text=True,
        env={n: v for n, v in os.environ.items() if n not in VARIABLES} | {"OMP_DISPLAY_ENV": "verbose"},
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    assert lines and all(f"'{scalevit.OPENMP_SPINNING['GOMP_SPINCOUNT']}'" in line for line in lines)
