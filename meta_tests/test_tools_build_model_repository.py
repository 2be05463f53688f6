"""tools.build_model_repository: options, optional variants, messages, and the libraries that it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixtures.onnx_session import open_session
from fixtures.triton.readme import docker_line
from fixtures.triton.stored_repository import read_repository
from meta_tests.branches import publish_stand_in
from meta_tests.conftest import ROOT
from meta_tests.repositories import MIDAS_FILE, NAMES, SPEC, Place, new_place, one_byte_changed

PATIENCE_S = 60  # of a process that takes a second


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return new_place(tmp_path / "place", monkeypatch)


# --- options ---


def test_frame_option_sets_the_size_of_the_frames(place: Place) -> None:
    repository = place.build("--frame", "90x160", "--fused")
    shapes = {name: [one.shape for one in branch.inputs] for name, branch in repository.branches.items()}
    assert shapes == {
        "midas_256": [(1, 90, 160, 3)],
        "midas_256_b8": [(8, 90, 160, 3)],
        "flow": [(1, 90, 160, 3)] * 2,
    }
    frames = np.random.default_rng(0).integers(0, 256, (1, 90, 160, 3), dtype=np.uint8)
    session = open_session(place.out / "flow_fused" / "1" / "model.onnx", "cpu", "fp32")
    (answer,) = session.run(["OUTPUT__0"], {"INPUT0__0": frames, "INPUT1__0": frames[:, ::-1]})
    assert answer.shape == repository.branches["flow"].outputs[0].shape == (1, 2, 128, 160)


def test_batch_option_selects_batches(place: Place) -> None:
    assert list(place.build("--batch", "1", "--batch", "1").branches) == ["midas_256", "flow"]


def test_tool_prints_branches_and_the_command_that_serves_them(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = place.build()
    said = capsys.readouterr().out
    assert "midas_256_b8: INPUT__0 UINT8 [8, 256, 256, 3] -> OUTPUT__0 FLOAT [8, 256, 256]\n" in said
    assert "flow: INPUT0__0 UINT8 [1, 128, 160, 3], INPUT1__0 UINT8 [1, 128, 160, 3] -> OUTPUT__0 FLOAT" in said
    assert f"wrote {place.out}, for Triton 24.08 or newer." in said
    assert said.endswith(docker_line(repository) + "\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--batch", "0"), "--batch: value=0, expected 1 to 4096. Write one that was exported."),
        (("--batch", "4097"), "--batch: value=4097, expected 1 to 4096."),
        (("--batch", "2"), "branch midas_256_b2: "),
        (("--dtype", "fp8"), "--dtype: value='fp8', expected one of fp32, tf32, fp16."),
        (("--dtype", ""), "--dtype: value='', expected one of fp32, tf32, fp16."),
        (("--dtype", "fp16"), f"branch midas_256: precision of {MIDAS_FILE}=fp32, expected fp16, as the spec says."),
        (("--device", "tpu"), "--device: value='tpu', expected cuda or cpu."),
        (("--spec", "nowhere.yaml"), "nowhere.yaml: "),
        (("--onnx-dir", "nowhere"), "branch midas_256: nowhere/midas/midas_small_256.onnx: file=missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_argument_is_refused(place: Place, arguments: tuple[str, ...], says: str) -> None:
    assert says in place.refusal(*arguments)


@pytest.mark.parametrize(
    "frame", ["720", "720x", "x720", "0x720", "720x-1", "720x1280x3", "720X1280", "7.2x5", "16385x1", "²x2", ""]
)
def test_malformed_frame_size_is_refused(place: Place, frame: str) -> None:
    said = place.refusal("--frame", frame)
    assert said.startswith(f"--frame: value={frame!r}, expected height x width in pixels up to 16384, such as 720x1280")


def test_frame_size_of_5000_digits_is_refused(place: Place) -> None:
    assert place.refusal("--frame", f"{'9' * 5000}x1").startswith("--frame: value=")


# --- optional variants ---

LARGE = "  - {name: large, family: midas, model: DPT_Large, height: 384, width: 384, optional: true}\n"


def test_optional_variant_without_a_file_is_skipped_by_name(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.spec.write_text(SPEC + LARGE)
    assert list(place.build().branches) == NAMES
    assert "skipped midas_384: optional, and not exported\n" in capsys.readouterr().out


def test_optional_variant_with_a_bad_file_is_refused(place: Place) -> None:
    place.spec.write_text(SPEC + LARGE)
    export = place.exports[-1]
    publish_stand_in(place.onnx_dir, export)
    place.enter(export.file, parity=())
    assert place.refusal().startswith("branch midas_384: ")


def test_spec_without_any_exported_file_is_refused(place: Place) -> None:
    place.spec.write_text(SPEC[: SPEC.index("  - ")] + LARGE)
    assert "spec.yaml: branches=0, expected at least one exported variant. Export one first." in place.refusal()


# --- as a command ---


def command(place: Place, *arguments: str, program: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, *(program or ("-m", "tools.build_model_repository")), *place.arguments(*arguments)]
    return subprocess.run(started, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_bad_input_ends_with_one_message_and_code_2(place: Place) -> None:
    one_byte_changed(place)
    ended = command(place)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"ERROR: branch midas_256: .*sha256=another, expected the .*\n", ended.stderr)
    place.assert_nothing_was_written()


WITHOUT = """\
import runpy, sys
for name in ("torch", "torchvision", "timm", "onnxruntime", "pytest", "cv2"):
    sys.modules[name] = None
sys.argv[0] = "build_model_repository"
runpy.run_module("tools.build_model_repository", run_name="__main__")
"""


def test_tool_builds_without_torch_and_onnx_runtime(place: Place) -> None:
    ended = command(place, "--fused", program=("-c", WITHOUT))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert list(read_repository(place.out).branches) == NAMES


def test_the_same_program_fails_without_onnx(place: Place) -> None:
    """Proves that the test above can fail."""
    ended = command(place, program=("-c", WITHOUT.replace('"torch",', '"onnx",')))
    assert ended.returncode == 1
    assert "import of onnx halted" in ended.stderr
    place.assert_nothing_was_written()
