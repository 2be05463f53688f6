"""fixtures/export/target_runtime.py: exported files in the ONNX Runtime of the oldest Triton release."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fixtures.cases import FileDtype
from fixtures.export import target_runtime
from fixtures.spec import Variant
from fixtures.target import OLDEST, target_of
from meta_tests.conftest import COMES_ABOUT_S
from meta_tests.exports import MIDAS, RAFT, published

TARGET_PYTHON = "PRETRITON_TARGET_PYTHON"


@pytest.fixture(scope="module")
def target_python() -> Path:
    named = os.environ.get(TARGET_PYTHON)
    if named is None:
        pytest.skip(
            f"needs {TARGET_PYTHON}, an interpreter with the ONNX Runtime of Triton {OLDEST}, "
            f"{target_of(OLDEST).onnxruntime}"
        )
    return Path(named)


def test_interpreter_holds_the_runtime_of_the_oldest_target(target_python: Path) -> None:
    command = [str(target_python), "-c", "import onnxruntime; print(onnxruntime.__version__)"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=COMES_ABOUT_S, check=True)
    assert ended.stdout.strip() == target_of(OLDEST).onnxruntime


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("variant", [MIDAS, RAFT], ids=lambda variant: variant.name)
def test_exported_file_answers_in_the_runtime_of_the_oldest_target(
    target_python: Path, bundle_root: Path, tmp_path: Path, variant: Variant, precision: FileDtype
) -> None:
    place = published(bundle_root, variant, precision)
    gate = place.at(tmp_path).gate(place.unchanged, target_python=target_python)
    assert gate.target_problems == []
    gate.close()


def test_interpreter_that_does_not_end_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 600\n")
    python.chmod(0o755)
    monkeypatch.setattr(target_runtime, "_TIMEOUT_S", 0.05)
    with pytest.raises(OSError, match=r"python does not run a\.onnx within 0.05 s"):
        target_runtime.answer_in(python, tmp_path / "a.onnx", ())
