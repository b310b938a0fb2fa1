"""What is said of a torch that is too old or too new, and that all files say the same."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import spfast
from spfast.base.versions import NEWEST, OLDEST, check_torch, surroundings

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("found", ["2.8.0", "2.10.1+cu128", "1.13.1"])
def test_an_older_torch_is_refused(found: str) -> None:
    with pytest.raises(ImportError) as raised:
        check_torch(found)
    assert str(raised.value) == (
        f"spfast {spfast.__version__} needs torch 2.11 or newer and found {found}: "
        "pip install 'torch>=2.11'"
    )


@pytest.mark.parametrize("found", ["2.16.0", "3.0.0.dev20270101+cpu"])
def test_a_newer_torch_is_warned_of(found: str) -> None:
    with pytest.warns(
        UserWarning, match=re.escape(f"2.11 to 2.15 and found {found}: set validate")
    ):
        check_torch(found)


@pytest.mark.parametrize("found", ["2.11.0", "2.13.0+cpu", "2.15.1", "a build of my own"])
def test_others_are_taken_without_a_word(found: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_torch(found)


def _import_with(found: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import torch, warnings\n"
        f"torch.__version__ = {found!r}\n"
        "import spfast, spfast.passes, spfast.table\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )


def test_import_refuses_an_older_torch() -> None:
    ended = _import_with("2.8.0")
    assert ended.returncode == 1
    assert ended.stderr.rstrip().splitlines()[-1].startswith("ImportError: spfast ")


def test_import_warns_of_a_newer_torch_once() -> None:
    ended = _import_with("2.16.0")
    assert ended.returncode == 0 and ended.stderr.count("UserWarning") == 1


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"version.py": "debug = False\n__version__ = '2.14.1+cu130'\n"}, "2.14.1+cu130"),
        ({"version.py": "", "__init__.py": "__version__ = '2.14.2'"}, "2.14.2"),
        ({"__init__.py": "__version__ = '2.14.3'"}, "2.14.3"),
    ],
    ids=["read", "not said", "no file"],
)
def test_the_build_is_found_without_loading_torch_where_it_is_said(
    files: dict[str, str], found: str, tmp_path: Path
) -> None:
    """A package's metadata may say 2.14.1 of the build 2.14.1+cu130, which a bug report needs."""
    (tmp_path / "torch").mkdir()
    for name, text in {"__init__.py": "loaded = True", **files}.items():
        (tmp_path / "torch" / name).write_text(text)
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from spfast.base import versions\n"
        "print(versions.found_torch(), 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout.split() == [found, str("__init__.py" in files)], ended.stderr


def test_all_files_name_the_same_versions() -> None:
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST, NEWEST))
    project = (ROOT / "pyproject.toml").read_text()
    assert f'dependencies = ["torch>={oldest}"' in project
    assert f"torch {oldest} to {newest}" in (ROOT / "docs" / "versions.md").read_text()
    assert f"torch {oldest} to {newest}" in (ROOT / "README.md").read_text()
    matrix = (ROOT / "tests" / "matrix.py").read_text()
    assert f'"{oldest}.' in matrix and f'"{newest}.' in matrix


def test_the_version_is_one() -> None:
    version = spfast.__version__
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    first = re.search(r"^## (\S+)", changelog, flags=re.MULTILINE)
    assert first is not None and first[1] == version


def test_the_doctor_says_what_it_is_run_in() -> None:
    found = surroundings()
    assert found.to_json()["torch"] == found.torch and "tried: 2.11 to 2.15" in str(found)
