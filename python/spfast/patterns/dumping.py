"""Writes the default rules as data, in the form that :mod:`spfast.patterns.stored` reads."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from spfast.patterns.registry import Registry
from spfast.patterns.stored import FIELDS, header

__all__ = ["dump"]


def dump(registry: Registry) -> bytes:
    """The content of the file for the dialects and rules of a registry."""
    tables: dict[str, dict[str, int]] = {name: {} for name in FIELDS}

    def write(value: Any) -> int:
        name = type(value).__name__
        row: list[Any] = []
        for field, kind in zip(fields(value), FIELDS[name], strict=True):
            item = getattr(value, field.name)
            if isinstance(kind, list):
                row.append([write(each) for each in item])
            else:
                row.append(item if kind is None else write(item))
        # The key is text. As values, 0.0 would equal -0.0, and True would equal 1.
        return tables[name].setdefault(_json(row), len(tables[name]))

    content = {
        "dialects": [
            (
                dialect.name,
                [[getattr(each, f.name) for f in fields(each)] for each in dialect.families],
            )
            for dialect in registry.dialects()
        ],
        "entries": [
            [*key, entry.digest, [write(pattern) for pattern in entry.patterns]]
            for key, entry in registry.entries().items()
        ],
        "compiled": [write(pattern) for pattern in registry.patterns()],
        "tables": {name: [json.loads(row) for row in table] for name, table in tables.items()},
    }
    body = _json(content).encode() + b"\n"
    return _json(header(body)).encode() + b"\n" + body


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
