"""Finds what a page of documentation shows: Python blocks, and commands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    page
    for folder in (".", "bench", "docs", "examples")
    for page in sorted(ROOT.glob(f"{folder}/*.md"))
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands behind the fence.
        line: the number of its first line in the page.
        text: what it holds.
        output: the text block that follows it directly, what it is said to print; else None.
    """

    language: str
    line: int
    text: str
    output: str | None = None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order.

    Raises:
        ValueError: a fence is never closed.
    """
    found: list[Block] = []
    language: str | None = None
    start, held = 0, []
    between = True  # only blank lines since the last block
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if language is None:
            if line.startswith("```"):
                language, start, held = line[3:].strip(), number + 1, []
            elif line.strip():
                between = False
            continue
        if line != "```":
            held.append(line)
            continue
        text = "\n".join(held) + "\n"
        if language == "text" and between and found and found[-1].language == "python":
            found[-1] = Block("python", found[-1].line, found[-1].text, text)
        else:
            found.append(Block(language, start, text))
        language, between = None, True
    if language is not None:
        raise ValueError(f"{page}:{start}: the fence is never closed")
    return found


def commands(page: Path, program: str) -> list[str]:
    """The indented lines of a page that call a program, without comments."""
    return [
        line.split("#")[0].strip()
        for line in page.read_text().splitlines()
        if line.startswith(f"    {program} ")
    ]
