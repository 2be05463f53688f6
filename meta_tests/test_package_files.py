"""fixtures/package_files.py: what a package says of itself, and archives that are none."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from fixtures.package_files import metadata

FACTS = {"torch": "2.15.0", "device": "cpu"}
NAMED = "tiny/data/aotinductor/model/a.wrapper_metadata.json"
OTHER = "tiny/data/aotinductor/model/b.kernel_metadata.json"


def package(folder: Path, members: list[tuple[str, str]]) -> Path:
    path = folder / "tiny.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refusal(path: Path, whole: bool = True) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        metadata(path, whole)
    return str(caught.value)


def test_metadata_is_that_of_every_part(tmp_path: Path) -> None:
    parts = [(NAMED, json.dumps(FACTS)), (OTHER, json.dumps(FACTS)), ("tiny/data/aotinductor/model/a.so", "code")]
    assert metadata(package(tmp_path, parts)) == FACTS


@pytest.mark.parametrize("other", [{"torch": "2.4.1", "device": "cpu"}, {"device": "cpu"}, {**FACTS, "more": "1"}])
def test_parts_that_contradict_each_other_are_refused(tmp_path: Path, other: dict[str, str]) -> None:
    path = package(tmp_path, [(NAMED, json.dumps(FACTS)), (OTHER, json.dumps(other))])
    assert " and " in refusal(path)
    assert refusal(path).startswith(("torch=2.15.0 and ", "more=missing and 1"))


@pytest.mark.parametrize("name", ["tiny/../../escaped", "/escaped", "../escaped"])
def test_members_outside_of_the_package_are_refused(tmp_path: Path, name: str) -> None:
    """The loader of torch would write them there."""
    path = package(tmp_path, [(NAMED, json.dumps(FACTS)), (name, "x")])
    assert refusal(path, whole=False) == f"member={name!r}, outside of the package"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """One reader takes the first of them, and another the last."""
    assert refusal(package(tmp_path, [(NAMED, json.dumps(FACTS))] * 2)) == f"member={NAMED!r}, twice"


@pytest.mark.parametrize("content", ["[" * 200_000, "\udcff{", "[1]", ""], ids=["deep", "no UTF-8", "list", "empty"])
def test_unreadable_metadata_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tiny.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAMED, content.encode(errors="surrogateescape"))
    assert refusal(path).startswith(("content=no AOTInductor package (", "metadata=missing"))


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 99)], ids=["encrypted", "unknown compression"])
def test_archive_that_cannot_be_read_is_refused(tmp_path: Path, at: int, value: int) -> None:
    path = package(tmp_path, [(NAMED, json.dumps(FACTS))])
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + at] = value  # of the member's entry in the directory at the end
    path.write_bytes(content)
    assert refusal(path).startswith("content=no AOTInductor package (")


def test_checksums_are_compared_where_that_is_asked_for(tmp_path: Path) -> None:
    path = package(tmp_path, [(NAMED, json.dumps(FACTS)), ("tiny/model.so", "code")])
    path.write_bytes(path.read_bytes().replace(b"code", b"c0de", 1))
    assert refusal(path) == "checksum of tiny/model.so=wrong"
    assert metadata(path, whole=False) == FACTS
