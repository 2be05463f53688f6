"""`python -m tools.tune_files`: options measured in processes of their own, and taken by the bench."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures import offline
from fixtures.errors import InputError
from fixtures.manifest import read_manifest
from fixtures.tuning import tuner
from fixtures.tuning.journal import JOURNAL
from meta_tests.exports import EXPORT_SPEC, MIDAS, Published, published
from tools import tune_files

SETS: tuple[dict[str, str], ...] = ({}, {"intra_op_thread_count": "1"})


@pytest.fixture(autouse=True)
def _network_opened(own_environment: None) -> Iterator[None]:
    """The tool sets environment variables of its process and shuts its network."""
    yield
    offline.open_network()


@pytest.fixture
def place(bundle_root: Path, tmp_path: Path) -> Published:
    (tmp_path / "spec.yaml").write_text(EXPORT_SPEC)
    return published(bundle_root, MIDAS).copy(tmp_path / "onnx")


def tune(monkeypatch: pytest.MonkeyPatch, place: Published, root: Path, *arguments: str) -> int:
    """Run the tool in this process; a later argument replaces an earlier one."""
    spec = str(place.folder.parent / "spec.yaml")
    always = ["--spec", spec, "--variants", MIDAS.name, "--device", "cpu", "--processes", "1"]
    given = [*always, "--onnx-dir", str(place.folder), "--models-root", str(root), *arguments]
    monkeypatch.setattr(sys, "argv", ["tune_files", *given])
    return tune_files.main()


def test_file_is_timed_in_processes_and_entered(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, place: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuner, "candidates", lambda *_: SETS)
    monkeypatch.setattr(tuner, "Reference", lambda *_: place.reference)
    assert tune(monkeypatch, place, bundle_root) == 0
    rows = [json.loads(line) for line in (place.folder / JOURNAL).read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    assert [(row["process"], row["options"]) for row in rows[:2]] == [(0, SETS[0]), (0, SETS[1])]
    assert all(row["latency_ms"]["p50"] > 0 and row["rounds"] >= 5 for row in rows)
    (tuning,) = read_manifest(place.folder).files[place.export.file].tunings
    assert [one.options for one in tuning.candidates] == list(SETS)
    said = capsys.readouterr()
    assert said.out.startswith(f"{place.export.file} in fp32 on {tuning.device}, ONNX Runtime {tuning.onnxruntime}, ")
    assert f"defaults; p50 {tuning.candidates[0].p50_ms:.3f} ms in 1 process(es)\n" in said.out
    assert f"{place.export.file}, process 0, intra_op_thread_count=1: {rows[1]['latency_ms']['p50']:.3f} ms" in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--processes", "0"), "--processes: value=0, expected 1 to 100"),
        (("--variants", "unknown"), "--variants unknown: variant='unknown', expected names of"),
        (("--onnx-dir", "/proc/nowhere"), "/proc/nowhere/midas/midas_small_64x96.onnx: file=missing"),
        (("--dtype", "fp8"), "--dtype: value='fp8', expected one of"),
    ],
)
def test_bad_arguments_are_refused(
    monkeypatch: pytest.MonkeyPatch, bundle_root: Path, place: Published, arguments: tuple[str, ...], says: str
) -> None:
    with pytest.raises(InputError) as caught:
        tune(monkeypatch, place, bundle_root, *arguments)
    assert says in str(caught.value)
