"""fixtures/triton/published_spec.py: a repository of all that is published, without a spec."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fixtures.cases import exports_of
from fixtures.errors import InputError
from fixtures.manifest import enter, read_manifest
from fixtures.triton.branches import served_branch
from fixtures.triton.published_spec import spec_of_published
from fixtures.triton.repository import write_repository
from fixtures.triton.stored_repository import read_repository
from meta_tests.file_records import record
from meta_tests.repositories import MIDAS_FILE, Place, new_place
from tools import build_model_repository


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return new_place(tmp_path / "place", monkeypatch)


def build(place: Place, *arguments: str) -> dict[str, int]:
    """Build without a spec; returns branch -> batch size."""
    given = ["--onnx-dir", str(place.onnx_dir), "--out", str(place.out), *arguments]
    place.monkeypatch.setattr(sys, "argv", ["build_model_repository", *given])
    assert build_model_repository.main() == 0
    return {name: branch.inputs[0].shape[0] for name, branch in read_repository(place.out).branches.items()}


def test_every_published_file_is_served(place: Place) -> None:
    assert build(place) == {"midas_256": 1, "midas_256_b8": 8, "raft_128x160": 1}


def test_batch_option_selects_files(place: Place) -> None:
    assert build(place, "--batch", "8") == {"midas_256_b8": 8}


def test_file_keeps_the_graph_that_it_was_exported_with(place: Place) -> None:
    place.enter(graph="contrib")
    assert build(place) == {"midas_256": 1, "midas_256_b8": 8, "raft_128x160": 1}


def test_file_for_cuda_alone_is_not_served_on_a_cpu(place: Place) -> None:
    place.enter(graph="cuda")
    assert build(place, "--device", "cuda")
    spec, _ = spec_of_published(place.onnx_dir)
    branches = [served_branch(export, place.onnx_dir) for export in exports_of(spec)]
    with pytest.raises(InputError, match=rf"graph of {MIDAS_FILE}=cuda, expected contrib or portable on a server"):
        write_repository(place.out / "another", branches, "cpu")


def test_files_that_only_a_spec_describes_are_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.onnx_dir / MIDAS_FILE).rename(place.onnx_dir / "midas-small.onnx")
    enter_as(place, "midas-small.onnx")
    assert build(place) == {"midas_256_b8": 8, "raft_128x160": 1}
    said = capsys.readouterr().out
    assert f"skipped {MIDAS_FILE}: the file is missing\n" in said
    assert "skipped midas-small.onnx: only a --spec says how a package, or a file of this name, is served\n" in said


def enter_as(place: Place, name: str) -> None:
    """Enter a file of the stand-in's content under another name."""
    enter(place.onnx_dir, name, read_manifest(place.onnx_dir).files[MIDAS_FILE])


def test_a_folder_that_has_published_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: files to serve=0, expected a published ONNX file"):
        spec_of_published(tmp_path)


def test_a_changed_file_is_refused(place: Place) -> None:
    place.enter(sha256=record().sha256)
    with pytest.raises(InputError, match="sha256=another"):
        spec_of_published(place.onnx_dir)


def test_a_choice_needs_its_spec(place: Place) -> None:
    with pytest.raises(InputError, match="--spec: value missing beside --choice, expected the spec of the choice"):
        build(place, "--choice", "choice.json")
