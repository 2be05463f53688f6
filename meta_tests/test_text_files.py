"""fixtures/text_files.py: rows end at a line feed alone; a byte order mark is none of the text; the rest is named."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.bundle_check.digests import LOCK, Lock
from fixtures.decision.deployment import read_choice
from fixtures.errors import InputError
from fixtures.manifest import MANIFEST, read_manifest
from fixtures.modalities.text import read_prompts
from fixtures.records import BundleLock, LockedFile, Manifest, SyntheticMarker
from fixtures.report.material import read_material
from fixtures.results.reading import read_run
from fixtures.results.run_folder import RESULTS, SUMMARY, RunFolder
from fixtures.results.summary import summarize
from fixtures.spec import load_spec
from fixtures.text_files import rows_in, utf8_text
from fixtures.triton.stored_repository import REPOSITORY, read_repository
from fixtures.weights.bundle import SYNTHETIC_MARKER, Bundle
from meta_tests.conftest import SMALL_SPEC
from meta_tests.result_rows import case, lines

MARK = b"\xef\xbb\xbf"
# Where str.splitlines ends a line, and a row does not end.
NO_ENDS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"
SUMMED = summarize([case()], run_id="r", complete=True).model_dump_json()
_MARKER = SyntheticMarker(seed=0, warning="", files={"a": "0" * 64}).model_dump_json()
_LOCKED = LockedFile(sha256="0" * 64, size_bytes=1, mtime_ns=1, locked_on="today")
ROWS = "".join(f"{line}\n" for line in lines(case()))


def test_row_ends_at_a_line_feed_alone() -> None:
    text = "".join(f"a{character}b\n" for character in NO_ENDS)
    assert [row.decode() for row in rows_in(text.encode(), "f")] == [f"a{character}b" for character in NO_ENDS]
    assert rows_in(b"", "f") == []
    assert rows_in(b"\n\na", "f") == [b"", b"", b"a"]


def test_files_with_a_mark_that_were_put_together_lose_no_row() -> None:
    assert rows_in(MARK + b"1\n" + MARK + b"2\n", "f") == [b"1", b"2"]


def _lock(path: Path) -> object:
    return Lock.open(path).files


def _synthetic(path: Path) -> object:
    return Bundle(path.parent)._synthetic_digests


READERS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "spec": ("spec.yaml", SMALL_SPEC, lambda path: load_spec(path).batches),
    "rows": (RESULTS, ROWS, lambda path: read_run(path).cases),
    "rows of a report": (RESULTS, ROWS, lambda path: read_material(path, None, None, None).rounds),
    "rows of a resumed run": (RESULTS, ROWS, lambda path: RunFolder(path.parent).read()),
    "summary": (SUMMARY, SUMMED, read_run),
    "summary of a resumed run": (
        SUMMARY,
        SUMMED,
        lambda path: RunFolder(path.parent).read_summary(),
    ),
    "manifest": (MANIFEST, Manifest().model_dump_json(), lambda path: read_manifest(path.parent)),
    "lock": (LOCK, BundleLock(files={"a.pt": _LOCKED}).model_dump_json(), _lock),
    "marker": (SYNTHETIC_MARKER, _MARKER, _synthetic),
    "prompts": ("prompts.txt", "a dog\nsome\u2028thing\n", read_prompts),
}


@pytest.mark.parametrize("kind", READERS)
def test_byte_order_mark_changes_nothing(tmp_path: Path, kind: str) -> None:
    name, text, read = READERS[kind]
    found = []
    for mark in (b"", MARK):
        path = tmp_path / str(len(mark)) / name
        path.parent.mkdir()
        path.write_bytes(mark + text.encode())
        found.append(read(path))
    assert found[0] == found[1]
    assert found[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: gzip.compress(text.encode()), "content=a gzip archive, expected UTF-8 text. Unpack it."),
        (lambda text: text.encode("utf-16"), "encoding=UTF-16 text, expected UTF-8 text. Save it as UTF-8."),
        (lambda text: text.encode("utf-16-be"), "encoding=UTF-16 or UTF-32 text, expected UTF-8 text."),
        (lambda text: text.encode("utf-32"), "encoding=UTF-32 text, expected UTF-8 text. Save it as UTF-8."),
        (lambda text: b"\x28\xb5\x2f\xfd" + text.encode(), "content=a zstd archive, expected UTF-8 text. Unpack it."),
    ],
)
@pytest.mark.parametrize("kind", READERS)
def test_archive_and_other_encoding_are_named(
    tmp_path: Path, kind: str, change: Callable[[str], bytes], says: str
) -> None:
    name, text, read = READERS[kind]
    (tmp_path / name).write_bytes(change(text))
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert says in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_records_that_only_other_tools_write_are_read_alike(tmp_path: Path) -> None:
    for name, read in ((REPOSITORY, lambda path: read_repository(path.parent)), ("choice.json", read_choice)):
        (tmp_path / name).write_bytes("{}".encode("utf-16"))
        with pytest.raises(InputError, match="encoding=UTF-16 text"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("ж".encode("cp1251"), r"encoding=not UTF-8 \(byte 0xe6 at 0\), expected UTF-8 text\. Save it as UTF-8\."),
        ("собака ест".encode("utf-16-le"), "content=a zero byte, as in UTF-16 or binary data"),
    ],
)
def test_text_in_another_encoding_without_a_mark_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        utf8_text(content, "f")


def test_owner_with_a_line_separator_costs_no_case(tmp_path: Path) -> None:
    """The bench wrote such rows, and neither the summary nor a resumed run found a case in them."""
    result = case(error=NO_ENDS, unit=f"fr{NO_ENDS}ame")
    path = tmp_path / RESULTS
    path.write_bytes("".join(f"{line}\n" for line in lines(result, case(batch=8))).encode())
    before = path.read_bytes()
    assert "\u2028" in before.decode()
    assert [one.error for one in read_run(path).cases] == [NO_ENDS, None]
    assert [one.facts for one in RunFolder(tmp_path).recover()[0]] == [result.facts, case(batch=8).facts]
    assert path.read_bytes() == before


def test_resumed_run_keeps_rows_that_it_cannot_read(tmp_path: Path) -> None:
    """Only rows of a case that was cut short go, and a last row without an end."""
    path = tmp_path / RESULTS
    strange = b'{"bench": "another", "a": 1}\n\xff\xfe no UTF-8\n\0\0\0\n'
    cut = "".join(f"{line}\n" for line in lines(case(batch=8))[:2]).encode()
    path.write_bytes(ROWS.encode() + strange + cut + b'{"cut')
    results, _ = RunFolder(tmp_path).recover()
    assert [one.facts for one in results] == [case().facts]
    assert path.read_bytes() == ROWS.encode() + strange


def test_last_row_without_a_line_feed_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / RESULTS
    path.write_text(ROWS.rstrip("\n"))
    assert len(RunFolder(tmp_path).recover()[0]) == 1
    assert path.read_text() == ROWS


def test_lines_may_end_with_carriage_returns_too(tmp_path: Path) -> None:
    """An editor of Windows has saved the files."""
    for name, text, read in (READERS["spec"], READERS["rows"], READERS["summary"], READERS["prompts"]):
        found = []
        for end in ("\n", "\r\n"):
            path = tmp_path / f"{len(end)}" / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.replace("\n", end).encode())
            found.append(read(path))
            path.unlink()
        assert found[0] == found[1], name
