"""The environment of the tritonserver binary: found, or refused with the reason."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from fixtures.triton.installation import Installation, NoServerError


def refusal(python: Path) -> str:
    with pytest.raises(NoServerError) as caught:
        Installation.find(python)
    return str(caught.value)


def program(tmp_path: Path, content: str) -> Path:
    """A shell script in the place of an interpreter."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)
    return path


def facts(**changes: str | None) -> str:
    """A script that prints an environment's packages as an interpreter would."""
    words = {"pytriton": "/p", "onnxruntime": "1.31.1", "onnx": "/o", "numpy": "2.4.6", "python": "3.11"} | changes
    listed = ", ".join(f'"{key}": ' + (f'"{value}"' if value else "null") for key, value in words.items())
    return f'echo \'{{{listed}, "libdir": "/l", "paths": []}}\''


def test_missing_interpreter_is_refused_with_the_next_step(tmp_path: Path) -> None:
    assert refusal(tmp_path / "python") == (
        f"no Triton: {tmp_path / 'python'} does not exist. "
        "Run `make serve-env`, or set TRITON_HTTP_URL to a server of your own."
    )


def test_interpreter_without_the_binary_is_refused() -> None:
    assert f"no Triton: {sys.executable} has no pytriton. Run `make serve-env`" in refusal(Path(sys.executable))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pytriton": None}, "has no pytriton."),
        ({"onnxruntime": None}, "has no onnxruntime."),
        ({"onnx": None}, "has no onnx."),
        ({"numpy": "1.26.4"}, "has NumPy 1.26.4, and 2 or newer is needed."),
        ({"numpy": None}, "has NumPy None, and 2 or newer is needed."),
        ({"python": "3.99"}, "its Python backend has no stub for Python 3.99"),
    ],
    ids=str,
)
def test_environment_that_lacks_a_package_is_refused(tmp_path: Path, changes: dict[str, str | None], says: str) -> None:
    assert says in refusal(program(tmp_path, facts(**changes)))


def test_interpreter_that_fails_is_refused_with_its_last_line(tmp_path: Path) -> None:
    path = program(tmp_path, "echo first >&2; echo the last words >&2; exit 3")
    assert refusal(path) == f"no Triton: {path} fails: the last words"


@pytest.mark.parametrize("content", ["exit 3", "kill -9 $$"])
def test_interpreter_that_fails_silently_is_refused(tmp_path: Path, content: str) -> None:
    path = program(tmp_path, content)
    assert f"no Triton: {path} fails" in refusal(path)


@pytest.mark.parametrize("content", ["", "echo hello"])
def test_program_that_is_no_interpreter_is_refused(tmp_path: Path, content: str) -> None:
    assert "no Triton: " in refusal(program(tmp_path, content))


def test_file_that_cannot_be_executed_is_refused(tmp_path: Path) -> None:
    assert "no Triton: " in refusal(tmp_path)
    path = program(tmp_path, "")
    path.chmod(0o644)
    assert "no Triton: " in refusal(path)


@pytest.mark.parametrize("path", [None, ""])
def test_server_finds_a_shell_without_a_path_variable(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    """Without bash the Python backend starts no model, and the server waits forever."""
    monkeypatch.delenv("PATH") if path is None else monkeypatch.setenv("PATH", path)
    assert shutil.which("bash", path=installation.environment("24.08")["PATH"])
