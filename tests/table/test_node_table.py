"""Tables: round trips, and what is refused."""

from __future__ import annotations

import io
import operator
import pickle
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from support.goldens import CASES, load_golden
from torch import fx

import spfast
from spfast.base.table_files import pack, unpack
from spfast.table import evaluate


@pytest.mark.parametrize("case", CASES)
def test_decodes_to_the_same_graph(case: str, tmp_path: Path) -> None:
    graph = load_golden(case).before
    table = spfast.NodeTable.from_graph(graph)
    table.save(tmp_path / "graph.spfx")
    decoded = spfast.NodeTable.load(tmp_path / "graph.spfx").to_graph()
    decoded.lint()
    assert str(decoded) == str(graph)
    for before, after in zip(graph.nodes, decoded.nodes, strict=True):
        assert before.name == after.name
        assert str(before.meta.get("val")) == str(after.meta.get("val")), before


@pytest.mark.parametrize("case", CASES)
def test_saved_again_gives_the_same_bytes(case: str) -> None:
    table = spfast.NodeTable.from_graph(load_golden(case).before)
    again = spfast.NodeTable.from_graph(table.to_graph())
    assert again.to_bytes() == table.to_bytes()


def test_table_pickles_and_counts() -> None:
    table = spfast.NodeTable.from_graph(load_golden(CASES[0]).before)
    copy = pickle.loads(pickle.dumps(table))
    assert len(copy) == len(table) > 10
    assert copy.memory_bytes() > 0


def test_every_kind_of_operand_survives() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    module = graph.get_attr("layer.weight")
    y = graph.call_function(
        torch.ops.aten.empty.memory_format,
        ([2, 3],),
        {
            "dtype": torch.bfloat16,
            "device": torch.device("cpu"),
            "layout": torch.strided,
            "memory_format": torch.contiguous_format,
        },
    )
    part = graph.call_function(
        operator.getitem, (x, (slice(None, 3, None), None, -1, 1.5, True, "text", -0.0))
    )
    nested = graph.call_function(torch.ops.aten.cat.default, ([x, [module, (y, {"key": part})]],))
    method = graph.call_method("relu_", (nested,))
    call = graph.call_module("layer.0", (method,))
    graph.output(call)
    decoded = spfast.NodeTable.from_graph(graph).to_graph()
    assert str(decoded) == str(graph)
    assert [n.op for n in decoded.nodes] == [n.op for n in graph.nodes]


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    data = spfast.NodeTable.from_graph(load_golden(CASES[0]).before).to_bytes()
    for length in (0, 3, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(spfast.FileFormatError):
            spfast.NodeTable.from_bytes(data[:length])
    path = tmp_path / "short.spfx"
    path.write_bytes(data[:-1])
    with pytest.raises(spfast.FileFormatError, match=r"short\.spfx: "):
        spfast.NodeTable.load(path)


def test_compressed_file_is_refused_when_damaged(tmp_path: Path) -> None:
    path = tmp_path / "graph.spfx"
    spfast.NodeTable.from_graph(load_golden(CASES[0]).before).save(path)
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(spfast.FileFormatError):
            spfast.NodeTable.load(path)
    for place in range(0, len(data), 41):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        with pytest.raises(spfast.FileFormatError):
            spfast.NodeTable.load(path)
    path.write_bytes(data.replace(b"SPFZ1", b"SPFZ2", 1))
    with pytest.raises(spfast.FileFormatError, match="use a newer spfast"):
        spfast.NodeTable.load(path)


class Endless(io.RawIOBase):
    """Goes on for ever, and counts what was read of it."""

    def __init__(self, start: bytes, more: bytes) -> None:
        self.left, self.more, self.count = start, more, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        assert 0 < size < 2**20, "it is read as a whole"
        while len(self.left) < size:
            self.left += self.more
        found, self.left = self.left[:size], self.left[size:]
        self.count += size
        return found


def header(length: int) -> bytes:
    return b"SPFX" + bytes(4) + length.to_bytes(8, "little") + bytes(4)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"y\n" * 10, "does not start with SPFX or SPFZ"),
        (header(1000), "goes on behind its table"),
        (header(2**40), "says that its table has 1099511627776 bytes"),
        (b"SPFZ1\n" + zlib.compress(header(100_000) + bytes(100_000)), "goes on behind its table"),
        (b"SPFZ1\n" + zlib.compress(header(1000) + bytes(2**28)), "goes on behind its table"),
        (b"SPFZ1\n" + zlib.compress(b"GIF89a" + bytes(2**20)), "does not start with SPFX"),
    ],
)
def test_no_more_is_read_than_a_table(start: bytes, message: str) -> None:
    """A device without an end, a bomb, what was appended to a file."""
    file = Endless(start, bytes(2**16))
    tracemalloc.start()
    with pytest.raises(spfast.FileFormatError, match=message):
        unpack(file)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert file.count < 2**19 and peak < 2**21


def test_what_is_appended_to_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.spfx"
    table = spfast.NodeTable.from_graph(load_golden(CASES[0]).before)
    for data in (pack(table.to_bytes()), table.to_bytes()):
        path.write_bytes(data)
        assert len(spfast.NodeTable.load(path)) == len(table)
        path.write_bytes(data + b"\n")
        with pytest.raises(spfast.FileFormatError, match=f"{path}: .*goes on behind its table"):
            spfast.NodeTable.load(path)


def test_corrupted_file_is_refused() -> None:
    data = bytearray(spfast.NodeTable.from_graph(load_golden(CASES[0]).before).to_bytes())
    data[len(data) // 2] ^= 0x40
    with pytest.raises(spfast.FileFormatError, match="(?i)checksum|damaged"):
        spfast.NodeTable.from_bytes(bytes(data))


def test_newer_file_is_refused() -> None:
    data = bytearray(spfast.NodeTable.from_graph(load_golden(CASES[0]).before).to_bytes())
    data[4] += 1
    with pytest.raises(spfast.FileFormatError, match="(?i)version"):
        spfast.NodeTable.from_bytes(bytes(data))


def test_unregistered_operator_is_named() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")

    def stranger(value: object) -> object:
        return value

    stranger.__module__ = "nobody_knows_this"
    graph.output(graph.call_function(stranger, (x,)))
    table = spfast.NodeTable.from_graph(graph)
    with pytest.raises(spfast.GraphError, match="operator 'nobody_knows_this.*' is not registered"):
        table.to_graph()


@pytest.mark.parametrize(
    "text", ["__import__('os')", "s0.real", "s0 if s0 else 1", "2 ** 9999", "t", ""]
)
def test_symbolic_sizes_are_arithmetic_only(text: str) -> None:
    with pytest.raises(spfast.GraphError, match="is not arithmetic on known symbols"):
        evaluate(text, {"s0": 8})


def test_symbolic_arithmetic() -> None:
    assert (
        evaluate("8*((s0//8)) + 2**3 - Max(1, s0, 3) + Mod(s0, 3)", {"s0": 20}) == 16 + 8 - 20 + 2
    )


def test_decoded_nodes_share_what_traced_nodes_share() -> None:
    """One string a kind of node: whoever compares kinds by identity first stays fast."""
    graph = spfast.NodeTable.from_graph(load_golden(CASES[0]).before).to_graph()
    assert len({id(node.op) for node in graph.nodes}) == len({node.op for node in graph.nodes})


def test_kinds_of_nodes_may_be_any_strings() -> None:
    graph = load_golden(CASES[0]).before
    for node in graph.nodes:
        node.op = "".join(list(node.op))
    assert len({id(node.op) for node in graph.nodes}) == len(graph.nodes)
    assert len(spfast.NodeTable.from_graph(graph)) == len(graph.nodes)
