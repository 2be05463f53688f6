"""fixtures/files.py: atomic writes, locks that name their holder, writable checks."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from fixtures import files
from fixtures.errors import InputError
from fixtures.files import HeldError, held_alone, require_not_read, require_writable, write_atomically, write_named

_FORK = multiprocessing.get_context("fork")
_SOON_S = 10.0  # for a process that only takes a lock


def test_write_replaces_whole_file_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_often(path: Path, letter: str) -> None:
    for _ in range(50):
        write_atomically(path, letter * 10_000)


def test_two_writers_never_mix_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    writers = [_FORK.Process(target=_write_often, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            text = path.read_text()
            assert (len(text), len(set(text))) == (10_000, 1)
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert list(tmp_path.iterdir()) == [path]


def test_written_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


# --- locks ---


def _hold(path: Path, here: Connection) -> None:
    with held_alone(path):
        here.send("held")
        here.recv()


@contextmanager
def another_holder(path: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that holds a lock file until the context is left."""
    here, there = _FORK.Pipe()
    process = _FORK.Process(target=_hold, args=(path, there), daemon=True)
    process.start()
    assert here.poll(_SOON_S)
    assert here.recv() == "held"
    try:
        yield process
    finally:
        here.send("release")
        process.join(_SOON_S)


def test_lock_is_refused_with_the_name_of_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with another_holder(lock) as process, pytest.raises(HeldError) as refused, held_alone(lock):
        pass
    holder = refused.value.holder
    assert holder is not None
    assert (holder.pid, holder.host) == (process.pid, socket.gethostname())
    assert f"process {process.pid} on {socket.gethostname()} since 20" in str(refused.value)
    assert "python" in holder.command, "of pytest, or of one of its workers"
    assert not lock.exists(), "removed when it was released"
    with held_alone(lock):
        pass


def test_lock_of_killed_holder_is_taken_over(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with another_holder(lock) as process:
        process.kill()
        process.join()
        assert json.loads(lock.read_text())["pid"] == process.pid
        with held_alone(lock):
            assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_name_of_killed_holder_is_not_that_of_the_present_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has locked the file and not written its name yet."""
    monkeypatch.setattr(files, "_UNNAMED_S", 0.05)
    lock = tmp_path / ".lock"
    with another_holder(lock) as process:
        killed = json.loads(lock.read_text()) | {"pid": 2**22 + 1}  # above the largest number of a process
        lock.write_text(json.dumps(killed))
        assert process.is_alive()
        with pytest.raises(HeldError, match="a process without a name"), held_alone(lock):
            pass


def _count(path: Path, lock: Path) -> None:
    for _ in range(20):
        while True:
            try:
                with held_alone(lock):
                    path.write_text(str(int(path.read_text()) + 1))
                break
            except HeldError:
                continue


def test_one_process_at_a_time_holds_a_lock_that_is_removed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_UNNAMED_S", 0.0)
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [_FORK.Process(target=_count, args=(counter, tmp_path / ".lock")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert counter.read_text() == "80"


# --- files that a command line names ---


def test_unwritable_file_of_an_option_is_refused_and_a_writable_one_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--perf-csv /proc/nowhere/p\.csv: file=No such file or directory, expected"):
        require_writable("--perf-csv", "/proc/nowhere/p.csv")
    require_writable("--perf-csv", None)
    require_writable("--perf-csv", str(tmp_path / "new" / "p.csv"))
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "old").write_text("kept")
    require_writable("--perf-csv", str(tmp_path / "old"))
    assert (tmp_path / "old").read_text() == "kept"


def test_output_must_be_another_file_than_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    read = tmp_path / "run" / "rows"
    read.write_text("")
    own = ("rows", "summary")
    for refused, made_from in ((read, read), (tmp_path / "run" / "summary", tmp_path), (read, tmp_path / "run")):
        with pytest.raises(InputError, match=f"expected a file other than those of {made_from}, which it is made from"):
            require_not_read(refused, [None, made_from], own)
    require_not_read(tmp_path / "run" / "report", [tmp_path / "run", None], own)
    with pytest.raises(InputError, match="-o /proc/nowhere/x: file=No such file or directory, expected a writable"):
        write_named(Path("/proc/nowhere/x"), "text")
