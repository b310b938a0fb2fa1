"""A regression gate that does not flake: how many instructions encode, match and plan take, and
what a process does before its first graph.

    python -m bench.instruction_counts [--record] [--program FILE]

Valgrind counts them, so neither the machine's speed nor its load plays a part. Match and plan are
counted in ``spfast_bench``, which knows no Python, each alone; encode, and cold (compiling the
stored default rules), in one Python process, as the difference between so many calls and twice as
many, which leaves out everything else. Of these two only what the extension module itself executes
counts, and how often it calls another library: what Python's own look-ups take depends on where its
objects lie, by 8% from one environment to another. The counts are compared with those in
instruction_counts.json. Another compiler, Python or torch makes other instructions: then nothing is
compared, and the gate says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDED = Path(__file__).with_name("instruction_counts.json")
BUILD = ROOT / "build" / "instruction-counts"
TOLERANCE = 0.05
NODES = 10_000
LAYERS = 40
CALLS = 20

# Inclusive counts of what these functions do.
NATIVE = {
    "match": "spfast::find_matches*",
    "examine": "spfast::examine_sites*",
    "plan": "spfast::make_plan*",
}

# Stages inside Python: one process counts them all, for it takes long to start under valgrind.
CALLED = ("encode", "cold")


def main() -> int:
    """Counts, and compares or records; returns the exit code."""
    parser = argparse.ArgumentParser(prog="bench.instruction_counts", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the counts down")
    parser.add_argument("--native-only", action="store_true", help="leave encode and cold out")
    parser.add_argument("--program", type=Path, help="an spfast_bench that was built before")
    arguments = parser.parse_args()
    missing = [
        tool for tool in ("valgrind", "callgrind_control", "cmake") if not shutil.which(tool)
    ]
    if missing:
        _say(f"SKIPPED: {', '.join(missing)} not found; install valgrind and cmake to count")
        return 0
    counts = native_counts(arguments.program or build())
    if not arguments.native_only:
        counts.update(python_counts())
    with_what = versions()
    if arguments.record:
        record = {"with": with_what, "counts": counts}
        RECORDED.write_text(json.dumps(record, indent=2) + "\n")
        _say(f"recorded {counts}")
        return 0
    recorded = json.loads(RECORDED.read_text())
    return _judge(counts, recorded["counts"], with_what, recorded["with"])


def _judge(
    counts: dict[str, int],
    recorded: dict[str, int],
    here: dict[str, str],
    there: dict[str, str],
) -> int:
    worse = False
    for stage, count in counts.items():
        needs = ("compiler",) if stage in NATIVE else ("compiler", "python", "torch")
        other = [
            f"{k} {there.get(k)} there, {here[k]} here" for k in needs if there.get(k) != here[k]
        ]
        if stage not in recorded or other:
            _say(
                f"{stage}: {count:,}; SKIPPED the comparison: {'; '.join(other) or 'not recorded'}"
            )
            continue
        change = count / recorded[stage] - 1
        unit = "calls" if stage.endswith("_calls") else "instructions"
        verdict = "ok"
        if change > TOLERANCE:
            verdict, worse = "WORSE", True
        elif change < -TOLERANCE:
            verdict = "better: record it with --record"
        _say(f"{stage}: {count:,} {unit}, {change:+.1%} against {recorded[stage]:,}: {verdict}")
    return int(worse)


def build() -> Path:
    """Compiles spfast_bench as the wheel is compiled: files together make other instructions."""
    command = ["cmake", "-S", str(ROOT), "-B", str(BUILD), "-DSPFAST_BUILD_BENCH=ON"]
    command += ["-DSPFAST_BUILD_MODULE=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    command += ["-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=8"]
    _run(command)
    _run(["cmake", "--build", str(BUILD), "--target", "spfast_bench", "-j", str(os.cpu_count())])
    return BUILD / "spfast_bench"


def native_counts(bench: Path) -> dict[str, int]:
    """Instructions of match, examine and plan on one fixed table."""
    counts = {}
    for stage, function in NATIVE.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            options = [f"--callgrind-out-file={out}", f"--toggle-collect={function}"]
            program = [str(bench.resolve()), str(NODES), "1"]
            _run(["valgrind", "--tool=callgrind", *options, *program])
            counts[stage] = _total(out)
        if counts[stage] == 0:
            raise RuntimeError(f"valgrind found no function {function} in spfast_bench")
    return counts


def python_counts() -> dict[str, int]:
    """Instructions of one call of each stage of CALLED, and its calls to other libraries."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = [f"--callgrind-out-file={out}", "--instr-atstart=no"]
        program = [sys.executable, "-m", "bench.instruction_counts_calls"]
        program += [str(LAYERS), str(CALLS), *CALLED]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        _run(["valgrind", "--tool=callgrind", *options, *program], environment)
        counts = {}
        for place, what in enumerate(CALLED):
            # Of each stage, part 1: what came before; 2: so many calls; 3: twice as many.
            once, twice = (_of_module(Path(f"{out}.{3 * place + part}")) for part in (2, 3))
            instructions, calls = ((b - a) // CALLS for a, b in zip(once, twice, strict=True))
            counts |= {what: instructions, f"{what}_calls": calls}
    return counts


def versions() -> dict[str, str]:
    """What a count depends on."""
    import torch

    compiler = os.environ.get("CXX", "c++")
    first_line = _run([compiler, "--version"]).splitlines()[0]
    return {
        "compiler": first_line,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }


def _total(file: Path) -> int:
    found = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.M)
    if found is None:
        raise RuntimeError(f"{file} holds no count")
    return int(found.group(1))


def _of_module(file: Path) -> tuple[int, int]:
    """The instructions that the extension module executed, and its calls to other objects.

    The format is Valgrind's "Callgrind Format Specification": a name is written out once and told
    by its number from then on; the line after ``calls=`` holds what the callee took.
    """
    names: dict[str, str] = {}
    inside = False
    callee: str | None = None
    instructions = calls = 0
    lines = iter(file.read_text().splitlines())
    for line in lines:
        key, equals, value = line.partition("=")
        if key in ("ob", "cob"):
            number, _, name = value.partition(" ")
            if name:
                names[number] = name
            if key == "ob":
                inside = "_core." in names[number]
            else:
                callee = names[number]
        elif key == "calls":
            # Without cob= the callee is in the caller's own object.
            if inside and callee is not None and "_core." not in callee:
                calls += int(value.split()[0])
            callee = None
            next(lines)
        elif inside and not equals and line[:1] in tuple("0123456789+-*"):
            # A position alone costs nothing.
            instructions += sum(map(int, line.split()[1:]))
    if instructions == 0:
        raise RuntimeError(f"{file} holds no instruction of the extension module")
    return instructions, calls


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        said = f"{done.stdout}\n{done.stderr}"[-2000:]
        raise RuntimeError(f"{' '.join(command)} failed:\n{said}")
    return done.stdout


def _say(line: str) -> None:
    sys.stdout.write(f"instruction counts: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
