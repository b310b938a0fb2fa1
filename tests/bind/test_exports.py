"""What the compiled module lets others find in it."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from spfast import _core

NM = shutil.which("nm")


@pytest.mark.skipif(NM is None or sys.platform != "linux", reason="no nm reads ELF files here")
def test_nothing_but_what_python_asks_for() -> None:
    # A libstdc++ that is linked in has symbols that are one for a whole process. torch, loaded
    # later, would take ours, of whatever version it is.
    listed = subprocess.run(
        [str(NM), "-D", "--defined-only", str(_core.__file__)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["PyInit__core"]
