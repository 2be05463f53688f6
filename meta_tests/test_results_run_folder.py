"""fixtures/results/run_folder.py: a run's files are never overwritten, and an interrupted run is recovered."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from fixtures.errors import InputError
from fixtures.records import MemoryCase
from fixtures.results.rows import read_results
from fixtures.results.run_folder import RunFolder
from meta_tests.result_rows import PROVENANCE, case, lines


def test_new_run_needs_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with RunFolder.writing(tmp_path, "run", False, {}):
        pass
    said = r"--run-id run: folder=.* exists.*--resume"
    with pytest.raises(InputError, match=said), RunFolder.writing(tmp_path, "run", False, {}):
        pass


def test_resumed_run_needs_a_folder_that_exists(tmp_path: Path) -> None:
    for name in ("run", "long" * 100):
        said = f"--resume of {name}: (run=missing|folder=File name too long), expected"
        with pytest.raises(InputError, match=said), RunFolder.writing(tmp_path, name, True, {}):
            pass
    RunFolder.create(tmp_path, "run")
    with RunFolder.writing(tmp_path, "run", True, {}) as folder:
        assert folder.path == tmp_path / "run"


def test_run_that_is_refused_for_an_output_file_leaves_no_folder(tmp_path: Path) -> None:
    outputs = {"--benchmark-json": tmp_path / "b.json"}
    with RunFolder.writing(tmp_path, "one", False, outputs):
        said = "--benchmark-json .*: writer=process"
        with pytest.raises(InputError, match=said), RunFolder.writing(tmp_path, "two", False, outputs):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_unwritable_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="folder=Not a directory, expected a folder to write to"):
        RunFolder.create(tmp_path / "file", "run")


def test_recovery_keeps_finished_cases_and_removes_those_cut_short(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "run")
    folder.append(case(), PROVENANCE)
    memory = MemoryCase(case_id="m", status="ok")
    folder.append_memory(memory)
    path = folder.path / "results.jsonl"
    finished = path.read_text()
    path.write_text(finished + "\n".join(lines(case(batch=8))[:2]) + '\n{"cut')
    with (folder.path / "memory.jsonl").open("a") as file:
        file.write('{"case_id": "n", "sta')
    assert folder.recover() == ([case()], [memory])
    assert path.read_text() == finished
    folder.append(case(batch=8), PROVENANCE)
    assert len(read_results(path.read_text().splitlines()).results) == 2


@pytest.mark.parametrize("most", [10**9, 10_000])
def test_rows_of_a_case_are_one_write_and_those_that_a_disk_leaves_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    taken: list[int] = []

    class Disk(io.FileIO):
        def write(self, data: Any) -> int:
            taken.append(super().write(data[:most]))
            return taken[-1]

    folder = RunFolder.create(tmp_path, "run")
    result = case(rounds=50)
    with monkeypatch.context() as context:
        context.setattr(Path, "open", lambda path, mode, buffering: Disk(path, mode))
        folder.append(result, PROVENANCE)
    assert folder.read() == ([result], [])
    assert len(taken) == math.ceil(sum(taken) / most)
