"""What a side of a comparison is read from: a run, or a folder of runs that repeat it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.comparison import compare
from fixtures.errors import InputError
from meta_tests.runs import MACHINE, row, stored


def test_every_candidate_is_compared_with_the_first_run(tmp_path: Path) -> None:
    paths = [stored(tmp_path / str(p50), row(p50=p50)) for p50 in (10, 20, 5)]
    comparison = compare(paths)
    assert [pair.cases[0].verdict for pair in comparison.pairs] == ["slower", "faster"]
    assert {pair.baseline.path for pair in comparison.pairs} == {str(paths[0])}
    assert [pair.candidate.run_ids for pair in comparison.pairs] == [("20",), ("5",)]


def test_folder_of_runs_is_one_side_with_a_process_for_each(tmp_path: Path) -> None:
    for name, p50s in (("a", (10, 10, 10)), ("b", (11, 14, 20))):
        for index, p50 in enumerate(p50s):
            stored(tmp_path / name / str(index), row(p50=p50))
    (case,) = compare([tmp_path / "a", tmp_path / "b"]).pairs[0].cases
    assert (case.verdict, case.processes, case.assumed) == ("inconclusive", (3, 3), False)


def test_runs_of_one_side_with_another_library_are_refused(tmp_path: Path) -> None:
    stored(tmp_path / "a" / "1", row())
    stored(tmp_path / "a" / "2", row(), environment={**MACHINE, "torch": "2.12.0"})
    with pytest.raises(
        InputError, match=r"a: torch=2\.12\.0 in run 2, expected 2\.11\.0, as in run 1\. Compare them as"
    ):
        compare([tmp_path / "a", tmp_path / "a"])


def test_case_that_stands_twice_in_a_run_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a", row(), row())
    with pytest.raises(InputError, match=r"a: run a: depth_256-b1-fp16-torch=2 times, expected each case once\."):
        compare([path, path])


def test_one_run_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="runs=1, expected a baseline and at least one other"):
        compare([stored(tmp_path / "a", row())])


def test_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty: runs=0, expected the folder of a run, or one of repeated runs\."):
        compare([tmp_path / "empty", tmp_path / "empty"])
