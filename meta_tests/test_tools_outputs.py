"""`-o` never replaces what a tool has read: a run that took hours is not lost to a slip of the hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from meta_tests.runs import ended, is_one_message, row, stored
from tools import choose_branches, compare_runs, render_report, summarize

Main = Callable[[], int]


@pytest.mark.parametrize("file", ["summary.json", "results.jsonl", "memory.jsonl", "./summary.json"])
@pytest.mark.parametrize(
    ("main", "before"),
    [(choose_branches.main, []), (compare_runs.main, ["other"]), (render_report.main, [])],
    ids=["choose", "compare", "report"],
)
def test_output_must_not_replace_files_of_the_run_it_is_made_from(
    tmp_path: Path, main: Main, before: list[str], file: str
) -> None:
    run = stored(tmp_path / "run", row())
    stored(tmp_path / "other", row())
    kept = (run / "summary.json").read_bytes()
    said = ended(main, *(tmp_path / name for name in before), run, "-o", f"{run}/{file}")
    assert said.returncode == 2
    assert is_one_message(said.stderr)
    assert f"a file other than those of {run}, which it is made from" in said.stderr
    assert (run / "summary.json").read_bytes() == kept
    assert [path.name for path in run.iterdir()] == ["summary.json"]


def test_output_must_not_replace_files_of_repeated_runs_or_a_baseline(tmp_path: Path) -> None:
    for place in ("a/0", "a/1", "b/0"):
        stored(tmp_path / place, row())
    for run in ("a/0", "a/1", "b/0"):
        said = ended(compare_runs.main, tmp_path / "a", tmp_path / "b", "-o", tmp_path / run / "summary.json")
        assert said.returncode == 2
    said = ended(render_report.main, tmp_path / "b/0", "--compare", tmp_path / "a", "-o", tmp_path / "a/1/summary.json")
    assert said.returncode == 2


def test_output_must_not_replace_a_file_that_was_named_or_linked_to(tmp_path: Path) -> None:
    file = stored(tmp_path / "run", row()) / "summary.json"
    kept = file.read_bytes()
    link = tmp_path / "link.json"
    link.symlink_to(file)
    for main, read, written in (
        (choose_branches.main, file, file),
        (choose_branches.main, link, file),
        (render_report.main, file, link),
        (summarize.main, file, file),
    ):
        assert ended(main, read, "-o", written).returncode == 2
    assert file.read_bytes() == kept


def test_output_may_lie_in_the_folder_of_its_run(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", row())
    assert ended(render_report.main, run, "-o", run / "report.html").returncode == 0
    assert ended(compare_runs.main, run, run, "-o", run / "comparison.json").returncode == 0
    assert {path.name for path in run.iterdir()} == {"summary.json", "report.html", "comparison.json"}
