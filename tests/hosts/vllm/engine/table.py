"""Keeps what real engines gave, and writes the table of docs/vllm.md from it.

A table is of one build: with the first result of another, all that was kept before is dropped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TypedDict

sys.path.insert(0, str(Path(__file__).parent))

from scenarios import SCENARIOS, VERSIONS

ROOT = Path(__file__).resolve().parents[4]
PAGE = ROOT / "docs" / "vllm.md"
KEPT = ROOT / "tests" / "data" / "vllm.json"
HEADER = "| vLLM | scenario | rewritten (rank 0 of each stage) | against the plugin off |"
START_UP = {"start-up": "what the plugin costs a process while it is off"}
NOT_RUN = "was not run on this build"


class Found(TypedDict):
    """How a scenario ended: what was rewritten, and what the comparison said."""

    rewritten: str
    compared: str


class Kept(TypedDict):
    """The results of one build of spfast, by version of vLLM and by scenario."""

    build: str
    engines: dict[str, dict[str, Found]]


def load() -> Kept:
    """What was kept."""
    kept: Kept = json.loads(KEPT.read_text())
    return kept


def keep(build: str, version: str, scenario: str, found: Found) -> None:
    """Writes a result down, in place of the one before it, and the table anew."""
    kept = load() if KEPT.exists() else Kept(build=build, engines={})
    if kept["build"] != build:
        kept = Kept(build=build, engines={})
    kept["engines"].setdefault(version, {})[scenario] = found
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(PAGE.read_text(), kept))


def rows(kept: Kept) -> list[str]:
    """The lines of the table below its head: each scenario that is compared, run or not."""
    lines = []
    for version in VERSIONS:
        results = kept["engines"].get(version, {})
        for name, title in {**START_UP, **_titles(version)}.items():
            found = results.get(name, Found(rewritten="", compared=NOT_RUN))
            cells = (version, title, found["rewritten"], found["compared"])
            lines.append("| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |")
    return lines


def _titles(version: str) -> dict[str, str]:
    return {
        name: scenario.title
        for name, scenario in SCENARIOS.items()
        if version.startswith(scenario.versions) and not scenario.is_base
    }


def page(text: str, kept: Kept) -> str:
    """The page with the table in the place of the one that it has."""
    lines = text.splitlines()
    first = lines.index(HEADER)
    last = next(at for at in range(first, len(lines)) if not lines[at].startswith("|"))
    table = [HEADER, "|---|---|---|---|", *rows(kept)]
    return "\n".join([*lines[:first], *table, *lines[last:]]) + "\n"
