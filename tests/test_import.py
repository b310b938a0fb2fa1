"""What ``import spfast`` gives, whenever it is loaded."""

from __future__ import annotations

import importlib

import pytest

import spfast
from spfast import patterns


@pytest.mark.parametrize("module", [spfast, patterns])
def test_every_name_is_there_and_listed(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'no'"):  # type: ignore[attr-defined]
        module.no  # type: ignore[attr-defined]  # noqa: B018


def test_no_module_hides_a_name() -> None:
    for name, module in {**spfast._LAZY}.items():
        importlib.import_module(f"spfast.{module}")
        assert getattr(spfast, name) is getattr(importlib.import_module(f"spfast.{module}"), name)
    for name, module in {**patterns._LAZY}.items():
        loaded = importlib.import_module(f"spfast.patterns.{module}")
        assert getattr(patterns, name) is getattr(loaded, name)


def test_modules_are_attributes() -> None:
    for name in sorted(spfast._MODULES):
        assert getattr(spfast, name).__name__ == f"spfast.{name}"


@pytest.mark.parametrize(("name", "moved"), [("fields", "base.fields"), ("rules", "run.rules")])
def test_what_has_moved_is_found_and_says_where_it_is(name: str, moved: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"^spfast.{name} is now spfast.{moved}$") as told:
        assert getattr(spfast, name) is importlib.import_module(f"spfast.{moved}")
    assert [warning.filename for warning in told] == [__file__]


def test_dir_is_what_is_public() -> None:
    assert dir(spfast) == sorted(spfast.__all__)
