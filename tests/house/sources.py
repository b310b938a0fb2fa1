"""The files of this repository, as the house rules see them."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "spfast"
_TEXT = (".py", ".pyi", ".h", ".cpp", ".md", ".toml", ".txt", "Makefile", "run")
_FOLDERS = (".ci", "bench", "cpp", "docs", "examples", "python", "tests")


def text_files() -> list[Path]:
    """Everything that people write here and others read."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name.endswith(_TEXT)]
    for folder in _FOLDERS:
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.name.endswith(_TEXT) and "__pycache__" not in path.parts
        ]
    return sorted(found)


def cpp_files(room: str = "**") -> list[Path]:
    """Headers and sources of one room of the core, or of all."""
    return sorted(path for path in ROOT.glob(f"cpp/{room}/*") if path.suffix in (".h", ".cpp"))


def includes(path: Path) -> list[str]:
    """What a C++ file includes, as it is written."""
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), flags=re.MULTILINE)


def room_of(module: str) -> str:
    """The file or folder right below spfast that a module lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "spfast"


def module_name(path: Path) -> str:
    """The name under which a file of the package is imported."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports(path: Path, *, lazy: bool, checked: bool = False) -> tuple[str, ...]:
    """The modules of spfast that a file imports, or names in one.

    Args:
        path: the file.
        lazy: whether imports inside of functions count.
        checked: whether those for type checkers alone count.
    """
    tree = ast.parse(path.read_text())
    found: list[str] = []
    skipped: set[int] = set()
    for node in ast.walk(tree):
        for_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if (for_checkers and not checked) or (isinstance(node, ast.FunctionDef) and not lazy):
            skipped |= {id(each) for each in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module.partition(".")[0] == "spfast":
                found += (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            found += (each.name for each in node.names if each.name.startswith("spfast"))
    return tuple(found)
