"""Every example in a docstring of spfast runs, module by module."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import spfast

MODULES = sorted(module.name for module in pkgutil.walk_packages(spfast.__path__, prefix="spfast."))
assert len(MODULES) > 50


@pytest.mark.parametrize("name", ["spfast", *MODULES])
def test_examples_of(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    # Examples may use what every reader of them has at hand.
    names = {**vars(module), "spfast": spfast, "torch": torch}
    source = "" if name == "spfast._core" else inspect.getsource(module)
    assert "doctest: +SKIP" not in source, f"{name} has examples that do not run"
    outcome = doctest.testmod(module, globs=names, optionflags=flags)
    assert outcome.failed == 0, f"{outcome.failed} of {outcome.attempted} examples of {name} fail"


def test_examples_are_found() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = [
        test.name
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        if test.examples
    ]
    assert len(with_examples) >= 40, with_examples
