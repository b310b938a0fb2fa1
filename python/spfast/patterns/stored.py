"""The default rules as data: what tracing makes of them, so that a process need not trace.

``default_rules.json`` lies beside this file. It is text, and nothing in it is executed. Its first
line says what it was made from; the second is the content, in which equal parts of patterns are
written once and referred to by number. Where the sources of the rules, this module among them, or
the content have another checksum than the first line says, the file is refused, and the rules are
traced: a file that is old, of another version or damaged costs time, never a result.

Nothing of torch goes into a pattern but names of dtypes, so one file serves every torch. To make
it anew::

    python -m spfast.patterns python/spfast/patterns/default_rules.json
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spfast.patterns.dialect import CollectiveFamily, Dialect
from spfast.patterns.entries import Entry, Key

if TYPE_CHECKING:
    from spfast.patterns.model import Pattern

__all__ = ["FIELDS", "FILE", "Stored", "header", "load"]

logger = logging.getLogger("spfast")

FILE = Path(__file__).with_name("default_rules.json")

# What decides which patterns come out: the rules themselves, and how they are traced.
_SOURCES = """
blocks building calls dialect dumping entries fp8 functional model registry rmsnorm signatures
stored tracing unify values vllm_custom_ops vllm_ir
""".split()

# The fields of each class. A class comes after those of its parts. None stands for a plain value, a
# class for the number of a row of its table, and a list for a list of either.
FIELDS: dict[str, tuple[Any, ...]] = {
    "Literal": (None, None, ["Literal"]),
    "Location": (None, None, None),
    "Fixed": ("Location", "Literal", None),
    "Form": (None, ["Location"], ["Fixed"]),
    "Operand": (None, None, ["Literal"]),
    "Operation": (["Form"], ["Operand"], None),
    "Parameter": (None, None),
    "Pattern": (None, None, ["Operation"], ["Parameter"], None),
}


class Stored:
    """What a file holds.

    Attributes:
        tables: Rows of parts of patterns by the name of their class.
        dialects: The dialects by name.
        entries: The registrations; their patterns are made from the tables when asked for.
    """

    def __init__(self, content: Any) -> None:
        self.tables: dict[str, list[Any]] = content["tables"]
        self._compiled: list[int] = content["compiled"]
        self.dialects = {
            name: Dialect(name, tuple(_family(row) for row in families))
            for name, families in content["dialects"]
        }
        self.entries = {
            Key(dialect, rule, variant): Entry(functools.partial(self._patterns, rows), digest)
            for dialect, rule, variant, digest, rows in content["entries"]
        }
        self._made: list[Pattern] = []

    def rows(self, *, quantised: bool) -> list[int]:
        """Rows of the patterns as the core takes them, with or without the rules that quantise.

        The patterns are those of :meth:`Registry.patterns`, as long as the registry has all entries
        of the file and no others.
        """
        patterns = self.tables["Pattern"]
        return [row for row in self._compiled if quantised or not patterns[row][-1]]

    def _patterns(self, rows: list[int]) -> tuple[Pattern, ...]:
        if not self._made:
            self._made = _decode(self.tables)
        return tuple(self._made[row] for row in rows)


def load(file: Path = FILE) -> Stored | None:
    """Reads a file; None where the file is missing or must be refused.

    Example:
        >>> from pathlib import Path
        >>> load(Path("nowhere.json")) is None
        True
    """
    try:
        first, _, body = file.read_bytes().partition(b"\n")
        if json.loads(first) != header(body):
            raise ValueError("it was made from other sources, or is damaged")
        return Stored(json.loads(body))
    except (OSError, ValueError) as error:
        logger.info("the stored default rules are not used, and traced anew: %s", error)
        return None


def _family(row: list[Any]) -> CollectiveFamily:
    values: list[Any] = [tuple(each) if isinstance(each, list) else each for each in row]
    return CollectiveFamily(*values)


def _decode(tables: Mapping[str, list[Any]]) -> list[Pattern]:
    from spfast.patterns import model

    made: dict[str, list[Any]] = {}
    for name, kinds in FIELDS.items():
        make, rows = getattr(model, name), made.setdefault(name, [])
        for row in tables[name]:
            values = []
            for item, kind in zip(row, kinds, strict=True):
                if kind is None:
                    values.append(item)
                elif isinstance(kind, list):
                    parts = made[kind[0]]
                    values.append(tuple([parts[part] for part in item]))
                else:
                    values.append(made[kind][item])
            rows.append(make(*values))
    return made["Pattern"]


def header(body: bytes) -> dict[str, Any]:
    """The first line that a file with this content must have, given the sources as they are."""
    sources = hashlib.sha256()
    for name in _SOURCES:
        sources.update(FILE.with_name(f"{name}.py").read_bytes())
    return {
        "sources": sources.hexdigest(),
        "content": hashlib.sha256(body).hexdigest(),
    }
