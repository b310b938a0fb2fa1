"""Includes and imports point one way."""

from __future__ import annotations

import graphlib
import importlib
import re

import pytest
from house.sources import PACKAGE, ROOT, cpp_files, imports, includes, module_name, room_of

# Each room of the core, and the rooms that it may use beside itself.
BELOW = {
    "base": set(),
    "table": {"base"},
    "pattern": {"base", "table"},
    "match": {"base", "table", "pattern"},
    "rewrite": {"base", "table", "pattern", "match"},
    "pairs": {"base", "table", "rewrite"},
    "fx": {"base", "table", "pattern", "match", "rewrite", "pairs"},
    "fx/expr": {"base", "fx"},
    "bind": {"base", "table", "pattern", "match", "rewrite", "pairs", "fx", "fx/expr"},
}
KNOW_PYTHON = {"fx", "fx/expr", "bind"}
# The modules of spfast that C++ calls back.
CALLED_BACK = {f"spfast.fxgraph.{name}" for name in ("journal", "rewiring", "targets", "trial")}

# What a user may import from spfast itself. Every other file lies in a room.
FACE = {
    "api", "applicability", "config", "consistency", "errors", "explanation", "pairs", "ranges",
    "recent", "result", "table", "thresholds", "trust",
}  # fmt: skip
# Each room of the package, and what it may use of the face and of other rooms, in functions and
# for type checkers, too.
USES = {
    "base": {"_core", "errors"},
    "patterns": {"errors"},
    "fxgraph": {"_core", "errors"},
    "pattern_matcher": {"_core"},
    "ranks": {"_core", "applicability", "config", "errors"},
    "sums": {"fxgraph", "patterns", "result"},
    "report": {"_core", "base", "errors", "fxgraph", "patterns"},
    "verifier": {"config", "errors", "fxgraph", "ranks", "trust"},
    "reference": {"config", "fxgraph", "patterns", "ranks", "result"},
    "async_tp": {
        "_core", "config", "errors", "fxgraph", "pairs", "patterns", "ranks", "thresholds",
    },
    "run": {
        "_core", "async_tp", "config", "fxgraph", "pairs", "patterns", "ranks", "recent", "result",
        "sums", "trust", "verifier",
    },
    "passes": {
        "_core", "api", "applicability", "async_tp", "config", "errors", "fxgraph", "pairs",
        "patterns", "ranks", "recent", "result", "run",
    },
    "integrations": {
        "_core", "applicability", "async_tp", "base", "config", "errors", "fxgraph", "passes",
        "pattern_matcher", "patterns", "ranks", "recent", "result", "run", "thresholds",
    },
    "testing": {
        "api", "async_tp", "config", "errors", "passes", "ranks", "table", "trust", "verifier",
    },
    "cli": {
        "_core", "base", "config", "errors", "explanation", "fxgraph", "integrations", "patterns",
        "reference", "report", "spfast", "testing",
    },
}  # fmt: skip


def _room(include: str) -> str:
    return include.rpartition("/")[0]


def test_every_room_is_known() -> None:
    core = ROOT / "cpp"
    folders = {str(path.relative_to(core)) for path in core.rglob("*") if path.is_dir()}
    assert folders == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_cpp_includes_point_down(room: str) -> None:
    files = cpp_files(room)
    assert files
    for path in files:
        for name in includes(path):
            other = _room(name)
            if other in BELOW:
                allowed = other == room or other in BELOW[room]
                assert allowed, f"{path.relative_to(ROOT)} includes {name}"


@pytest.mark.parametrize("room", sorted(set(BELOW) - KNOW_PYTHON))
def test_the_core_includes_the_standard_library_and_itself(room: str) -> None:
    for path in cpp_files(room):
        for name in includes(path):
            own = _room(name) in BELOW
            # Headers of the standard library have neither a folder nor an ending.
            assert own or ("/" not in name and "." not in name), f"{path.name} includes {name}"


def test_no_room_includes_torch() -> None:
    for path in cpp_files():
        for name in includes(path):
            assert not name.startswith(("torch/", "ATen/", "c10/")), f"{path.name}: {name}"


def test_headers_are_guarded_and_say_what_they_are_for() -> None:
    for path in cpp_files():
        if path.suffix == ".h":
            text = path.read_text()
            assert text.startswith("// "), f"{path.name} does not open with its purpose"
            assert "#pragma once" in text, path.name


@pytest.mark.parametrize("room", BELOW)
def test_a_header_of_the_core_has_one_class(room: str) -> None:
    """Structs, which are data, may stand beside others; a class has a header of its own."""
    for path in cpp_files(room):
        if path.suffix == ".h":
            classes = re.findall(r"^class (\w+)[^;]*\{", path.read_text(), flags=re.MULTILINE)
            assert len(classes) <= 1, f"{path.relative_to(ROOT)} has {classes}"


def _rooms() -> dict[str, set[str]]:
    """What each room, or file of the face, imports of others, wherever and for whom it does."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = room_of(module_name(path))
        others = {room_of(name) for name in imports(path, lazy=True, checked=True)}
        # A name that spfast itself gives.
        others = {other if other in FACE | {*USES, "_core"} else "spfast" for other in others}
        found.setdefault(room, set()).update(others - {room})
    return found


def test_only_the_face_stands_at_the_top() -> None:
    files = {path.stem for path in PACKAGE.iterdir() if path.suffix in (".py", ".pyi")}
    assert files == FACE | {"__init__", "__main__", "_core"}
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert {path.name for path in folders if path.parent == PACKAGE} == set(USES)


def test_python_rooms_have_an_order() -> None:
    rooms = _rooms()
    assert len(rooms) > len(USES) + len(FACE)
    order = list(graphlib.TopologicalSorter(rooms).static_order())  # raises where there is a cycle
    assert order.index("errors") < order.index("config") < order.index("api")
    assert order.index("fxgraph") < order.index("run") < order.index("api") < order.index("passes")


@pytest.mark.parametrize("room", USES)
def test_a_room_uses_what_it_may(room: str) -> None:
    used = _rooms()[room]
    assert used == USES[room], (used - USES[room], USES[room] - used)


def _files() -> dict[str, set[str]]:
    """What each module imports of others, wherever and for whom it does."""
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        used = imports(path, lazy=True, checked=True)
        # A name in a module stands for the module; the extension needs nobody.
        modules = {each if each in paths else each.rpartition(".")[0] for each in used}
        found[name] = modules - {name, "spfast"}
    return found


def test_no_two_files_need_each_other() -> None:
    files = _files()
    assert "spfast.run.run" in files["spfast.api"]
    assert "spfast.patterns.registry" in files["spfast.patterns.dumping"]
    list(graphlib.TopologicalSorter(files).static_order())  # raises where there is a cycle


def test_cpp_imports_by_name_what_is_there() -> None:
    found = {
        match
        for path in cpp_files()
        for match in re.findall(r'import\("(spfast[.\w]*)"\)\s*\.attr\("(\w+)"\)', path.read_text())
    }
    assert {name for name, _ in found} == CALLED_BACK
    for name, attribute in found:
        assert hasattr(importlib.import_module(name), attribute), (name, attribute)


def _modules(room: str) -> set[str]:
    """The files of other rooms that one imports, without its own."""
    return {
        used.removeprefix("spfast.")
        for name, others in _files().items()
        if room_of(name) == room
        for used in others
        if room_of(used) != room
    }


def test_the_verifier_shares_nothing_with_the_planner() -> None:
    graphs = {f"fxgraph.{name}" for name in ("crossings", "graphs", "targets")}
    allowed = {"config", "errors", "ranks.groups", "trust"} | graphs
    assert _modules("verifier") <= allowed, _modules("verifier") - allowed


def test_the_reference_shares_nothing_with_the_engine() -> None:
    used = _modules("reference")
    engine = {"_core", "api", "fxgraph.meta", "fxgraph.operators", "run", "sums", "verifier"}
    assert not {name for name in used if name in engine or room_of(f"spfast.{name}") in engine}
