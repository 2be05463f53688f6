"""fixtures/results/run_lock.py: a run has one writer, and the one that is refused learns which."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fixtures.errors import InputError
from fixtures.results.run_lock import only_writer, only_writer_of


def test_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    run = tmp_path / "r"
    run.mkdir()
    with only_writer(run), pytest.raises(InputError) as refused, only_writer(run):
        pass
    message = str(refused.value)
    assert message.startswith(f"--run-id r: writer=process {os.getpid()} on ")
    assert message.endswith(", expected no other writer. Wait for it to end.")
    with only_writer(run):
        assert [path.name for path in run.iterdir()] == [".lock"]
    assert list(run.iterdir()) == []


def test_output_file_of_two_runs_has_one_writer(tmp_path: Path) -> None:
    output = tmp_path / "b.json"
    (tmp_path / "link.json").symlink_to(output)
    with only_writer_of({"--benchmark-json": output, "--perf-csv": None}):
        for name in (output, tmp_path / "link.json"):
            said = f"--benchmark-json {name}: writer=process {os.getpid()} on "
            with pytest.raises(InputError, match=said), only_writer_of({"--benchmark-json": name}):
                pass
        with only_writer_of({"--benchmark-json": "/dev/null", "--perf-csv": str(tmp_path / "p.csv")}):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["link.json"]


def test_run_without_a_place_for_its_lock_is_refused(tmp_path: Path) -> None:
    said = "--run-id r: folder=No such file or directory, expected a folder to write to"
    with pytest.raises(InputError, match=said), only_writer(tmp_path / "r"):
        pass
