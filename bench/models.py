"""Writes the table of docs/models.md anew: `python -m bench.models`."""

from __future__ import annotations

from pathlib import Path

from spfast.testing.models.families import FAMILIES
from spfast.testing.models.table import HEADER, SIZES, cells_of, fold

PAGE = Path(__file__).parent.parent / "docs" / "models.md"


def main() -> None:
    found = {
        (family, size): cells_of(family, *SIZES[size]) for family in FAMILIES for size in SIZES
    }
    lines = PAGE.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("|")]
    at = next(place for place, line in enumerate(lines) if line.startswith("|"))
    table = [*HEADER.splitlines(), *fold(found)]
    PAGE.write_text("\n".join([*kept[:at], *table, *kept[at:]]) + "\n")


if __name__ == "__main__":
    main()
