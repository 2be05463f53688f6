"""What runtimes declare is read from their files without importing them, and refused by file, line and field."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fixtures import registry
from fixtures.declarations import declaration, declarations, engines, libraries
from fixtures.errors import InputError
from fixtures.runtimes import runtime_class
from meta_tests.conftest import ROOT

ORDER = ["torch", "torch-graph", "torch-compile", "onnxruntime", "onnxruntime-graph", "triton"]
COMPLETE = {
    "title": "'Echo'",
    "place": "70",
    "libraries": "{'echo': 'Echo'}",
    "file": "None",
    "judged_by": "'torch module'",
}


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of runtimes of a checkout that has none yet."""
    runtimes = tmp_path / "fixtures" / "runtimes"
    runtimes.mkdir(parents=True)
    monkeypatch.setattr(registry, "_FIXTURES", tmp_path / "fixtures")
    return runtimes


def declared(**fields: str | None) -> str:
    """A file whose declaration has these fields, as they stand in the source; None leaves one out."""
    written = [f"    {name}={value}," for name, value in (COMPLETE | fields).items() if value is not None]
    return "\n".join(["from fixtures.declarations import Declaration", "", "DECLARATION = Declaration(", *written, ")"])


def test_declarations_are_in_table_order() -> None:
    assert [name for name in declarations() if name in ORDER] == ORDER


@pytest.mark.parametrize("name", declarations())
def test_class_has_the_declaration_of_its_file(name: str) -> None:
    assert runtime_class(name).declaration == declaration(name)


def test_declarations_are_read_without_torch() -> None:
    program = (
        "import sys; from fixtures.declarations import declarations; declarations(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_libraries_are_those_of_all_runtimes(folder: Path) -> None:
    (folder / "echo.py").write_text(declared())
    (folder / "far.py").write_text(declared(place="5", needs="('server',)", libraries="{'client': 'a client'}"))
    assert libraries() == {"client": "a client", "echo": "Echo"}
    assert engines() == {"echo": "Echo"}


def test_runtime_of_another_checkout_declares_nothing_but_its_name() -> None:
    unknown = declaration("somewhere-else")
    assert unknown.title == "somewhere-else"
    assert all(unknown.place > one.place for one in declarations().values())
    assert not unknown.libraries
    assert unknown.triton_backend is None


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (declared(colour="'red'"), ":9: colour='red', expected one of title, place, libraries,"),
        (declared(title=None), ":3: title=missing, expected a value."),
        (
            declared(title="NAME"),
            ":4: title=NAME, expected a literal, because tools read it without importing the file",
        ),
        (declared(place="7 + place()"), ":5: place=7 + place(), expected a literal"),
        (declared(place="'first'"), ":5: place='first', expected a valid integer."),
        (declared(needs="('tpu',)"), ":9: needs.0='tpu', expected 'cuda', 'server' or 'tensorrt'."),
        (declared(needs="'cuda'"), ":9: needs='cuda', expected a valid tuple."),
        (declared(judged_by="'export gate'"), ":8: judged_by='export gate', expected 'torch module' where there is no"),
        ("RUNTIME = None", ": DECLARATION=missing, expected `DECLARATION = Declaration(…)` in the module."),
        ("DECLARATION = {}", ":1: DECLARATION={}, expected `Declaration(…)`."),
        ("DECLARATION = Declaration('Echo')", ":1: argument='Echo', expected arguments by name."),
        ("DECLARATION = Declaration(**FIELDS)", ":1: argument=FIELDS, expected arguments by name."),
        ("DECLARATION = Declaration(", ": syntax='(' was never closed"),
    ],
)
def test_faulty_declaration_is_refused(folder: Path, source: str, says: str) -> None:
    (folder / "echo.py").write_text(source)
    with pytest.raises(InputError) as caught:
        declarations()
    assert f"fixtures/runtimes/echo.py{says}" in str(caught.value)
