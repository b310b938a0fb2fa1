"""Runs the Python tests on several torches, each in an environment of its own, and writes a table.

    python tests/matrix.py                        2.11.0, 2.13.0, 2.14.1 and 2.15.0, all tests
    python tests/matrix.py --torch 2.15.0 --tests tests/pattern_matcher
    python tests/matrix.py --use 2.15.0=venv/bin/python

An environment that is not named with --use is made under build/matrix: torch comes as the package
index has it, which on Linux may be several gigabytes. The table in docs/versions.md has a
row for each run that ended; a torch that is not run keeps the row that it had.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "versions.md"
TORCHES = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")
HEAD = """# What was run on which torch

spfast supports torch 2.11 to 2.15 and CPython 3.10 to 3.13 (with its lock). An older torch is
refused when spfast is imported, and of a newer one it warns once. Python 3.14 and free-threaded
builds were not tried. vLLM 0.20.2 to 0.26 ask for torch 2.11, 0.27 to 0.32 for 2.13.

On 2.11 the folders in its row were run: no compiled model, no real ranks and no verifier. The
stand-in for Inductor's matcher follows the torch that is installed, and that one replaces in an
older way ([its page](pattern-matcher.md)). Of the 90 that failed in its row, 63 are tests of the
stand-in with what later torches brought: arguments of `register_replacement`, patterns that
repeat, replacements traced once. 27 compared with a FakeTensorMode that calls a cut's size
unknown there; those tests now leave such a size alone.

The rows say what was run, and what was not run has none.

Written by `make matrix` (`tests/matrix.py`): one row for each run that ended, and nothing else.

| torch | Python | tests | passed | failed | skipped |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """One run of the tests on one torch."""

    torch: str
    python: str
    tests: str
    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        numbers = f"{self.passed} | {self.failed} | {self.skipped}"
        return f"| {self.torch} | {self.python} | `{self.tests}` | {numbers} |"


def environment(torch: str) -> Path:
    """The interpreter of an environment with this torch and spfast, made if it is not there."""
    folder = ROOT / "build" / "matrix" / torch
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "numpy", f"torch=={torch}"], check=True)
    subprocess.run([*pip, "--upgrade", f"{ROOT}[test]"], check=True)
    return python


def run(torch: str, python: Path, tests: list[str]) -> Row:
    """Runs tests with an interpreter.

    Raises:
        SystemExit: It has another torch, or the run did not end.
    """
    ask = "import sys, torch; print(torch.__version__, sys.version.split()[0])"
    found = subprocess.run([python, "-c", ask], capture_output=True, text=True, cwd="/")
    version, own_python = (found.stdout.split() or ["none", ""])[:2]
    if version.partition("+")[0] != torch:
        raise SystemExit(f"{python} has torch {version}, not {torch}")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-p", "no:cacheprovider", "-q", f"--junitxml={report}"]
        subprocess.run([python, "-m", "pytest", *options, *tests], cwd=ROOT)
        if not report.exists():
            raise SystemExit(f"the tests on torch {torch} did not end")
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    count = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return Row(version, own_python, " ".join(tests), passed, failed, count["skipped"])


def write(row: Row) -> None:
    """Puts a row in the place of the one for the same torch and tests."""
    text = TABLE.read_text() if TABLE.exists() else HEAD
    rows = [line for line in text.splitlines() if re.match(r"\| \d", line)]
    start, tests = f"| {row.torch} |", f"| `{row.tests}` |"
    rows = [line for line in rows if not (line.startswith(start) and tests in line)]
    TABLE.write_text(HEAD + "".join(f"{line}\n" for line in sorted([*rows, str(row)])))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="+", default=list(TORCHES), metavar="VERSION")
    parser.add_argument("--tests", nargs="+", default=["tests"], metavar="PATH")
    parser.add_argument("--use", nargs="+", default=[], metavar="VERSION=PYTHON")
    options = parser.parse_args()
    given = dict(item.split("=", 1) for item in options.use)
    failed = 0
    for torch in options.torch:
        python = Path(given[torch]).absolute() if torch in given else environment(torch)
        row = run(torch, python, options.tests)
        write(row)
        print(row)
        failed += row.failed
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
