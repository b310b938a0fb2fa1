"""Rewrites docs/models.md: `python -m bench.models`."""

from __future__ import annotations

from pathlib import Path

from spfast.testing.models.families import FAMILIES
from spfast.testing.models.table import HEADER, row_of

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
TEXT = """# Models

What the pass does to each family, counted on captures at Inductor's post-grad custom pre pass: two
layers, four ranks, bfloat16. `hf_` models are Hugging Face's, sharded by transformers' own plan;
`tp_` models are written by hand with functional collectives (`spfast.testing.models`). *Patterns*
is what the registered rules do alone, *both* what they do together with the row-wise recogniser.
Bytes a token: what the all_gathers collect, and the all_reduces that stay, each of which is a
reduce_scatter and an all_gather of its value. Regenerate with `python -m bench.models`; a test
compares.

"""


def main() -> None:
    lines = [
        row_of(family, batch, dynamic)
        for family in FAMILIES
        for dynamic in (False, True)
        for batch in (1, 4)
    ]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(TEXT + "\n".join((HEADER, *lines)) + "\n")


if __name__ == "__main__":
    main()
