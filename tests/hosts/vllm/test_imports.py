"""Something runs after a module was imported, whenever that is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spfast.integrations.vllm import imports


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    finder = imports._Finder()
    monkeypatch.setattr(imports, "_finder", finder)
    folder = tmp_path / "hooked"
    folder.mkdir()
    (folder / "__init__.py").write_text("from hooked import inner\n")
    (folder / "inner.py").write_text("def answer():\n    return 42\n")
    (folder / "broken.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.meta_path[:] = [each for each in sys.meta_path if each is not finder]
    for name in [name for name in sys.modules if name.partition(".")[0] == "hooked"]:
        del sys.modules[name]


def test_before_and_after_the_import(package: None) -> None:
    seen: list[ModuleType] = []
    imports.when_imported("hooked.inner", seen.append)
    assert not seen
    module = importlib.import_module("hooked.inner")
    assert seen == [module] and module.answer() == 42
    imports.when_imported("hooked.inner", seen.append)
    assert seen == [module, module]
    importlib.reload(module)  # a hook runs once
    assert len(seen) == 2
    assert inspect.getsource(module.answer).startswith("def answer")


def test_each_hook_of_a_module_in_order(package: None) -> None:
    seen: list[int] = []
    for number in range(3):
        imports.when_imported("hooked.inner", lambda _, number=number: seen.append(number))
    importlib.import_module("hooked")
    assert seen == [0, 1, 2]


def test_what_cannot_be_imported_fails_as_it_would(package: None) -> None:
    imports.when_imported("hooked.absent", lambda _: pytest.fail("called"))
    imports.when_imported("hooked.broken", lambda _: pytest.fail("called"))
    with pytest.raises(ModuleNotFoundError, match="hooked.absent"):
        importlib.import_module("hooked.absent")
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("hooked.broken")


def test_no_module_takes_the_place_of_what_is_exported() -> None:
    # Importing a module sets its name in the package, over a function of that name.
    from spfast.integrations import vllm

    modules = {module.name for module in pkgutil.iter_modules(vllm.__path__)}
    assert "drop_in" in modules and not modules & set(vllm.__all__)
