"""_core.pyi says what the native module has: every name, every argument, and what is returned."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path

import spfast
from spfast import _core

STUB = Path(spfast.__file__).with_name("_core.pyi")


@dataclass(frozen=True)
class Signature:
    """A function: the names of its arguments, and the outermost name of what it returns."""

    arguments: tuple[str, ...]
    returns: str


def _signature(function: ast.FunctionDef) -> Signature:
    assert function.returns is not None
    returns = function.returns
    while isinstance(returns, ast.Subscript):
        returns = returns.value
    name = ast.unparse(returns)
    arguments = [each.arg for each in function.args.args if each.arg != "self"]
    return Signature(tuple(arguments), name.rpartition(".")[2])


def _parsed(line: str) -> Signature:
    parsed = ast.parse(f"def {line}: ...").body[0]
    assert isinstance(parsed, ast.FunctionDef)
    return _signature(parsed)


def stubbed() -> tuple[dict[str, Signature], set[str]]:
    """The functions of the stub, and all its names."""
    methods: dict[str, Signature] = {}
    others: set[str] = set()
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.ClassDef):
            others.add(node.name)
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    methods[f"{node.name}.{each.name}"] = _signature(each)
        elif isinstance(node, ast.FunctionDef):
            others.add(node.name)
            methods[node.name] = _signature(node)
        elif isinstance(node, ast.AnnAssign):
            others.add(ast.unparse(node.target))
        else:
            assert isinstance(node, (ast.Import, ast.ImportFrom)), ast.unparse(node)
    return methods, others


def native() -> tuple[dict[str, Signature], set[str]]:
    """The same of the module, from what pybind11 writes into docstrings."""
    methods: dict[str, Signature] = {}
    others: set[str] = set()
    for name, value in vars(_core).items():
        if name.startswith("__"):
            continue
        others.add(name)
        if not inspect.isclass(value):
            if callable(value):
                methods[name] = _parsed((value.__doc__ or "").split("\n")[0])
            continue
        for method, function in vars(value).items():
            # What has a signature was bound by us; the rest comes with every class.
            line = (getattr(value, method).__doc__ or "").split("\n")[0]
            if callable(getattr(value, method)) and line.startswith(f"{method}("):
                methods[f"{name}.{method}"] = _parsed(line)
                static = isinstance(function, staticmethod)
                assert static != line.startswith(f"{method}(self: "), line
    return methods, others


def test_same_classes_and_values() -> None:
    assert stubbed()[1] == native()[1]


def test_same_methods_with_the_same_arguments() -> None:
    told, found = stubbed()[0], native()[0]
    assert {name: each.arguments for name, each in told.items()} == {
        name: each.arguments for name, each in found.items()
    }


def test_same_results() -> None:
    told, found = stubbed()[0], native()[0]
    for name, each in found.items():
        if each.returns != "object":  # of which the stub may know more
            assert told[name].returns == each.returns, name


def test_signatures_are_read() -> None:
    assert native()[0]["NativeRun.plan"] == Signature(("decide",), "None")
    assert stubbed()[0]["NativeRun.value_specs"] == Signature((), "ValueSpecs")
