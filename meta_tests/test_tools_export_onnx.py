"""`python -m tools.export_onnx`: one file through the same gate as `pytest export_tests`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import onnx
import pytest

from fixtures import offline
from fixtures.errors import InputError
from fixtures.export.gate import Gate
from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST
from fixtures.manifest import published as published_record
from fixtures.target import OLDEST
from meta_tests.exports import MIDAS, published
from tools import export_onnx


@pytest.fixture(autouse=True)
def _network_opened(own_environment: None) -> Iterator[None]:
    """The tool sets environment variables of its process and shuts its network."""
    yield
    offline.open_network()


def export(monkeypatch: pytest.MonkeyPatch, bundle_root: Path, out: Path, *arguments: str) -> int:
    """Run the tool on MiDaS_small in this process; a later argument replaces an earlier one."""
    always = ["--family", "midas", "--model", "MiDaS_small", "--height", "64", "--width", "96", "--device", "cpu"]
    given = [*always, "--models-root", str(bundle_root), "--out", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", ["export_onnx", *given])
    return export_onnx.main()


def test_one_file_is_published_with_its_entry(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "branch.onnx"
    assert export(monkeypatch, bundle_root, out) == 0
    record = published_record(out.parent, "branch.onnx")
    assert sorted(path.name for path in out.parent.iterdir()) == [f".{MANIFEST}.lock", "branch.onnx", MANIFEST]
    assert record.sha256 == sha256_of(out) == sha256_of(published(bundle_root, MIDAS).file)
    assert (record.model, record.batch, record.precision, record.triton) == ("MiDaS_small", 1, "fp32", OLDEST)
    said = capsys.readouterr().out
    assert f"published {out}: 63.3 MiB, sha256 {record.sha256}" in said
    assert "  ONNX fp32 on cpu: error " in said


def dynamic(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"


def test_failed_file_is_not_published(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered = published(bundle_root, MIDAS).tampered(dynamic)
    monkeypatch.setattr(export_onnx, "Gate", partial(Gate, make=tampered))
    out = tmp_path / "branch.onnx"
    out.write_bytes(b"an older one")
    assert export(monkeypatch, bundle_root, out) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{out} is not published:\ngraph: input: axis 0=N, expected a fixed length\n")
    assert [path.name for path in tmp_path.iterdir()] == ["branch.onnx"]
    assert out.read_bytes() == b"an older one"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--height", "65"), "command line: branch.height=65, expected a multiple of 32 from 32 on for midas."),
        (
            ("--family", "depths"),
            "command line: variants[0].family='depths', expected one of clap, clip, midas, raft, timm, torchvision.",
        ),
        (("--model", "MiDaS_huge"), "command line: branch.model='MiDaS_huge', expected one of MiDaS_small"),
        (("--dtype", "fp8"), "command line: dtype='fp8', expected 'fp32', 'tf32' or 'fp16'."),
        (("--triton", "23.01"), "command line: target.triton='23.01', expected a Triton release from 24.08 to"),
        (("--batch", "0"), "command line: batches[0]=0, expected greater than or equal to 1."),
        (("--family", "raft", "--model", "raft_small"), "expected a multiple of 32 from 128 on for raft"),
        (("--model", "DPT_Large"), "file=missing, expected the official checkpoint"),
        (("--weights", "../elsewhere.pt"), "weights='../elsewhere.pt', expected a path inside the models root"),
        (("--models-root", "/proc/nowhere"), "--models-root: value=/proc/nowhere, expected a folder"),
        (("--frames", "/proc/nowhere"), "--frames /proc/nowhere: images=0, expected a folder with PNG or JPEG files"),
        (("--audio", "/proc/nowhere"), "--audio /proc/nowhere: sounds=0, expected a folder with WAV files"),
        (("--prompts", "/proc/nowhere"), "--prompts /proc/nowhere: file=No such file"),
        (("--tokens", "77"), "variants[0].tokens=77, expected one of height and width; duration_s; tokens."),
        (("--device", "tpu"), "--device: value='tpu', expected one of auto, cuda, cpu"),
        (("--out", "/proc/nowhere/branch.onnx"), "/proc/nowhere: folder=No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        export(monkeypatch, bundle_root, tmp_path / "branch.onnx", *arguments)
    assert list(tmp_path.iterdir()) == []
