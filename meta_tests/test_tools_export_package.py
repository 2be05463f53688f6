"""`python -m tools.export_package`: one package through the same gate as `pytest export_tests`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from fixtures import offline
from fixtures.errors import InputError
from fixtures.export.gate import Gate
from fixtures.files import sha256_of
from fixtures.manifest import MANIFEST
from fixtures.manifest import published as published_record
from fixtures.packages import platform_here
from meta_tests.packages import published_package
from tools import export_package, single_export


@pytest.fixture(autouse=True)
def _network_opened(own_environment: None, stored_references: None) -> Iterator[None]:
    """The tool sets environment variables of its process and shuts its network."""
    yield
    offline.open_network()


def export(monkeypatch: pytest.MonkeyPatch, bundle_root: Path, out: Path, *arguments: str) -> int:
    """Run the tool on MiDaS_small in this process; a later argument replaces an earlier one."""
    always = ["--model-name", "MiDaS_small", "--h", "64", "--w", "64", "--device", "cpu"]
    given = [*always, "--models-root", str(bundle_root), "--out", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", ["export_package", *given])
    return export_package.main()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, bundle_root: Path) -> Path:
    """The package of the shared cache, which the tool gets instead of compiling one."""
    package = published_package(bundle_root)
    monkeypatch.setattr(single_export, "Gate", partial(Gate, make=package.unchanged))
    return package.file


def test_package_is_published_with_its_entry(
    monkeypatch: pytest.MonkeyPatch,
    bundle_root: Path,
    tmp_path: Path,
    compiled: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "models" / "optimized" / "midas" / "midas_small_64.pt2"
    assert export(monkeypatch, bundle_root, out) == 0
    record = published_record(out.parents[1], "midas/midas_small_64.pt2")
    assert (record.format, record.platform, record.batch) == ("aoti", platform_here(torch.device("cpu")), 1)
    assert record.sha256 == sha256_of(out) == sha256_of(compiled)
    assert not (out.parent / MANIFEST).exists()
    said = capsys.readouterr().out
    assert f"published {out}: " in said
    assert "  package fp32 on cpu: error " in said


@pytest.mark.parametrize("arguments", [("--batch", "2"), ("--frame", "90x160")], ids=["batch", "frames"])
def test_package_of_something_else_is_not_published(
    monkeypatch: pytest.MonkeyPatch,
    bundle_root: Path,
    tmp_path: Path,
    compiled: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    out = tmp_path / "branch.pt2"
    out.write_bytes(b"an older one")
    assert export(monkeypatch, bundle_root, out, *arguments) == 1
    found = 'inputs=[["INPUT__0", "UINT8", 1, 64, 64, 3]], expected [["INPUT__0", "UINT8", '
    assert capsys.readouterr().err.startswith(f"{out} is not published:\ngraph: {found}")
    assert out.read_bytes() == b"an older one"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "branch.onnx"), "--out branch.onnx: suffix='.onnx', expected .pt2. Write branch.pt2."),
        (("--out", "branch"), "--out branch: suffix='', expected .pt2. Write branch.pt2."),
        (("--frame", "90"), "--frame: value='90', expected height x width in pixels"),
        (("--height", "65"), "command line: branch.height=65, expected a multiple of 32 from 32 on for midas."),
        (("--device", "tpu"), "--device: value='tpu', expected one of auto, cuda, cpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        export(monkeypatch, bundle_root, tmp_path / "branch.pt2", *arguments)
    assert list(tmp_path.iterdir()) == []
