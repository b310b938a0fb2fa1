"""A compile in a process of its own, with a cache in a folder that outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def fresh_compile(program: str, argument: str, cache: Path) -> tuple[int, ...]:
    """Runs a program with one argument; returns the numbers that it prints."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", program, argument],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return tuple(map(int, done.stdout.split()))
