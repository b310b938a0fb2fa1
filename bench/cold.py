"""What the first call of a process takes beside a warm one: ``python -m bench.cold``.

A process compiles a model once, so the first call is what a user waits for. Each is measured in a
process of its own, of this build and of an older one in turn. The older one is made here, from a
git worktree of its commit.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .harness import is_noisy

Say = Callable[[str], None]
Record = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
OLD_COMMIT = "79a000f"  # the last one whose processes traced the default rules
REPEATS = 3
WORKLOADS = ("vLLM IR bf16, static", "vLLM IR bf16, dynamic", "functional 3D, static")
TITLES = {"uuid": "first uuid()", "rule": "one rule of one's own, then the first apply"}


def measure(
    layers: int, say: Say, repeats: int = REPEATS, workloads: Sequence[str] = WORKLOADS
) -> Record:
    """First and warm calls of both builds; of this one alone where the older cannot be made."""
    builds: dict[str, Path | None] = {"new": None}
    record: Record = {"layers": layers, "old_commit": OLD_COMMIT, "absent": ""}
    try:
        builds["old"] = build(OLD_COMMIT, ROOT / "build" / "cold")
    except (OSError, subprocess.CalledProcessError) as error:
        record["absent"] = f"{OLD_COMMIT} could not be built here: {error}"
        say(record["absent"])
    runs: dict[str, dict[str, list[Record]]] = {}
    cases = [(name, "apply", name) for name in workloads]
    cases += [(title, what, WORKLOADS[0]) for what, title in TITLES.items()]
    for title, what, workload in cases:
        found = runs[title] = {who: [] for who in builds}
        for _ in range(repeats):
            for who, site in builds.items():
                found[who].append(_process(what, workload, layers, site))
        record[title] = {who: _median(each) for who, each in found.items()}
        say(f"{title}: {_shown(record[title])}")
    record["import spfast"] = {
        who: _median([run for found in runs.values() for run in found[who]], "import_s")
        for who in builds
    }
    say(f"import spfast: {_shown(record['import spfast'])}")
    return record


def build(commit: str, folder: Path) -> Path:
    """Installs spfast as it was at a commit; returns the folder to import it from."""
    site, source = folder / commit / "site", folder / commit / "source"
    if (site / "spfast" / "__init__.py").is_file():
        return site
    _run(["git", "-C", str(ROOT), "worktree", "prune"])
    shutil.rmtree(source, ignore_errors=True)
    _run(["git", "-C", str(ROOT), "worktree", "add", "--force", "--detach", str(source), commit])
    try:
        options = ["--quiet", "--no-build-isolation", "--no-deps", "--target", str(site)]
        _run([sys.executable, "-m", "pip", "install", *options, str(source)])
    finally:
        _run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(source)])
    return site


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _process(what: str, workload: str, layers: int, site: Path | None) -> Record:
    paths = [str(site)] if site is not None else []
    paths += [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    # Without it each process would compile the sources anew.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "bench.cold_process", what, workload, str(layers)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, cwd=os.sep
    )
    found: Record = json.loads(done.stdout.splitlines()[-1])
    return found


def _median(runs: list[Record], key: str = "first_s") -> Record:
    seconds = [run[key] for run in runs]
    made: Record = {"first_s": statistics.median(seconds), "runs": len(runs)}
    made["noisy"] = is_noisy(seconds)
    if key == "first_s" and "warm_s" in runs[0]:
        made["warm_s"] = statistics.median(run["warm_s"] for run in runs)
    return made


def _shown(row: Record) -> str:
    parts = []
    for who, found in row.items():
        warm = f" (warm {found['warm_s'] * 1e3:.1f})" if "warm_s" in found else ""
        parts.append(f"{who} {found['first_s'] * 1e3:.1f} ms{warm}")
    return ", ".join(parts)


def rows(record: Record) -> dict[str, Record]:
    """What was measured, without what is said about it."""
    return {title: row for title, row in record.items() if isinstance(row, dict)}


def worst(record: Record) -> tuple[float, str]:
    """The largest ratio of a first apply of this build to a warm one, and its workload."""
    found = [
        (row["new"]["first_s"] / row["new"]["warm_s"], title)
        for title, row in rows(record).items()
        if title in WORKLOADS
    ]
    return max(found)


def main() -> None:
    """Measures, and writes cold.json and its picture."""
    from .plots import draw_cold
    from .workloads.catalogue import WORKLOADS as every

    parser = argparse.ArgumentParser(prog="bench.cold", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every workload, not three")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args()
    record = measure(
        80,
        lambda line: print(line, file=sys.stderr, flush=True),
        workloads=tuple(every) if given.all else WORKLOADS,
    )
    folder: Path = given.out
    (folder / "cold.json").write_text(json.dumps(record, indent=1) + "\n")
    print(folder / "cold.json", draw_cold(record, folder))


if __name__ == "__main__":
    main()
