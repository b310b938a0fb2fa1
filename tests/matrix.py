"""Runs the Python tests on several torches, each in an environment of its own, and writes a table.

    python tests/matrix.py                        2.11.0, 2.13.0, 2.14.1 and 2.15.0, all tests
    python tests/matrix.py --torch 2.15.0 --tests tests/pattern_matcher
    python tests/matrix.py --use 2.15.0=venv/bin/python

An environment that is not named with --use is made under build/matrix: torch comes as the package
index has it, which on Linux may be several gigabytes. Each folder of tests/ is a run of its own,
kept in tests/data/matrix.json as it ends: one that was mended is run again without the others, and
docs/versions.md adds up what is there. A torch that is not run keeps what it had.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "versions.md"
KEPT = ROOT / "tests" / "data" / "matrix.json"
TORCHES = ("2.11.0", "2.13.0", "2.14.1", "2.15.0")
HEAD = """# What was run on which torch

spfast supports torch 2.11 to 2.15 and CPython 3.10 to 3.13 (with its lock). An older torch is
refused when spfast is imported, and of a newer one it warns once. Python 3.14 and free-threaded
builds were not tried. vLLM 0.20.2 to 0.26 ask for torch 2.11, 0.27 to 0.32 for 2.13, the default,
on which every change is tested.

On 2.11 the stand-in for Inductor's matcher follows the torch that is installed, which replaces in
an older way ([its page](pattern-matcher.md)), and tests of what it does not do are skipped.

On 2.14.1 one test, of the benchmark of whole compiles, ran out of its five minutes on a busy
machine; alone it passed in one.

On 2.15, under `torch.compile(dynamic=True)`, a float of the model's own, such as an FP8 limit that
is an attribute or a global, is an input of the graph and no number. No rule knows it there; the
row-wise recogniser, which is on by default, gathers float8 all the same.

Written by `make matrix` (`tests/matrix.py`), which adds up the folders of tests whose runs ended,
and nothing else: what was not run is not counted. Each folder counts as it ended when it was last
run on that torch, so a row may hold runs of several builds of spfast.

| torch | Python | tests | passed | failed | skipped |
|---|---|---|---|---|---|
"""


class Count(TypedDict):
    """How the tests of one folder, or one file beside the folders, ended."""

    passed: int
    failed: int
    skipped: int


class Kept(TypedDict):
    """All that was run on one torch."""

    python: str
    parts: dict[str, Count]


def parts(tests: Path = ROOT / "tests") -> list[str]:
    """The folders of tests/ and the files beside them, each a run of its own."""
    folders = {
        each.relative_to(tests).parts[0]
        for each in tests.rglob("test_*.py")
        if not any(part.startswith((".", "_")) for part in each.relative_to(tests).parts)
    }
    return sorted(f"tests/{each}" for each in folders)


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


def versions(python: Path) -> tuple[str, str]:
    """The versions of torch and Python that an interpreter has."""
    ask = "import sys, torch; print(torch.__version__, sys.version.split()[0])"
    found = subprocess.run([python, "-c", ask], capture_output=True, text=True, cwd="/")
    torch, own_python = (found.stdout.split() or ["none", ""])[:2]
    return torch, own_python


def run(python: Path, part: str, flags: list[str]) -> Count:
    """Runs the tests of one part.

    Raises:
        SystemExit: The run did not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-p", "no:cacheprovider", "-q", f"--junitxml={report}", *flags]
        subprocess.run([python, "-m", "pytest", *options, part], cwd=ROOT)
        if not report.exists():
            raise SystemExit(f"{part} did not end under {python}")
        suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return Count(passed=tests - failed - skipped, failed=failed, skipped=skipped)


def row(torch: str, kept: Kept, wanted: list[str]) -> str:
    """One line of the table: what was run on a torch, added up."""
    missing = [each for each in wanted if each not in kept["parts"]]
    if not missing:
        tests = "all"
    elif len(missing) < len(kept["parts"]):
        tests = "all but " + ", ".join(f"`{each}`" for each in missing)
    else:
        tests = ", ".join(f"`{each}`" for each in sorted(kept["parts"]))
    passed, failed, skipped = (
        sum(each[key] for each in kept["parts"].values()) for key in ("passed", "failed", "skipped")
    )
    return f"| {torch} | {kept['python']} | {tests} | {passed} | {failed} | {skipped} |"


def table(all_kept: dict[str, Kept]) -> str:
    """The whole page."""
    wanted = parts()
    return HEAD + "".join(f"{row(torch, all_kept[torch], wanted)}\n" for torch in sorted(all_kept))


def keep(torch: str, python: str, part: str, count: Count) -> None:
    """Writes one run down, in place of the one before it, and the page anew."""
    all_kept: dict[str, Kept] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept = all_kept.setdefault(torch, Kept(python=python, parts={}))
    if kept["python"] != python:
        kept.update(python=python, parts={})
    kept["parts"] = dict(sorted({**kept["parts"], part: count}.items()))
    KEPT.write_text(json.dumps(all_kept, indent=1, sort_keys=True) + "\n")
    TABLE.write_text(table(all_kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--torch", nargs="+", default=list(TORCHES), metavar="VERSION")
    parser.add_argument("--tests", nargs="+", default=parts(), metavar="FOLDER")
    parser.add_argument("--use", nargs="+", default=[], metavar="VERSION=PYTHON")
    parser.add_argument("--flags", default="", help="more for pytest, such as '-n 1'")
    options = parser.parse_args()
    unknown = sorted({*options.tests} - {*parts()})
    if unknown:
        parser.error(f"--tests takes folders of tests/ and files beside them, not {unknown[0]}")
    given = dict(item.split("=", 1) for item in options.use)
    failed = 0
    for torch in options.torch:
        python = Path(given[torch]).absolute() if torch in given else environment(torch)
        found, own_python = versions(python)
        if found.partition("+")[0] != torch:
            raise SystemExit(f"{python} has torch {found}, not {torch}")
        for part in options.tests:
            count = run(python, part, options.flags.split())
            keep(found, own_python, part, count)
            print(found, part, count, flush=True)
            failed += count["failed"]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
