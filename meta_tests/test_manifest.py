"""fixtures/manifest.py: files are refused that have no entry, failed their gate or were changed; no entry is lost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from fixtures.errors import InputError
from fixtures.manifest import MANIFEST, enter, publication_of, published, published_names, read_manifest
from fixtures.measure.fork_server import fork_server
from fixtures.records import Manifest, ParityRecord, PlacementRecord
from meta_tests.conftest import HANGS_S
from meta_tests.file_records import PASSED, record

PROCESSES, ENTRIES = 6, 5
NAME = "midas/model.onnx"

FAILED = ParityRecord(provider="cuda", dtype="tf32", passed=False, inputs=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one published file."""
    path = tmp_path / NAME
    path.parent.mkdir()
    path.write_bytes(b"content")
    enter(tmp_path, NAME, record(hashlib.sha256(b"content").hexdigest()))
    return tmp_path


def test_record_of_an_unchanged_file_is_returned(folder: Path) -> None:
    assert published(folder, NAME) == read_manifest(folder).files[NAME]


def test_a_folder_without_a_manifest_has_published_nothing(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == Manifest()
    assert read_manifest(tmp_path / "absent") == Manifest()


def refusal(folder: Path, name: str = NAME) -> str:
    with pytest.raises(InputError) as caught:
        published(folder, name)
    return str(caught.value)


def test_a_file_that_is_missing_is_refused(folder: Path) -> None:
    (folder / NAME).unlink()
    assert refusal(folder) == (
        f"{folder / NAME}: file=missing, expected an exported file. Export it: `pytest export_tests`."
    )


def test_a_folder_in_place_of_a_file_is_refused(folder: Path) -> None:
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    assert "file=missing" in refusal(folder)


def test_a_file_without_an_entry_is_refused(folder: Path) -> None:
    (folder / "other.onnx").write_bytes(b"content")
    assert "other.onnx: entry in manifest.json=missing, expected a file that passed its gate." in refusal(
        folder, "other.onnx"
    )


@pytest.mark.parametrize("content", [b"contents", b"content\n", b"conteNt", b""])
def test_a_file_that_was_changed_is_refused(folder: Path, content: bytes) -> None:
    (folder / NAME).write_bytes(content)
    assert "sha256=another, expected the ed7002b439e9… of manifest.json." in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parity": ()}, "parity=never judged in manifest.json, expected a file that passed its gate."),
        ({"parity": (PASSED, FAILED)}, "parity on cuda in tf32=failed in manifest.json"),
        ({"placement": PlacementRecord(nodes={"CPUExecutionProvider": 1}, passed=False)}, "placement=failed"),
    ],
    ids=["never judged", "parity", "placement"],
)
def test_an_entry_that_says_failed_is_refused(folder: Path, changes: dict[str, Any], says: str) -> None:
    enter(folder, NAME, record(hashlib.sha256(b"content").hexdigest(), **changes))
    assert says in refusal(folder)


def test_changed_weights_beside_a_file_are_refused(folder: Path) -> None:
    data = folder / "midas" / "model.onnx.data"
    data.write_bytes(b"weights")
    digests = {data.name: hashlib.sha256(b"weights").hexdigest()}
    enter(folder, NAME, record(hashlib.sha256(b"content").hexdigest(), data=digests))
    assert published(folder, NAME).data == digests
    data.write_bytes(b"other weights")
    assert "model.onnx.data: sha256=another" in refusal(folder)
    data.unlink()
    assert "model.onnx.data: file=missing, expected the weights of model.onnx. Export it" in refusal(folder)


@pytest.mark.parametrize("name", ["../model.onnx.data", "/model.onnx.data", "..", ".", ""])
def test_weights_in_another_folder_are_refused(folder: Path, name: str) -> None:
    entry = json.loads((folder / MANIFEST).read_text())
    entry["files"][NAME]["data"] = {name: "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(entry))
    assert "manifest.json: content=unreadable" in refusal(folder)


def test_an_entry_beside_the_file_counts_too(folder: Path) -> None:
    nested, (older, newer) = folder / "midas", (b"content", b"exported alone")
    (folder / NAME).write_bytes(newer)
    enter(nested, "model.onnx", record(hashlib.sha256(newer).hexdigest()))
    assert published(folder, NAME).sha256 == hashlib.sha256(newer).hexdigest()
    (folder / NAME).write_bytes(older)
    assert published(folder, NAME).sha256 == hashlib.sha256(older).hexdigest()
    (folder / NAME).write_bytes(b"neither")
    assert "sha256=another" in refusal(folder)
    (folder / MANIFEST).unlink()
    assert published_names(folder) == [NAME]


@pytest.mark.parametrize(
    ("out", "manifest", "expected"),
    [
        ("a/models/optimized/midas/s.onnx", None, "a/models/optimized"),
        ("a/models/optimized/s.onnx", None, "a/models/optimized"),
        ("a/models/optimized/midas/s.onnx", ("a/models/optimized/midas", "s.onnx"), "a/models/optimized/midas"),
        ("a/models/optimized/midas/s.onnx", ("a/models/optimized/midas", "t.onnx"), "a/models/optimized"),
        ("a/onnx/midas/s.onnx", None, "a/onnx"),
        ("a/onnx/depth/s.onnx", None, "a/onnx/depth"),
        ("a/onnx/depth/s.onnx", ("a/onnx", "raft/t.onnx"), "a/onnx"),
        ("s.onnx", None, "."),
    ],
)
def test_manifest_of_a_single_export_is_that_of_its_onnx_dir(
    tmp_path: Path, out: str, manifest: tuple[str, str] | None, expected: str
) -> None:
    if manifest:
        (tmp_path / manifest[0]).mkdir(parents=True)
        enter(tmp_path / manifest[0], manifest[1], record())
    folder = tmp_path / expected
    assert publication_of(tmp_path / out, "midas") == (folder, (tmp_path / out).relative_to(folder).as_posix())


def test_manifest_json_of_another_program_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text('{"name": "web app", "icons": []}')
    assert publication_of(tmp_path / "networks" / "s.onnx", "midas") == (tmp_path / "networks", "s.onnx")


def damaged(text: str, *place: str, value: object) -> str:
    """The manifest with another value in one place."""
    content = json.loads(text)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    "place",
    [
        ("schema_version", 2),
        ("files", []),
        ("files", NAME, None),
        ("files", NAME, "sha256", 7),
        ("files", NAME, "seconds", float("nan")),
        ("files", NAME, "precision", "int8"),
        ("files", NAME, "note", "a key of another program"),
        ("author", "another program"),
    ],
    ids=lambda place: ".".join(map(str, place)),
)
def test_a_manifest_that_the_gate_has_not_written_is_refused(folder: Path, place: tuple[Any, ...]) -> None:
    path = folder / MANIFEST
    path.write_text(damaged(path.read_text(), *place[:-1], value=place[-1]))
    expected = f"{path}: content=unreadable, expected what the export gate wrote. Remove it and export again."
    assert refusal(folder) == expected
    with pytest.raises(InputError):
        enter(folder, "another.onnx", record())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"\xff\x00\xfe", b"[" * 10_000],
    ids=["empty", "half", "null", "binary", "endless nesting"],
)
def test_a_manifest_that_is_no_json_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    assert "manifest.json: content=unreadable" in refusal(folder)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(InputError, match=r"manifest\.json: file=Is a directory, expected a readable manifest"):
        read_manifest(tmp_path)


def test_an_entry_replaces_the_one_of_the_same_name_alone(folder: Path) -> None:
    enter(folder, "a.onnx", record("a" * 64))
    enter(folder, "a.onnx", record("b" * 64))
    files = read_manifest(folder).files
    assert list(files) == ["a.onnx", NAME]
    assert files["a.onnx"].sha256 == "b" * 64


def enter_several(folder: Path, process: int) -> None:
    for index in range(ENTRIES):
        enter(folder, f"{process}/{index}.onnx", record())


def test_processes_that_enter_at_the_same_time_keep_all_entries(tmp_path: Path) -> None:
    server = fork_server()
    processes = [server.Process(target=enter_several, args=(tmp_path, index)) for index in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=HANGS_S)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    expected = [f"{process}/{index}.onnx" for process in range(PROCESSES) for index in range(ENTRIES)]
    assert list(read_manifest(tmp_path).files) == expected
