"""Facts about machine and software that each run records."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fixtures.declarations import libraries
from fixtures.environment import environment, library_version


def test_environment_records_all_declared_libraries() -> None:
    recorded = environment("cpu", None)
    assert {*libraries(), "numpy", "pytest", "pytest-benchmark"} <= recorded.keys()
    assert recorded["torch"] == importlib.metadata.version("torch")
    assert recorded["device"] == "cpu"
    assert recorded["gpu"] is None


def test_version_of_package_that_is_not_installed_is_none() -> None:
    assert library_version("no_such_package") is None


def test_version_of_module_without_metadata_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copied_in.py").write_text('__version__ = "3.1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert library_version("copied_in") == "3.1"
    del sys.modules["copied_in"]


@pytest.mark.parametrize(
    ("imported", "recorded"),
    [("9.9", "9.9"), (importlib.metadata.version("numpy") + "+cu130", importlib.metadata.version("numpy"))],
    ids=["another version", "a local part"],
)
def test_version_is_that_of_the_imported_module(monkeypatch: pytest.MonkeyPatch, imported: str, recorded: str) -> None:
    module = ModuleType("numpy")
    module.__version__ = imported  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy", module)
    assert library_version("numpy") == recorded
