"""Digests: computed in parallel, remembered in the lock by size and time stamp, and judged."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fixtures.bundle_check import digests
from fixtures.bundle_check.digests import LOCK, Digest, Digests, Lock, digest_of, judge
from fixtures.errors import InputError
from fixtures.records import LockedFile

file_digest = hashlib.file_digest
OLD, NEW = "a" * 64, "b" * 64
LOCKED = LockedFile(sha256=OLD, size_bytes=3, mtime_ns=1, locked_on="2026-11-24T12:00:00+00:00")
DIGEST = Digest(OLD, 3, 1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that have been read."""
    names: list[str] = []

    def counting(file: Any, algorithm: str) -> Any:
        names.append(Path(file.name).name)
        return file_digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return names


def digests_of(files: dict[str, Path], lock: Lock) -> dict[str, Digest]:
    with Digests(files, lock.files) as made:
        return {name: made.of(name) for name in files}


def written(folder: Path, count: int = 3) -> dict[str, Path]:
    files = {f"{index}.pt": folder / f"{index}.pt" for index in range(count)}
    for name, path in files.items():
        path.write_bytes(name.encode() * (len(name) + int(name[0])))
    return files


# --- making them ---


def test_digest_is_sha256_of_the_whole_file(tmp_path: Path) -> None:
    files = written(tmp_path)
    for name, digest in digests_of(files, Lock(tmp_path / LOCK, {})).items():
        content = files[name].read_bytes()
        facts = files[name].stat()
        expected = hashlib.sha256(content).hexdigest()
        assert digest == Digest(expected, len(content), facts.st_mtime_ns)


def test_digests_are_computed_in_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=10)

    def meeting(file: Any, algorithm: str) -> Any:
        both.wait()
        return file_digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", meeting)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert len(digests_of(written(tmp_path, 4), Lock(tmp_path / LOCK, {}))) == 4


def test_largest_file_is_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    digests_of(written(tmp_path), Lock(tmp_path / LOCK, {}))
    assert read == ["2.pt", "1.pt", "0.pt"]


def test_locked_file_is_not_read_again(tmp_path: Path, read: list[str]) -> None:
    files, path = written(tmp_path), tmp_path / LOCK
    first = digests_of(files, Lock.open(path))
    assert Lock.open(path).record(first) is None
    assert sorted(read) == sorted(files)
    read.clear()
    again = digests_of(files, Lock.open(path))
    assert read == []
    assert {name: digest.sha256 for name, digest in again.items()} == {
        name: digest.sha256 for name, digest in first.items()
    }
    assert all(digest.remembered for digest in again.values())


def longer(path: Path) -> None:
    facts = path.stat()
    path.write_bytes(path.read_bytes() + b"!")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def other_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])
    later(path)


def later(path: Path) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))


@pytest.mark.parametrize("change", [longer, other_bytes, later], ids=lambda change: change.__name__)
def test_file_with_another_size_or_time_stamp_is_read_again(
    tmp_path: Path, read: list[str], change: Callable[[Path], None]
) -> None:
    files, path = written(tmp_path), tmp_path / LOCK
    Lock.open(path).record(digests_of(files, Lock.open(path)))
    read.clear()
    change(files["1.pt"])
    found = digests_of(files, Lock.open(path))["1.pt"]
    assert read == ["1.pt"]
    assert found.sha256 == hashlib.sha256(files["1.pt"].read_bytes()).hexdigest()


def test_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, 1)["0.pt"]

    def growing(file: Any, algorithm: str) -> Any:
        longer(path)
        return file_digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", growing)
    with pytest.raises(InputError, match=r"0\.pt: content=changing while it is read, .* Wait until it is whole"):
        digest_of(path)


def test_unreadable_file_is_refused_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path)

    def failing(file: Any, algorithm: str) -> Any:
        if file.name.endswith("1.pt"):
            raise OSError(5, "Input/output error")
        return file_digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", failing)
    with Digests(files, {}) as made:
        with pytest.raises(InputError, match=r"1\.pt: file=Input/output error, expected a readable file\. Check its"):
            made.of("1.pt")
        assert made.of("2.pt").size_bytes


# --- the lock ---


def test_lock_keeps_first_date_of_a_digest_and_records_of_other_specs(tmp_path: Path) -> None:
    lock = Lock(tmp_path / LOCK, {"a": LOCKED, "of another spec": LOCKED})
    assert lock.record({"a": Digest(OLD, 3, 2), "b": DIGEST}) is None
    files = Lock.open(tmp_path / LOCK).files
    assert files["a"] == LOCKED.model_copy(update={"mtime_ns": 2})
    assert files["of another spec"] == LOCKED
    assert files["b"].locked_on > LOCKED.locked_on
    lock.record({"a": Digest(NEW, 3, 2)})
    assert Lock.open(tmp_path / LOCK).files["a"].locked_on > LOCKED.locked_on


def test_unchanged_lock_is_not_written(tmp_path: Path) -> None:
    assert Lock(tmp_path / "absent" / LOCK, {"a": LOCKED}).record({"a": DIGEST}) is None


def test_lock_that_cannot_be_written_is_a_note(tmp_path: Path) -> None:
    said = Lock(tmp_path / "absent" / LOCK, {}).record({"a": DIGEST})
    assert said == (
        f"{tmp_path}/absent/{LOCK}: digests are not recorded (No such file or directory); "
        "name a file elsewhere with --lock"
    )


def test_failed_write_leaves_the_old_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Lock(tmp_path / LOCK, {}).record({"a": DIGEST})
    before = (tmp_path / LOCK).read_text()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(digests.os, "fsync", full)  # type: ignore[attr-defined]
    assert "No space left" in (Lock.open(tmp_path / LOCK).record({"b": DIGEST}) or "")
    assert (tmp_path / LOCK).read_text() == before


WHOLE = {"schema_version": 1, "files": {"a": LOCKED.model_dump()}}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "é",
        '{"schema_version": 1}',
        json.dumps(WHOLE)[:-9],
        json.dumps(WHOLE | {"schema_version": 2}),
        json.dumps(WHOLE | {"more": 1}),
        json.dumps(WHOLE).replace(": 3", ": NaN"),
        json.dumps(WHOLE).replace(": 3", ": -3"),
        json.dumps(WHOLE).replace(OLD, OLD[1:]),
    ],
    ids=repr,
)
def test_damaged_lock_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"bundle\.lock\.json: content=damaged \(.*\), expected what tools\.check"):
        Lock.open(tmp_path / LOCK)


def test_lock_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(InputError, match=f"{name}: file=no plain file, .* Restore it from a copy, or remove it"):
            Lock.open(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="link: file=No such file"):
        Lock.open(tmp_path / "link")


# --- the verdict ---


@pytest.mark.parametrize(
    ("sha256", "demanded", "locked", "relock", "word", "says"),
    [
        (OLD, {}, None, False, "recorded", None),
        (OLD, {}, LOCKED, False, "unchanged", None),
        (OLD, {}, LOCKED, True, "unchanged", None),
        (NEW, {}, LOCKED, True, "relocked", None),
        (NEW, {}, LOCKED, False, "changed", "changed since it was locked on 2026-11-24T12:00:00+00:00, expected aaaa"),
        (NEW, {NEW: "x.yaml"}, LOCKED, False, "matches", None),
        (OLD, {NEW: "x.yaml"}, LOCKED, False, "differs", "=aaaaaaaaaaaa…, expected bbbbbbbbbbbb…, as x.yaml says"),
        (OLD, {NEW: "x.yaml"}, LOCKED, True, "differs", "correct `weights_digest`."),
        (OLD, {OLD: "x.yaml", NEW: "y.yaml"}, None, False, "differs", "as y.yaml says"),
    ],
)
def test_digest_is_judged_by_the_catalog_or_else_by_the_lock(
    sha256: str, demanded: dict[str, str], locked: LockedFile | None, relock: bool, word: str, says: str | None
) -> None:
    verdict = judge(Path("/root/a"), sha256, demanded, locked, relock)
    assert verdict.word == word
    assert (verdict.problem is None) == (says is None)
    assert (says or "") in str(verdict.problem)
